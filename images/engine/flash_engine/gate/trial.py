"""Runs one trial of a healthy engine.

    golden question, twice -> a question with a long answer -> warm-up stream -> timed streams until the figures are
    clear -> one after a long prompt -> a request for each feature -> a concurrent round

Before that, the engine must answer at the pod's own address, where a Service sends users.

The counters are read while the engine is idle, before and after each timed stream. Whatever they count beyond the
gate's tokens belongs to other clients. A stream disturbed by other clients or a broken connection is repeated.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from flash_contracts.gate_config import FeatureTests, GateConfig, GoldenQuestion
from flash_contracts.trial_record import ConcurrentRound, FeatureFault, LongPrompt
from flash_engine.engine_metrics import EngineCounters, MissingMetricsError
from flash_engine.gate.answer_checks import concurrent_round_fault, golden_fault, long_answer_fault, text_fault
from flash_engine.gate.concurrent_speed import combined_rate, fastest, is_disturbed, needs_another_round
from flash_engine.gate.engine_client import THINKING_FACTOR, Answer, EngineClient
from flash_engine.gate.engine_errors import EngineRequestError, NoAnswerError
from flash_engine.gate.evidence import EngineHealth, GoldenAnswers, Trial
from flash_engine.gate.features import Feature, features_of
from flash_engine.gate.measurement import Measurement, Sample, Stream, measure, with_long_prompts
from flash_engine.gate.sprt import enough, long_prompts_are_clear, stream_is_clear

IDLE_SECONDS = 2.0
"""How long to wait for an idle engine: vLLM counts a step after sending its tokens, even after the stream's end."""

POLL_SECONDS = 0.05
WARM_UP_TOKENS = 16
"""The first request of its length includes compilation and graph capture. Users pay for that once, so it is not
timed."""

UNEQUAL_TOKENS = 16
"""How many tokens longer each of several streams is than the one before."""

TRIES = 4
"""Attempts for one request, and for one sample: connections get reset, and other clients come and go."""

RETRY_SECONDS = 0.2
STILL_SHARE = 0.25
"""The counters must stand still for at least this share of a request's time before the engine counts as hung."""

T = TypeVar("T")


class _StalledError(EngineRequestError):
    """A healthy engine left a request unanswered while it did nothing else."""


class _BusyError(EngineRequestError):
    """The engine has requests of other clients."""


@dataclass(frozen=True)
class _IdleCounters:
    """The counters of an engine that should be idle."""

    counters: EngineCounters
    is_idle: bool
    """False if the engine did not become idle in time."""


async def try_engine(client: EngineClient, config: GateConfig) -> Trial:
    """The trial's result. A failed request becomes its `doubt`, never an exception."""
    trial = Trial()
    try:
        await _retried(client, client.check_reachable)
        answers = [await _retried(client, partial(_ask_golden_question, client, config)) for _ in range(2)]
        golden = GoldenAnswers(tuple(answers))
        trial = replace(trial, golden=golden)
        if golden_fault(golden, config):
            # Timing wrong answers would be pointless.
            return trial
        trial = replace(trial, long_answers=await _long_answers(client, config))
        if long_answer_fault(trial.long_answers, config):
            return trial
        figures = await _measure(client, config)
        trial = replace(trial, measurement=figures)
        if config.long_prompt and _is_fast(figures, config):
            prompts = await _long_prompts(client, config, figures)
            trial = replace(trial, measurement=with_long_prompts(figures, prompts), long_prompts=prompts)
        if config.features and _is_fast(figures, config):
            trial = replace(trial, broken_features=await _broken_features(client, config, config.features))
        if config.decode.streams > 1 and _is_fast(trial.measurement, config):
            trial = replace(trial, concurrent_round=await _concurrent_rounds(client, config))
    except _StalledError as error:
        return replace(trial, doubt=str(error), stalled=True)
    except (EngineRequestError, MissingMetricsError) as error:
        return replace(trial, doubt=str(error))
    return trial


async def _retried(client: EngineClient, request: Callable[[], Awaitable[T]]) -> T:
    """Send a request, and repeat it if it breaks: a reset connection is no evidence against a healthy engine.

    Raises the last attempt's error. After a timeout, or once the engine is no longer healthy, it is not repeated.
    """
    for _ in range(TRIES - 1):
        try:
            return await request()
        except (NoAnswerError, _StalledError, _BusyError):
            raise
        except EngineRequestError:
            if await client.health() is EngineHealth.BAD:
                raise
            await asyncio.sleep(RETRY_SECONDS)
    return await request()


