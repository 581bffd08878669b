"""The decode speed that users got, between two readings of an engine's counters: what prompts can have slowed."""

from bisect import bisect_left
from dataclasses import replace
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine_stub.counters import BOUNDS
from flash_contracts.gate_config import GateConfig
from flash_engine.engine_metrics import EngineCounters
from flash_engine.gate.decode_speed import STEP_TOKENS, DecodeSpeed, decode_speed, step_tokens
from flash_engine.gate.serving_health import ServingHealth
from flash_engine.gate.serving_monitor import CountersObserved, ServingMonitor

CONFIG = GateConfig.model_validate(
    {"model": "m", "golden": {"prompt": "p"}, "decode": {"minTokensPerSecond": 60, "prompt": "p"}}
)
LEAST = 54.0
TOKENS_OF_A_STEP = 1.92
PREFILL = 4000.0
"""Tokens of prompts in a second."""


def counters(
    intervals: list[float], *, prompts: int = 0, prompt_tokens: int = 0, running: float = 1, **fields: float
) -> EngineCounters:
    """After these times between tokens, and prompts of so many tokens in all."""
    buckets = [0] * len(BOUNDS)
    for seconds in intervals:
        buckets[bisect_left(BOUNDS, seconds)] += 1
    generated = prompts + TOKENS_OF_A_STEP * len(intervals)
    return EngineCounters(
        generated=generated, running=running, drafted=None, accepted=None, finished=fields.pop("finished", prompts),
        steps=len(intervals) + prompts, processed=generated + prompt_tokens, first_tokens=prompts,
        decode_seconds=sum(intervals), kv_cache=sum(intervals) % 1,
        latencies=tuple((bound, float(sum(buckets[: at + 1]))) for at, bound in enumerate(BOUNDS)),
    )  # fmt: skip


NOTHING = counters([])


def speed_of(after: EngineCounters, streams: float = 1.0, piece: int = STEP_TOKENS) -> DecodeSpeed:
    speed = decode_speed(NOTHING, after, streams=streams, config=CONFIG, piece=piece)
    assert speed is not None
    return speed


def test_without_prompts_the_speed_is_known_exactly() -> None:
    speed = speed_of(counters([0.040] * 100))
    assert speed.least == pytest.approx(48.0)
    assert speed.most == pytest.approx(48.0)
    assert speed.undisturbed_seconds == pytest.approx(4.0)


def test_without_a_prompt_the_bounds_do_not_depend_on_the_histograms_buckets() -> None:
    """One of them is from 25 to 50 ms, which is 77 down to 38 tok/s."""
    assert speed_of(counters([0.034] * 50)).most == pytest.approx(56.5, abs=0.1)


def test_a_healthy_engine_is_never_slow_for_certain_however_long_its_prompts_take() -> None:
    lengthened = [0.5] * 6
    speed = speed_of(counters([0.0226] * 100 + lengthened, prompts=3, prompt_tokens=3 * 4000), streams=2)
    assert speed.least < LEAST * 2, "the prompts took more than half of the time"
    assert speed.most >= 2 * TOKENS_OF_A_STEP / 0.0226


SLOW_BY_PROMPT = {12: 0.0, 400: 0.1, 4000: 1.0}


