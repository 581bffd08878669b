"""One trial of a healthy engine.

    golden question, twice -> a stream that nobody times -> timed streams until the figures are clear -> many at once

The counters are read while the engine is at rest, before and after each timed stream: what moves then beside our own
tokens is somebody else's. A stream that was disturbed, by others or by a connection that broke, is made again.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from flash_contracts.gate_config import GateConfig
from flash_engine.engine_metrics import EngineCounters, MissingMetricsError
from flash_engine.gate.engine_client import EngineClient, EngineRequestError, NoAnswerError
from flash_engine.gate.evidence import ConcurrentRound, GoldenAnswers, Health, Trial
from flash_engine.gate.measurement import Measurement, Sample, Stream, measure
from flash_engine.gate.sprt import enough, stream_is_clear
from flash_engine.gate.verdict import golden_fault

REST_SECONDS = 2.0
"""vLLM's front end counts a step after it has sent its tokens; the last ones may come after the stream's end."""

REST_LOOK_SECONDS = 0.05
WARM_UP_TOKENS = 16
"""The first request of its length pays for what is compiled or captured then; users meet that once, floors do not."""

TRIES = 4
"""Of one request, and of one sample: a connection may be reset, and others may come and go."""

AGAIN_SECONDS = 0.2

T = TypeVar("T")


class _StalledError(EngineRequestError):
    """A request that a healthy engine left unanswered while it did nothing else."""


class _BusyError(EngineRequestError):
    """Others' requests are on the engine."""


@dataclass(frozen=True)
class _IdleCounters:
    counters: EngineCounters
    reached: bool


async def try_engine(client: EngineClient, config: GateConfig) -> Trial:
    """What the engine did. A request that failed is a doubt in the result, never an exception."""
    trial = Trial()
    try:
        answers = [await _steadily(client, partial(_ask, client, config)) for _ in range(2)]
        golden = GoldenAnswers(tuple(answers))
        trial = replace(trial, golden=golden)
        if golden_fault(golden, config):
            # Timing wrong answers would only take time.
            return trial
        trial = replace(trial, measurement=await _measured(client, config))
        if config.decode.streams > 1 and _is_fast(trial.measurement, config):
            trial = replace(trial, concurrent_round=await _crowd(client, config))
    except _StalledError as error:
        return replace(trial, doubt=str(error), stalled=True)
    except (EngineRequestError, MissingMetricsError) as error:
        return replace(trial, doubt=str(error))
    return trial


async def _steadily(client: EngineClient, request: Callable[[], Awaitable[T]]) -> T:
    """A request, made again where it broke: a connection that was reset says nothing of an engine that is well.

    Raises what the last one raised, at once where the engine is not well any more or its time ran out.
    """
    for _ in range(TRIES - 1):
        try:
            return await request()
        except (NoAnswerError, _StalledError, _BusyError):
            raise
        except EngineRequestError:
            if await client.health() is Health.BAD:
                raise
            await asyncio.sleep(AGAIN_SECONDS)
    return await request()


async def _ask(client: EngineClient, config: GateConfig) -> str:
    """The answer to the golden question. Raises EngineRequestError, and as _StalledError where the engine hangs."""
    return await _or_stalled(client, client.answer(config), f"in {config.request_timeout_seconds:g} s")


async def _or_stalled(client: EngineClient, request: Awaitable[T], span: str) -> T:
    """A request, and where its time runs out the question whether the engine hangs: then _StalledError.

    The counters are read once it takes long, for the last tokens of an earlier answer may be counted late.
    """
    asked = asyncio.ensure_future(request)
    before: EngineCounters | None = None
    try:
        done, _ = await asyncio.wait({asked}, timeout=REST_SECONDS)
        before = None if done else await _counters(client)
        return await asked
    except NoAnswerError as error:
        if await _hangs(client, before):
            raise _StalledError(
                f"{error}, and not one token {span}, though /health is fine: the engine hangs"
            ) from error
        raise
    finally:
        asked.cancel()


