"""One trial of a healthy engine.

    golden question, twice -> a short stream that nobody times -> counters -> the timed streams -> counters

The counters are read while the engine is at rest: what moves then beside our own tokens is somebody else's.
"""

import asyncio
import time
from dataclasses import dataclass

from flash_engine.gate.config import GateConfig
from flash_engine.gate.engine_client import EngineClient, EngineRequestError, NoAnswerError
from flash_engine.gate.engine_metrics import EngineCounters, MissingMetricsError
from flash_engine.gate.evidence import GoldenAnswers, Health, Trial
from flash_engine.gate.measurement import measure
from flash_engine.gate.verdict import golden_fault

REST_SECONDS = 2.0
"""vLLM's front end counts a step after it has sent its tokens; the last ones may come after the stream's end."""

REST_LOOK_SECONDS = 0.05
WARM_UP_TOKENS = 16
"""The first request of its length pays for what is compiled or captured then; users meet that once, floors do not."""


class _StalledError(EngineRequestError):
    """A question that a healthy engine left unanswered while it did nothing else."""


@dataclass(frozen=True)
class _Rest:
    counters: EngineCounters
    reached: bool


async def try_engine(client: EngineClient, config: GateConfig) -> Trial:
    """What the engine did. A request that failed is a doubt in the result, never an exception."""
    golden: GoldenAnswers | None = None
    try:
        golden = GoldenAnswers(tuple([await _ask(client, config) for _ in range(2)]))
        if golden_fault(golden, config):
            # Timing wrong answers would only take time.
            return Trial(golden=golden)
        return await _timed(client, config, golden)
    except _StalledError as error:
        return Trial(doubt=str(error), stalled=True)
    except (EngineRequestError, MissingMetricsError) as error:
        return Trial(golden=golden, doubt=str(error))


async def _ask(client: EngineClient, config: GateConfig) -> str:
    """The answer to the golden question. Raises EngineRequestError, and as _StalledError where the engine hangs.

    The counters are read once it takes long, for the last tokens of an earlier answer may be counted late.
    """
    asked = asyncio.create_task(client.answer(config))
    try:
        done, _ = await asyncio.wait({asked}, timeout=REST_SECONDS)
        before = None if done else await _counters(client)
        return await asked
    except NoAnswerError as error:
        if is_stalled(before, await _counters(client), await client.health()):
            told = (
                f"and not one token in {config.request_timeout_seconds:g} s, though /health is fine: the engine hangs"
            )
            raise _StalledError(f"{error}, {told}") from error
        raise
    finally:
        asked.cancel()


def is_stalled(before: EngineCounters | None, after: EngineCounters | None, health: Health) -> bool:
    """Whether an unanswered question is the engine's own fault, by its counters during that question and after it.

    One unfinished request is ours; more are others', whose long prompts may be what it waited for.
    """
    if before is None or after is None or health is not Health.GOOD:
        return False
    return after.generated == before.generated and max(before.unfinished, after.unfinished) <= 1


async def _counters(client: EngineClient) -> EngineCounters | None:
    try:
        return await client.counters()
    except (EngineRequestError, MissingMetricsError):
        return None


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