@pytest.mark.parametrize("prompt_tokens", SLOW_BY_PROMPT)
def test_a_slow_engine_is_slow_for_certain_with_prompts_of(prompt_tokens: int) -> None:
    """Two streams, and one prompt each five seconds: 84 ms a step are 46 tok/s together."""
    steps = 2 * round((5 - SLOW_BY_PROMPT[prompt_tokens]) / 0.084)
    pieces = -(-prompt_tokens // STEP_TOKENS)
    lengthened = [0.084 + SLOW_BY_PROMPT[prompt_tokens] / pieces] * pieces
    after = counters([0.084] * steps + lengthened, prompts=1, prompt_tokens=prompt_tokens, running=2)
    assert speed_of(after, streams=2).most < LEAST


def test_a_crawling_engine_is_slow_for_certain_although_half_of_its_steps_read_prompts() -> None:
    """Two tokens a second together, with a prompt of 4,000 tokens each five seconds."""
    after = counters([1.0] * 10, prompts=1, prompt_tokens=4000, running=2)
    assert speed_of(after, streams=2).most < LEAST


def test_nothing_is_known_where_prompts_may_have_lengthened_every_step() -> None:
    after = counters([0.3] * 40, prompts=2, prompt_tokens=100_000)
    assert decode_speed(NOTHING, after, streams=1, config=CONFIG) is None


def test_smaller_steps_read_a_prompt_in_more_of_them() -> None:
    after = counters([0.0226] * 60 + [0.2] * 20, prompts=1, prompt_tokens=8192)
    assert speed_of(after).most < speed_of(after, piece=512).most


def test_short_answers_do_not_make_a_healthy_engine_slow() -> None:
    """A classifier's answer ends after two tokens, although its last step could have had two more."""
    answers = 50
    after = replace(counters([0.0226] * answers, prompts=answers, running=1), generated=2.0 * answers)
    without_prompts = replace(after, first_tokens=0.0, processed=after.generated, generated=1.0 * answers)
    assert speed_of(without_prompts).most >= LEAST


LACKS = {
    "the time between tokens": {"decode_seconds": None},
    "the first tokens": {"first_tokens": None},
    "the tokens of prompts": {"processed": None},
}


@pytest.mark.parametrize("lacking", LACKS.values(), ids=LACKS.keys())
def test_nothing_is_known_of_an_engine_that_does_not_export(lacking: dict[str, None]) -> None:
    assert decode_speed(NOTHING, replace(counters([0.1] * 50), **lacking), streams=1, config=CONFIG) is None  # type: ignore[arg-type]


def test_without_buckets_short_prompts_are_taken_off_by_their_time() -> None:
    """As of an exporter that has the sums only: 960 tok/s are believed, sixteen times the floor."""
    slow = replace(counters([0.33] * 30, prompts=1, prompt_tokens=400), latencies=None)
    assert speed_of(slow, streams=2).most < LEAST
    long = replace(counters([0.33] * 30, prompts=1, prompt_tokens=8000), latencies=None)
    assert decode_speed(NOTHING, long, streams=2, config=CONFIG) is None


def test_a_histogram_with_other_buckets_than_before_is_not_used() -> None:
    other = replace(counters([0.04] * 50), latencies=((0.1, 50.0), (inf, 50.0)))
    assert speed_of(other).most == pytest.approx(48.0)


@settings(max_examples=50)
@given(
    st.lists(st.floats(0.005, 0.0355), min_size=20, max_size=200),
    st.lists(st.tuples(st.integers(1, 30_000), st.integers(1, 4)), max_size=6),
)
def test_an_engine_above_its_floor_is_never_slow_for_certain(
    steps: list[float], prompts: list[tuple[int, int]]
) -> None:
    """Whatever prompts it reads, each in as many steps as needed, for all streams: other steps stay as they are."""
    streams = max((beside for _, beside in prompts), default=1)
    lengthened = [1.0] * sum(beside * -(-tokens // STEP_TOKENS) for tokens, beside in prompts)
    total = sum(tokens for tokens, _ in prompts)
    after = counters(steps + lengthened, prompts=len(prompts), prompt_tokens=total, running=streams)
    speed = decode_speed(NOTHING, after, streams=streams, config=CONFIG)
    assert speed is None or speed.most >= LEAST * 0.999


COMMANDS: dict[str, tuple[tuple[str, ...], int]] = {
    "none": ((), STEP_TOKENS),
    "without the option": (("vllm", "serve", "/model"), STEP_TOKENS),
    "in two words": (("vllm", "serve", "--max-num-batched-tokens", "8192"), 8192),
    "in one word": (("vllm", "serve", "--max-num-batched-tokens=512", "-tp", "2"), 512),
    "with underscores": (("vllm", "serve", "--max_num_batched_tokens=512"), 512),
    "twice, the last of which counts": (("--max-num-batched-tokens", "1", "--max-num-batched-tokens", "4096"), 4096),
    "without a value": (("vllm", "serve", "--max-num-batched-tokens"), STEP_TOKENS),
    "with no number": (("vllm", "serve", "--max-num-batched-tokens", "8k"), STEP_TOKENS),
    "with zero": (("vllm", "serve", "--max-num-batched-tokens", "0"), STEP_TOKENS),
}


@pytest.mark.parametrize(("command", "tokens"), COMMANDS.values(), ids=COMMANDS.keys())
def test_the_tokens_of_a_step_by_the_command_line(command: tuple[str, ...], tokens: int) -> None:
    assert step_tokens(command) == tokens


def health_after_chat(
    step_seconds: float, prompt_tokens: int, *, minutes: float = 10, pause: float = 5.0
) -> ServingHealth:
    """One user, who sends a prompt and reads an answer of 20 steps every `pause` seconds; looks are 5 s apart."""
    monitor, intervals, prompts = ServingMonitor(), [0.0] * 0, 0
    for look in range(1, round(minutes * 12) + 1):
        while prompts * pause <= 5.0 * look:
            prompts, intervals = prompts + 1, intervals + [step_seconds] * 20
        read = counters(intervals, prompts=prompts, prompt_tokens=prompts * prompt_tokens, running=0)
        monitor = monitor.after(CountersObserved(5.0 * look, read), CONFIG)
    return monitor.health


@pytest.mark.parametrize("prompt_tokens", [12, 400, 4000])
def test_a_replica_with_chat_traffic_is_suspected_only_if_it_is_slow(prompt_tokens: int) -> None:
    assert health_after_chat(0.09, prompt_tokens).suspected(CONFIG)
    assert not health_after_chat(0.0226, prompt_tokens).suspected(CONFIG)


def test_rare_short_answers_are_judged_together() -> None:
    """Each of them is too short to judge by, and comes a minute after the one before."""
    assert health_after_chat(0.06, 400, minutes=30, pause=60.0).suspected(CONFIG)


def test_nothing_is_judged_while_a_prompt_is_being_read() -> None:
    """Its tokens are counted when it has been read, and its steps are in the histogram before that."""
    busy = counters([0.5] * 40, prompts=2, running=3, finished=0)
    monitor = ServingMonitor().after(CountersObserved(0.0, counters([], running=2)), CONFIG)
    monitor = monitor.after(CountersObserved(20.0, busy), CONFIG)
    assert monitor.health.decode_tokens_per_second is None

    done = counters([0.5] * 40 + [0.02] * 150, prompts=3, prompt_tokens=60_000, running=3, finished=0)
    monitor = monitor.after(CountersObserved(25.0, done), CONFIG)
    assert monitor.health.bad == 0


def test_a_replica_is_judged_although_a_prompt_is_being_read_at_each_look() -> None:
    """Each look waits for the prompts that it saw. 84 ms a step are 46 tok/s of two streams."""
    monitor, intervals = ServingMonitor(), [0.0] * 0
    for look in range(1, 61):
        intervals = intervals + [0.084] * 100
        read = counters(intervals, prompts=look, prompt_tokens=400 * look, running=3, finished=look - 2)
        monitor = monitor.after(CountersObserved(5.0 * look, read), CONFIG)
    assert monitor.health.bad == 0, "three streams, of which one is never more than a prompt, are fast enough"

    for look in range(61, 121):
        intervals = intervals + [0.25] * 40
        read = counters(intervals, prompts=look, prompt_tokens=400 * look, running=3, finished=look - 2)
        monitor = monitor.after(CountersObserved(5.0 * look, read), CONFIG)
    assert monitor.health.believed(CONFIG)


def test_requests_that_were_read_again_show_nothing() -> None:
    """The KV cache was full: a preempted request's prompt is read again, and is counted as no prompt."""
    before = replace(counters([]), preemptions=0.0)
    after = replace(counters([0.5] * 40), preemptions=1.0)
    monitor = ServingMonitor().after(CountersObserved(0.0, before), CONFIG)
    assert monitor.after(CountersObserved(20.0, after), CONFIG).health.bad == 0