async def _hangs(client: EngineClient, before: EngineCounters | None) -> bool:
    return is_stalled(before, await _counters(client), await client.health())


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


async def _measured(client: EngineClient, config: GateConfig) -> Measurement:
    """Samples until they are enough. Raises EngineRequestError, MissingMetricsError."""
    warm_up = min(WARM_UP_TOKENS, config.decode.tokens)
    await _steadily(client, partial(client.stream, config, tokens=warm_up))
    samples: list[Sample] = []
    while not enough(samples, config):
        sample = await _steadily(client, partial(_sample, client, config))
        for _ in range(TRIES - 1):
            if not sample.disturbed:
                break
            sample = await _steadily(client, partial(_sample, client, config))
        samples.append(sample)
        if sample.disturbed:
            # It is kept, so that the judge sees in which way, and can say nothing else.
            break
    return measure(samples)


async def _sample(client: EngineClient, config: GateConfig) -> Sample:
    """One timed stream of an engine that has nothing else to do. Raises EngineRequestError, MissingMetricsError."""
    before = await _rest(client)
    if not before.reached:
        raise _BusyError(_others(before.counters))
    stream = await _timed(client, config)
    after = await _rest(client, generated=before.counters.generated + stream.tokens)
    if after.counters.unfinished:
        raise _BusyError(_others(after.counters))
    return Sample(stream, before.counters, after.counters)


async def _timed(client: EngineClient, config: GateConfig) -> Stream:
    request = client.stream(config, enough=partial(stream_is_clear, config=config))
    stream = await _or_stalled(client, request, "for half of its time")
    if stream.decode_tokens_per_second == 0:
        raise EngineRequestError("a timed answer came in one piece, which has no speed")
    return stream


def _is_fast(figures: Measurement | None, config: GateConfig) -> bool:
    return figures is not None and figures.decode_tokens_per_second >= config.floor


async def _crowd(client: EngineClient, config: GateConfig) -> ConcurrentRound:
    """As many requests at once as the engine is made for. Raises EngineRequestError."""
    each = partial(_steadily, client, partial(_one_of_many, client, config))
    ended = await asyncio.gather(*(each() for _ in range(config.decode.streams)), return_exceptions=True)
    for error in ended:
        if isinstance(error, BaseException):
            raise error
    done = [one for one in ended if not isinstance(one, BaseException)]
    streams, texts = [stream for stream, _ in done], [text for _, text in done]
    seconds = max(stream.last for stream in streams) - min(stream.first for stream in streams)
    await _rest(client)
    tokens = sum(stream.tokens for stream in streams)
    return ConcurrentRound(
        streams=len(streams), texts=tuple(texts), tokens_per_second=tokens / seconds if seconds else 0.0
    )


async def _one_of_many(client: EngineClient, config: GateConfig) -> tuple[Stream, str]:
    return await client.stream(config), await client.answer(config)


async def _rest(client: EngineClient, generated: float = 0.0) -> _IdleCounters:
    """The counters once they stand still, no request is left, and all our tokens are in; or as they are in the end.

    Raises EngineRequestError where they could not be read all the time, MissingMetricsError.
    """
    clock = asyncio.get_running_loop().time
    deadline = clock() + REST_SECONDS
    earlier: EngineCounters | None = None
    while True:
        counters = await _steadily(client, client.counters)
        reached = counters == earlier and counters.unfinished == 0 and counters.generated >= generated
        if reached or clock() > deadline:
            return _IdleCounters(counters, reached)
        earlier = counters
        await asyncio.sleep(REST_LOOK_SECONDS)


def _others(counters: EngineCounters) -> str:
    if counters.unfinished:
        return f"{counters.unfinished:g} requests of others are on the engine"
    return "the engine's counters moved while nothing of ours was on it"
