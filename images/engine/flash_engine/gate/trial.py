"""One trial of a healthy engine.

    golden question, twice -> a short stream that nobody times -> counters -> the timed streams -> counters

The counters are read while the engine is at rest: what moves then beside our own tokens is somebody else's.
"""

import asyncio
import time
from dataclasses import dataclass

from flash_engine.gate.config import GateConfig
from flash_engine.gate.engine_client import EngineClient, EngineRequestError
from flash_engine.gate.engine_metrics import EngineCounters, MissingMetricsError
from flash_engine.gate.evidence import GoldenAnswers, Trial
from flash_engine.gate.measurement import measure
from flash_engine.gate.verdict import golden_fault

REST_SECONDS = 2.0
"""vLLM's front end counts a step after it has sent its tokens; the last ones may come after the stream's end."""

REST_LOOK_SECONDS = 0.05
WARM_UP_TOKENS = 16
"""The first request of its length pays for what is compiled or captured then; users meet that once, floors do not."""


@dataclass(frozen=True)
class _Rest:
    counters: EngineCounters
    reached: bool


async def try_engine(client: EngineClient, config: GateConfig) -> Trial:
    """What the engine did. A request that failed is a doubt in the result, never an exception."""
    golden: GoldenAnswers | None = None
    try:
        golden = GoldenAnswers(tuple([await client.answer(config) for _ in range(2)]))
        if golden_fault(golden, config):
            # Timing wrong answers would only take time.
            return Trial(golden=golden)
        return await _timed(client, config, golden)
    except (EngineRequestError, MissingMetricsError) as error:
        return Trial(golden=golden, doubt=str(error))


async def _timed(client: EngineClient, config: GateConfig, golden: GoldenAnswers) -> Trial:
    await client.stream(config, tokens=min(WARM_UP_TOKENS, config.decode.tokens))
    before = await _rest(client)
    if not before.reached:
        return Trial(golden=golden, doubt=_others(before.counters))
    streams = [await client.stream(config) for _ in range(config.decode.samples)]
    wanted = before.counters.generated + sum(stream.tokens for stream in streams)
    after = await _rest(client, generated=wanted)
    if after.counters.unfinished:
        return Trial(golden=golden, doubt=_others(after.counters))
    if any(stream.decode_tokens_per_second == 0 for stream in streams):
        return Trial(golden=golden, doubt="a timed answer came in one piece, which has no speed")
    return Trial(golden=golden, measurement=measure(streams, before.counters, after.counters))


async def _rest(client: EngineClient, generated: float = 0.0) -> _Rest:
    """The counters once they stand still, no request is left, and all our tokens are in; or as they are in the end."""
    deadline = time.monotonic() + REST_SECONDS
    earlier: EngineCounters | None = None
    while True:
        counters = await client.counters()
        reached = counters == earlier and counters.unfinished == 0 and counters.generated >= generated
        if reached or time.monotonic() > deadline:
            return _Rest(counters, reached)
        earlier = counters
        await asyncio.sleep(REST_LOOK_SECONDS)


def _others(counters: EngineCounters) -> str:
    if counters.unfinished:
        return f"{counters.unfinished:g} requests of others are on the engine"
    return "the engine's counters moved while nothing of ours was on it"
