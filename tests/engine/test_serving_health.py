"""What windows of an engine that serves add up to: a suspicion, a belief, a hang, and what none of them says."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flash_contracts.gate_config import GateConfig
from flash_engine.engine_metrics import EngineCounters
from flash_engine.gate.serving_health import BUSY_FACTOR, Look, ServingHealth, Window

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
    **after: float | None,
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
    return Window(Look(0.0, before), Look(seconds, replace(before, **changes)))  # type: ignore[arg-type]


def standing_after(*windows: Window, reading: bool = False) -> ServingHealth:
    standing = ServingHealth()
    for window in windows:
        standing = standing.after_window(window, CONFIG, reading=reading)
    return standing


SLOW = a_window(40.0)
IDLE = Window(Look(0.0, replace(START, running=0)), Look(5.0, replace(START, running=0)))


def test_three_slow_windows_are_a_suspicion_and_twelve_are_believed() -> None:
    assert not standing_after(SLOW, SLOW).suspected(CONFIG)
    assert standing_after(SLOW, SLOW, SLOW).suspected(CONFIG)
    assert not standing_after(*[SLOW] * 11).believed(CONFIG)
    believed = standing_after(*[SLOW] * BUSY_FACTOR * 3)
    assert believed.believed(CONFIG)
    assert "traffic decodes at 40.0 tok/s, wanted at least 54.0" in believed.told


def test_one_good_window_takes_a_suspicion_back() -> None:
    assert not standing_after(SLOW, SLOW, a_window(), SLOW).suspected(CONFIG)


def test_a_window_that_tells_nothing_neither_accuses_nor_acquits() -> None:
    assert standing_after(SLOW, IDLE, SLOW, a_window(prompt_tokens=5000), SLOW).suspected(CONFIG)


TELL_NOTHING = {
    "nobody is on it": IDLE,
    "it reads prompts as well": a_window(20.0, prompt_tokens=2000),
    "it decodes for a moment only": a_window(20.0, busy_share=0.2),
    "its metrics do not say how long it decodes": a_window(20.0, decode_seconds=None),
    "its metrics do not say what it reads": a_window(20.0, processed=None),
    "within the tolerance of its floor": a_window(56.0),
    "four streams that are slow alone and fast together": a_window(20.0, streams=4),
}


@pytest.mark.parametrize("window", TELL_NOTHING.values(), ids=TELL_NOTHING.keys())
def test_an_engine_is_not_accused_where(window: Window) -> None:
    assert not standing_after(*[window] * 20).suspected(CONFIG)


def test_a_request_that_is_still_at_its_prompt_excuses_the_others() -> None:
    assert not standing_after(*[SLOW] * 20, reading=True).suspected(CONFIG)


def test_four_streams_that_are_slow_together_are_accused() -> None:
    assert standing_after(*[a_window(10.0, streams=4)] * 3).suspected(CONFIG)


def test_a_very_slow_engine_is_accused_though_few_tokens_come() -> None:
    assert standing_after(*[a_window(1.0)] * 3).suspected(CONFIG)


def test_a_dead_draft_is_told_by_the_drafts_of_several_windows() -> None:
    dead = a_window(80.0, accepted_share=0.0)
    assert standing_after(dead, dead).suspected(CONFIG)
    assert "drafts of traffic were accepted: the MTP head is dead" in standing_after(dead, dead).told
    assert not standing_after(a_window(80.0, accepted_share=0.0, seconds=1.0)).suspected(CONFIG), "too few to say"


def test_drafts_that_nobody_wants_may_be_dead() -> None:
    config = CONFIG.model_copy(update={"speculation": CONFIG.speculation.model_copy(update={"expected": False})})
    standing = ServingHealth()
    for _ in range(20):
        standing = standing.after_window(a_window(80.0, accepted_share=0.0), config)
    assert not standing.suspected(config)


STILL = Window(Look(0.0, START), Look(5.0, START))


def test_requests_without_a_step_are_a_hang_after_their_time() -> None:
    assert not standing_after(*[STILL] * 11).hangs(CONFIG)
    assert standing_after(*[STILL] * 12).hangs(CONFIG)


MOVES = {
    "a token": {"generated": 1001.0},
    "a step": {"steps": 601.0},
    "a piece of a prompt, without a token": {"kv_cache": 0.3},
    "nobody being there": {"running": 0.0},
}


@pytest.mark.parametrize("after", MOVES.values(), ids=MOVES.keys())
def test_a_hang_is_ended_by(after: dict[str, float]) -> None:
    moved = Window(Look(0.0, START), Look(5.0, replace(START, **after)))
    assert not standing_after(*[STILL] * 11, moved, STILL).hangs(CONFIG)


def test_silence_counts_as_a_hang_much_later_than_a_stall_that_is_seen() -> None:
    """A busy engine answers late, and must not be started anew for that."""
    assert not ServingHealth().after_silence(290.0).hangs(CONFIG)
    silent = ServingHealth().after_silence(290.0).after_silence(10.0)
    assert silent.hangs(CONFIG)
    assert "not told its counters for 300 s" in silent.hang_told
    assert not silent.after_window(IDLE, CONFIG).hangs(CONFIG)


def test_counters_that_begin_again_begin_the_watch_again() -> None:
    reset = Window(Look(0.0, START), Look(5.0, replace(START, generated=3)))
    assert standing_after(SLOW, SLOW, reset, SLOW) == standing_after(SLOW)


@given(st.lists(st.floats(min_value=54.1, max_value=500), max_size=40), st.integers(min_value=1, max_value=8))
def test_an_engine_above_its_floor_is_never_accused(rates: list[float], streams: int) -> None:
    windows = [a_window(rate, streams=streams) for rate in rates]
    assert not standing_after(*windows).suspected(CONFIG)


@given(st.lists(st.floats(min_value=0.5, max_value=53.9), min_size=3, max_size=40))
def test_an_engine_below_it_always_is(rates: list[float]) -> None:
    assert standing_after(*[a_window(rate) for rate in rates]).suspected(CONFIG)
