"""One trial of a healthy engine: the golden question twice, then timed completions between two looks at counters."""

import asyncio
import time

from flash_engine.gate.config import GateConfig
from flash_engine.gate.engine_client import EngineClient, EngineRequestError
from flash_engine.gate.engine_metrics import EngineCounters, MissingMetricsError
from flash_engine.gate.evidence import GoldenAnswers, Trial
from flash_engine.gate.measurement import measure
from flash_engine.gate.verdict import golden_fault

COUNTERS_SETTLE_SECONDS = 2.0
"""vLLM's front end counts a step after it has sent its tokens; the last ones may come after the stream's end."""


async def try_engine(client: EngineClient, config: GateConfig) -> Trial:
    """What the engine did. A request that failed is a doubt in the result, never an exception."""
    golden: GoldenAnswers | None = None
    try:
        golden = GoldenAnswers(tuple([await client.answer(config) for _ in range(2)]))
        if golden_fault(golden, config):
            # Timing wrong answers would only take time.
            return Trial(golden=golden)
        before = await client.counters()
        streams = [await client.stream(config) for _ in range(config.decode.samples)]
        wanted = before.generated + sum(stream.tokens for stream in streams)
        after = await _settled(client, wanted)
        return Trial(golden=golden, measurement=measure(streams, before, after))
    except (EngineRequestError, MissingMetricsError) as error:
        return Trial(golden=golden, doubt=str(error))


async def _settled(client: EngineClient, wanted: float) -> EngineCounters:
    """The counters once they contain all our tokens, or as they are when that takes too long."""
    deadline = time.monotonic() + COUNTERS_SETTLE_SECONDS
    while True:
        counters = await client.counters()
        if counters.generated >= wanted or time.monotonic() > deadline:
            return counters
        await asyncio.sleep(0.05)