async def _ask_golden_question(
    client: EngineClient, config: GateConfig, question: GoldenQuestion | None = None, ours: int = 1
) -> str:
    """The answer to a question, by default the golden one. `ours`: how many requests of the gate are on the engine.

    Raises EngineRequestError: _StalledError if the engine hangs.
    """
    return (await _ask_question(client, config, question or config.golden, ours)).text


async def _ask_question(client: EngineClient, config: GateConfig, question: GoldenQuestion, ours: int) -> Answer:
    span = f"in {config.request_timeout_seconds:g} s"
    answer = await _or_stalled(client, client.answer(config, question), span, ours)
    if answer.is_unfinished and not text_fault(answer.text):
        raise EngineRequestError(
            "the model thinks although it was asked not to, and does not finish its answer within "
            f"{THINKING_FACTOR * question.max_tokens} tokens: set readiness.golden to a question of "
            "kind Completion"
        )
    return answer


async def _long_answers(client: EngineClient, config: GateConfig) -> tuple[str, ...]:
    """The long answers; two if the engine is deterministic. Raises EngineRequestError."""
    if config.long_answer is None:
        return ()
    request = partial(_ask_golden_question, client, config, config.long_answer)
    return tuple([await _retried(client, request) for _ in range(2 if config.deterministic else 1)])


async def _or_stalled(client: EngineClient, request: Awaitable[T], span: str, ours: int = 1) -> T:
    """Await a request. If it times out and the engine hangs, raise _StalledError.

    The counters are first read after IDLE_SECONDS, because the last tokens of an earlier answer may be counted late.
    Each later interval is twice as long. They are read repeatedly because an engine may hang in mid-answer.
    """
    asked = asyncio.ensure_future(request)
    clock = asyncio.get_running_loop().time
    began, pause = clock(), IDLE_SECONDS
    readings: list[tuple[float, EngineCounters | None]] = []
    try:
        while not (await asyncio.wait({asked}, timeout=pause))[0]:
            readings.append((clock(), await _counters(client)))
            pause *= 2
        return await asked
    except NoAnswerError as error:
        latest = clock() - STILL_SHARE * (clock() - began)
        before = [counters for at, counters in readings if at <= latest]
        if await _hangs(client, before[-1] if before else None, ours):
            raise _StalledError(
                f"{error}, and not one token {span} although /health is fine: the engine hangs"
            ) from error
        raise
    finally:
        asked.cancel()


async def _hangs(client: EngineClient, before: EngineCounters | None, ours: int) -> bool:
    return is_stalled(before, await _counters(client), await client.health(), ours)


def is_stalled(
    before: EngineCounters | None, after: EngineCounters | None, health: EngineHealth, ours: int = 1
) -> bool:
    """Whether an unanswered request is the engine's own fault, by the counters during the request and after it.

    While an engine reads a long prompt, only its KV cache grows. `ours` of the unfinished requests are the gate's. If
    there are more, other clients sent them, and the gate's may have waited for their long prompts.
    """
    if before is None or after is None or health is not EngineHealth.GOOD:
        return False
    is_unchanged = (after.generated, after.kv_cache) == (before.generated, before.kv_cache)
    return is_unchanged and max(before.unfinished, after.unfinished) <= ours


async def _counters(client: EngineClient) -> EngineCounters | None:
    try:
        return await client.counters()
    except (EngineRequestError, MissingMetricsError):
        return None


async def _measure(client: EngineClient, config: GateConfig) -> Measurement:
    """Take samples until there are enough. Raises EngineRequestError, MissingMetricsError."""
    warm_up = min(WARM_UP_TOKENS, config.decode.tokens)
    await _retried(client, partial(client.stream, config, tokens=warm_up))
    samples: list[Sample] = []
    while not enough(samples, config):
        sample = await _retried(client, partial(_sample, client, config))
        for _ in range(TRIES - 1):
            if not sample.disturbed:
                break
            sample = await _retried(client, partial(_sample, client, config))
        samples.append(sample)
        if sample.disturbed:
            # Kept, so that the verdict says how it was disturbed.
            break
    return measure(samples)


