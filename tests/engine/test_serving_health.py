"""The readings of a serving engine: when it is suspected or believed to be degraded, and when it hangs."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flash_contracts.gate_config import GateConfig
from flash_engine.engine_metrics import EngineCounters
from flash_engine.gate.serving_health import BUSY_FACTOR, CounterReading, Reply, ServingHealth, Window

CONFIG = GateConfig.model_validate(
    {
        "model": "m",
        "golden": {"prompt": "p"},
        "decode": {"minTokensPerSecond": 60, "prompt": "p"},
        "serving": {"windows": 3, "stallSeconds": 60, "tolerancePercent": 10},
    }
)
START = EngineCounters(
    generated=1000, running=1, drafted=500, accepted=450, finished=5, steps=600, processed=1100, first_tokens=6,
    decode_seconds=12.0, kv_cache=0.2,
)  # fmt: skip


def a_window(
    rate: float = 85.0,
    *,
    streams: int = 1,
    seconds: float = 5.0,
    busy_share: float = 1.0,
    prompt_tokens: float = 0,
    accepted_share: float = 0.9,
    **after: Any,
) -> Window:
    """`streams` requests, each decoding at `rate` for a share of the window."""
    decoding = seconds * streams * busy_share
    tokens = rate * decoding
    changes = {
        "generated": START.generated + tokens,
        "steps": (START.steps or 0) + tokens / streams / 2,
        "processed": (START.processed or 0) + tokens + prompt_tokens,
        "decode_seconds": (START.decode_seconds or 0) + decoding,
        "drafted": (START.drafted or 0) + tokens / 2,
        "accepted": (START.accepted or 0) + tokens / 2 * accepted_share,
        **after,
    }
    before = replace(START, running=streams)
    return Window(CounterReading(0.0, before), CounterReading(seconds, replace(before, **changes)))


def health_after(*windows: Window) -> ServingHealth:
    """Each window is a span as well."""
    health = ServingHealth()
    for window in windows:
        health, speed = health.after_window(window, CONFIG), window.decode_speed(CONFIG)
        health = health.after_span(speed, CONFIG) if speed else health
    return health


SLOW = a_window(40.0)
IDLE = Window(CounterReading(0.0, replace(START, running=0)), CounterReading(5.0, replace(START, running=0)))


def test_three_slow_windows_are_suspected_and_twelve_are_believed() -> None:
    assert not health_after(SLOW, SLOW).suspected(CONFIG)
    assert health_after(SLOW, SLOW, SLOW).suspected(CONFIG)
    assert not health_after(*[SLOW] * 11).believed(CONFIG)
    believed = health_after(*[SLOW] * BUSY_FACTOR * 3)
    assert believed.believed(CONFIG)
    assert "users' requests decode at 40.0 tok/s, wanted at least 54.0" in believed.message


def test_one_good_window_ends_the_suspected_state() -> None:
    assert not health_after(SLOW, SLOW, a_window(), SLOW).suspected(CONFIG)


def test_a_window_that_shows_nothing_is_not_counted() -> None:
    assert health_after(SLOW, IDLE, SLOW, a_window(prompt_tokens=5000), SLOW).suspected(CONFIG)


TELL_NOTHING = {
    "nobody is on it": IDLE,
    "it may read prompts all the time": a_window(20.0, prompt_tokens=4800),
    "its metrics do not say how long it decodes": a_window(20.0, decode_seconds=None),
    "its metrics do not say what it reads": a_window(20.0, processed=None),
    "within the tolerance of its floor": a_window(56.0),
    "four streams that are slow alone and fast together": a_window(20.0, streams=4),
}


@pytest.mark.parametrize("window", TELL_NOTHING.values(), ids=TELL_NOTHING.keys())
def test_an_engine_is_not_suspected_if(window: Window) -> None:
    assert not health_after(*[window] * 20).suspected(CONFIG)


def test_four_streams_that_are_slow_together_are_suspected() -> None:
    assert health_after(*[a_window(10.0, streams=4)] * 3).suspected(CONFIG)


def test_a_very_slow_engine_is_suspected_despite_few_tokens() -> None:
    assert health_after(*[a_window(1.0)] * 3).suspected(CONFIG)


def test_a_dead_draft_is_detected_from_several_windows() -> None:
    dead = a_window(80.0, accepted_share=0.0)
    assert health_after(dead, dead).suspected(CONFIG)
    assert "drafts for users' requests were accepted: the MTP head is dead" in health_after(dead, dead).message
    assert not health_after(a_window(80.0, accepted_share=0.0, seconds=1.0)).suspected(CONFIG), "too few to say"


def test_drafts_that_are_not_expected_may_be_dead() -> None:
    config = CONFIG.model_copy(update={"speculation": CONFIG.speculation.model_copy(update={"expected": False})})
    health = ServingHealth()
    for _ in range(20):
        health = health.after_window(a_window(80.0, accepted_share=0.0), config)
    assert not health.suspected(config)


STILL = Window(CounterReading(0.0, START), CounterReading(5.0, START))


def stalled_for(windows: int, reply: Reply | None) -> ServingHealth:
    health = health_after(*[STILL] * windows)
    return health.after_reply(reply) if reply else health


def test_an_engine_without_progress_is_asked_after_half_of_the_stall_time() -> None:
    assert not stalled_for(5, None).must_be_asked(CONFIG)
    assert stalled_for(6, None).must_be_asked(CONFIG)
    assert not stalled_for(6, Reply.NONE).must_be_asked(CONFIG), "once"


def test_requests_without_progress_are_a_hang_after_the_stall_time() -> None:
    assert not stalled_for(11, Reply.NONE).hangs(CONFIG)
    assert stalled_for(12, Reply.NONE).hangs(CONFIG)
    assert not stalled_for(12, None).hangs(CONFIG), "nothing is ended before it was asked"


def test_an_engine_that_gives_a_token_does_not_hang_whatever_its_gauges_show() -> None:
    answered = stalled_for(12, Reply.ANSWERED)
    assert (answered.hangs(CONFIG), answered.still_seconds) == (False, 0.0)


FULL = """\
vllm:num_requests_running{engine="0"} 0
vllm:num_requests_waiting{engine="0"} 4
vllm:num_requests_waiting_by_reason{engine="0",reason="capacity"} 4
vllm:num_requests_waiting_by_reason{engine="0",reason="deferred"} 0
vllm:kv_cache_usage_perc{engine="0"} 0
vllm:generation_tokens_total{engine="0"} 9000
"""


def test_requests_that_only_wait_for_capacity_are_a_stall() -> None:
    """Nothing runs, so no request will ever make room for them."""
    counters = EngineCounters.parse(FULL)
    assert (counters.running, counters.unfinished) == (0, 4), "the reasons are parts of the sum"
    health = ServingHealth()
    for second in range(0, 60, 5):
        window = Window(CounterReading(second, counters), CounterReading(second + 5, counters))
        health = health.after_window(window, CONFIG)
    assert (health.idle, health.must_be_asked(CONFIG)) == (False, True)
    assert health.after_reply(Reply.NONE).hangs(CONFIG)


def test_an_engine_that_refuses_the_question_hangs_much_later() -> None:
    """It may have a queue limit or another key, and be in the midst of long prompts."""
    assert not stalled_for(59, Reply.REFUSED).hangs(CONFIG)
    assert stalled_for(60, Reply.REFUSED).hangs(CONFIG)


MOVES = {
    "a token": {"generated": 1001.0},
    "a step": {"steps": 601.0},
    "a piece of a prompt, without a token": {"kv_cache": 0.3},
    "nobody being there": {"running": 0.0},
}


@pytest.mark.parametrize("after", MOVES.values(), ids=MOVES.keys())
def test_a_hang_is_ended_by(after: dict[str, Any]) -> None:
    moved = Window(CounterReading(0.0, START), CounterReading(5.0, replace(START, **after)))
    hung = stalled_for(12, Reply.NONE)
    ended = hung.after_window(moved, CONFIG).after_window(STILL, CONFIG)
    assert (ended.still_seconds, ended.reply) == (5.0, None)


def test_missing_counters_are_a_hang_much_later_than_a_stall() -> None:
    """A busy engine answers late, and must not be restarted for that."""
    asked = ServingHealth().after_silence(290.0).after_reply(Reply.NONE)
    assert not asked.hangs(CONFIG)
    silent = asked.after_silence(10.0)
    assert silent.hangs(CONFIG)
    assert "its counters could not be read for 300 s" in silent.hang_message
    assert not silent.after_window(IDLE, CONFIG).hangs(CONFIG)


def test_a_counter_reset_restarts_the_monitoring() -> None:
    reset = Window(CounterReading(0.0, START), CounterReading(5.0, replace(START, generated=3)))
    assert health_after(SLOW, SLOW, reset, SLOW) == health_after(SLOW)


@settings(max_examples=50)
@given(st.lists(st.floats(min_value=54.1, max_value=500), max_size=40), st.integers(min_value=1, max_value=8))
def test_an_engine_above_its_floor_is_never_suspected(rates: list[float], streams: int) -> None:
    windows = [a_window(rate, streams=streams) for rate in rates]
    assert not health_after(*windows).suspected(CONFIG)


@settings(max_examples=50)
@given(st.lists(st.floats(min_value=0.5, max_value=53.9), min_size=3, max_size=40))
def test_an_engine_below_its_floor_is_always_suspected(rates: list[float]) -> None:
    assert health_after(*[a_window(rate) for rate in rates]).suspected(CONFIG)