async def measure_for_user(client: EngineClient, config: GateConfig, samples: int) -> Measurement:
    """Samples of full length, on an engine that nobody else uses. Raises EngineRequestError, MissingMetricsError."""
    await _retried(client, partial(client.stream, config, tokens=min(WARM_UP_TOKENS, config.decode.tokens)))
    taken: list[Sample] = []
    while len(taken) < samples:
        taken.append(await _sample(client, config, is_cut=False))
        if taken[-1].disturbed:
            raise _BusyError("other clients used the engine meanwhile")
    return measure(taken)


async def _long_prompts(client: EngineClient, config: GateConfig, figures: Measurement) -> tuple[LongPrompt, ...]:
    """At least one. Raises EngineRequestError, MissingMetricsError."""
    prompts: list[LongPrompt] = []
    while not long_prompts_are_clear(figures, prompts, config):
        prompts.append(await _retried(client, partial(_long_prompt, client, config)))
    return tuple(prompts)


async def _long_prompt(client: EngineClient, config: GateConfig) -> LongPrompt:
    """Time one stream after a long prompt. Raises EngineRequestError, MissingMetricsError."""
    wanted = config.long_prompt.tokens if config.long_prompt else 0
    prompt = await client.long_prompt(config, wanted)
    for _ in range(TRIES):
        before, asked = await _wait_until_idle(client), asyncio.get_running_loop().time()
        try:
            sample = await _sample(client, config, prompt)
        except NoAnswerError:
            millis = 1000 * (asyncio.get_running_loop().time() - asked)
            after = await _wait_until_idle(client)
            if after.counters.unfinished or after.counters.generated != before.counters.generated:
                raise
            return LongPrompt(len(prompt), millis, None)
        if not sample.disturbed:
            stream = sample.stream
            tokens = stream.prompt_tokens or len(prompt)
            return LongPrompt(tokens, stream.first_token_millis, stream.decode_tokens_per_second, stream.text)
        # The engine has cached the last one.
        prompt = await client.long_prompt(config, wanted)
    raise _BusyError("other clients used the engine during each attempt at a long prompt")


async def _sample(
    client: EngineClient, config: GateConfig, prompt: list[int] | str | None = None, *, is_cut: bool = True
) -> Sample:
    """Time one stream on an otherwise idle engine. Raises EngineRequestError, MissingMetricsError."""
    before = await _wait_until_idle(client)
    if not before.is_idle:
        raise _BusyError(_other_clients(before.counters))
    stream = await _timed_stream(client, config, prompt, is_cut=is_cut)
    after = await _wait_until_idle(client, generated=before.counters.generated + stream.tokens)
    if after.counters.unfinished:
        raise _BusyError(_other_clients(after.counters))
    return Sample(stream, before.counters, after.counters)


async def _timed_stream(
    client: EngineClient, config: GateConfig, prompt: list[int] | str | None, *, is_cut: bool
) -> Stream:
    clear = partial(stream_is_clear, config=config) if is_cut else None
    request = client.stream(config, enough=clear, prompt=prompt)
    stream = await _or_stalled(client, request, "for half of its time")
    if stream.decode_tokens_per_second == 0:
        raise EngineRequestError("a timed answer arrived in one piece, so its speed is unknown")
    return stream


async def _broken_features(client: EngineClient, config: GateConfig, tests: FeatureTests) -> tuple[FeatureFault, ...]:
    """Test all features at once, which takes no longer than one. Raises EngineRequestError."""
    features = list(features_of(tests))
    faults = await _gather(_feature_fault(client, config, feature, len(features)) for feature in features)
    return tuple(fault for fault in faults if fault)


async def _feature_fault(client: EngineClient, config: GateConfig, feature: Feature, ours: int) -> FeatureFault | None:
    """None if the feature works or did not answer in time. Raises EngineRequestError."""

    async def ask() -> dict[str, Any]:
        request = client.chat(config, feature.body, thinking=feature.thinking)
        return await _or_stalled(client, request, f"in {config.request_timeout_seconds:g} s", ours)

    try:
        return feature.fault(await _retried(client, ask))
    except _StalledError:
        raise
    except NoAnswerError:
        return None
    except EngineRequestError as error:
        if await client.health() is EngineHealth.BAD:
            raise
        return FeatureFault(feature.reason, str(error))


def _is_fast(figures: Measurement | None, config: GateConfig) -> bool:
    return figures is not None and figures.decode_tokens_per_second >= config.floor


async def _concurrent_rounds(client: EngineClient, config: GateConfig) -> ConcurrentRound:
    """Run rounds until their speed is clear. Raises EngineRequestError."""
    rounds: list[ConcurrentRound] = []
    while not rounds or needs_another_round(rounds, config.floor):
        rounds.append(await _concurrent_round(client, config))
        if concurrent_round_fault(Trial(concurrent_round=rounds[-1]), config):
            return fastest(rounds, config.floor)
    return await _with_unequal_streams(client, config, fastest(rounds, config.floor))


async def _concurrent_round(client: EngineClient, config: GateConfig) -> ConcurrentRound:
    """Send as many requests at once as the engine is configured for. Raises EngineRequestError."""
    before, tries = await _wait_until_idle(client), [0]
    each = partial(_retried, client, partial(_stream_and_answer, client, config, tries))
    done = await _gather(each() for _ in range(config.decode.streams))
    streams, answers = [stream for stream, _ in done], [answer for _, answer in done]
    counted = (await _wait_until_idle(client)).counters.generated - before.counters.generated
    most = max(answer.most_tokens for answer in answers)
    return ConcurrentRound(
        streams=len(streams),
        texts=tuple(answer.text for answer in answers),
        tokens_per_second=combined_rate(streams),
        stream_texts=tuple(stream.text for stream in streams),
        disturbed=not before.is_idle or is_disturbed(streams, tries=tries[0], counted=counted, answer_tokens=most),
    )


async def _stream_and_answer(client: EngineClient, config: GateConfig, tries: list[int]) -> tuple[Stream, Answer]:
    """One client's part of a concurrent round. `tries` counts the requests that were begun."""
    tries[0] += 1
    ours = config.decode.streams
    stream = await _or_stalled(client, client.stream(config), "for half of its time", ours)
    return stream, await _ask_question(client, config, config.golden, ours)


async def _with_unequal_streams(client: EngineClient, config: GateConfig, round_: ConcurrentRound) -> ConcurrentRound:
    """Begin as many requests at once, each longer than the one before, so that every smaller batch is decoded too.

    Streams of one length end together, so kernels and captured graphs of smaller batches would not be tested: one
    engine hung with three requests, after one of four had ended. The last is the question with a long answer.
    Raises EngineRequestError.
    """
    ours, question = config.decode.streams, config.long_answer
    streams = ours - 1 if question else ours

    async def stream(number: int) -> str:
        request = client.stream(config, tokens=number * UNEQUAL_TOKENS)
        return (await _or_stalled(client, request, "for half of its time", ours)).text

    requests = [partial(stream, number) for number in range(1, streams + 1)]
    if question:
        requests.append(partial(_ask_golden_question, client, config, question, ours))
    texts = await _gather(_retried(client, request) for request in requests)
    await _wait_until_idle(client)
    return replace(round_, stream_texts=(*round_.stream_texts, *texts[:streams]), long_answers=tuple(texts[streams:]))


async def _gather(requests: Iterable[Awaitable[T]]) -> list[T]:
    """Wait for all requests. Raises one error, preferring that of a hang to those that it caused."""
    ended = await asyncio.gather(*requests, return_exceptions=True)
    errors = [error for error in ended if isinstance(error, BaseException)]
    for error in sorted(errors, key=lambda error: not isinstance(error, _StalledError)):
        raise error
    return [one for one in ended if not isinstance(one, BaseException)]


async def _wait_until_idle(client: EngineClient, generated: float = 0.0) -> _IdleCounters:
    """The counters once they no longer change, no requests are left, and `generated` tokens are counted.

    After IDLE_SECONDS, the counters as they are, but never before a second reading: on a busy machine the first alone
    may take that long, and shows no change. Raises EngineRequestError if they cannot be read, MissingMetricsError.
    """
    clock = asyncio.get_running_loop().time
    deadline = clock() + IDLE_SECONDS
    earlier: EngineCounters | None = None
    while True:
        counters = await _retried(client, client.counters)
        is_idle = counters == earlier and counters.unfinished == 0 and counters.generated >= generated
        if is_idle or (earlier is not None and clock() > deadline):
            return _IdleCounters(counters, is_idle)
        earlier = counters
        await asyncio.sleep(POLL_SECONDS)


def _other_clients(counters: EngineCounters) -> str:
    if counters.unfinished:
        return f"{counters.unfinished:g} requests of other clients are on the engine"
    return "the engine's counters changed although it had no request of the gate"
