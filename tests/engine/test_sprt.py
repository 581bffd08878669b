"""The sequential test: its error rates are as stated for any engine, and it stops when it should."""

from collections.abc import Iterator
from math import comb
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flash_contracts.gate_config import GateConfig, LongPromptTest
from flash_contracts.trial_record import LongPrompt
from flash_engine.engine_metrics import EngineCounters
from flash_engine.gate.measurement import Arrival, Measurement, Sample, Stream, with_long_prompts
from flash_engine.gate.sprt import (
    FEW,
    LEAD,
    MOST,
    Side,
    enough,
    error_rate,
    interval,
    long_prompts_are_clear,
    misses_at_depth,
    stream_is_clear,
    walk,
)

FLOOR = 60.0
CONFIG = GateConfig.model_validate(
    {
        "model": "m",
        "golden": {"prompt": "p"},
        "decode": {"minTokensPerSecond": FLOOR, "prompt": "p"},
        "maxFirstTokenMillis": 500,
    }
)


DEPTH = CONFIG.model_copy(update={"long_prompt": LongPromptTest(tokens=1000, min_prefill_tokens_per_second=500)})
FIGURES = Measurement(85.0, 100.0, 128, None, None, 1500, 128, foreign_tokens=0, foreign_requests=0)


def prompts(*figures: tuple[float, float | None]) -> list[LongPrompt]:
    """By prefill and decode speed."""
    return [LongPrompt(1000, 1e6 / prefill, decode) for prefill, decode in figures]


TIMELY, CRAWLING, LATE = (2000.0, 80.0), (2000.0, 20.0), (100.0, 80.0)
LONG_PROMPTS: dict[str, tuple[list[LongPrompt], bool]] = {
    "none yet": ([], False),
    "a good one": (prompts(TIMELY), True),
    "a slow one": (prompts(CRAWLING), False),
    "one that is read late": (prompts(LATE), False),
    "two slow ones": (prompts(CRAWLING, LATE), True),
    "one that paid for its compilation": (prompts(LATE, TIMELY), False),
    "all there are": (prompts(LATE, TIMELY, TIMELY), True),
    "no first token in time, twice": (prompts((50.0, None), (50.0, None)), True),
}


@pytest.mark.parametrize(("timed", "clear"), LONG_PROMPTS.values(), ids=LONG_PROMPTS.keys())
def test_long_prompts_are_sent_until_they_are_clear(timed: list[LongPrompt], *, clear: bool) -> None:
    assert long_prompts_are_clear(FIGURES, timed, DEPTH) is clear


def test_one_long_prompt_that_compiles_does_not_decide() -> None:
    figures = with_long_prompts(FIGURES, prompts(LATE, TIMELY, TIMELY))
    assert figures.prefill_tokens_per_second == pytest.approx(2000)
    assert not misses_at_depth(figures, DEPTH)


def chance_of_the_top(share: float, steps: int = 2000) -> float:
    """By dynamic programming over the walk's positions: neither a formula nor a simulation."""
    places = {0: 1.0}
    top = 0.0
    for _ in range(steps):
        after: dict[int, float] = {}
        for place, chance in places.items():
            for step, part in ((1, share), (-1, 1 - share)):
                if abs(place + step) < LEAD:
                    after[place + step] = after.get(place + step, 0.0) + chance * part
                elif place + step == LEAD:
                    top += chance * part
        places = after
    return top


@pytest.mark.parametrize("share", [0.05, 0.1, FEW, 0.4, 0.5, 0.6, MOST, 0.9])
def test_the_formula_of_the_error_rate_is_that_of_the_walk(share: float) -> None:
    assert error_rate(share) == pytest.approx(chance_of_the_top(share), rel=1e-6)


@given(st.floats(min_value=0.001, max_value=FEW))
def test_an_engine_with_few_fast_blocks_is_called_fast_in_less_than_one_of_two_thousand_trials(
    share: float,
) -> None:
    assert error_rate(share) <= 0.00046


@given(st.floats(min_value=MOST, max_value=0.999))
def test_an_engine_with_mostly_fast_blocks_is_called_slow_as_rarely(share: float) -> None:
    assert 1 - error_rate(share) <= 0.00046


def test_the_walk_errs_as_often_as_stated() -> None:
    """Simulated with the fastest engine that still counts as slow; the bound is eight standard deviations away."""
    draw, trials = Random(5), 20_000
    wrong = sum(walk(votes(draw, FEW), FLOOR) is Side.ABOVE for _ in range(trials))
    expected = trials * error_rate(FEW)
    assert abs(wrong - expected) < 8 * expected**0.5


def votes(draw: Random, share: float) -> Iterator[float]:
    while True:
        yield 2 * FLOOR if draw.random() < share else FLOOR / 2


@given(st.lists(st.floats(min_value=0.1, max_value=1000), max_size=60))
def test_votes_after_the_end_of_the_walk_are_ignored(rates: list[float]) -> None:
    side = walk(rates, FLOOR)
    if side is not Side.OPEN:
        assert walk([*rates, *[1.0] * 20], FLOOR) is side
    mirrored = [2 * FLOOR if rate < FLOOR else FLOOR / 2 for rate in rates]
    assert walk(mirrored, FLOOR).value == -side.value


@given(st.floats(min_value=1.01, max_value=100), st.integers(min_value=0, max_value=20))
def test_the_same_rates_against_a_higher_floor_never_look_faster(factor: float, seed: int) -> None:
    draw = Random(seed)
    rates = [draw.uniform(20, 120) for _ in range(40)]
    order = {Side.BELOW: 0, Side.OPEN: 1, Side.ABOVE: 2}
    lower, higher = walk(rates, FLOOR), walk(rates, FLOOR * factor)
    # A walk may end early on one side and go on by another floor, so only opposite ends are a contradiction.
    assert not (order[lower] == 0 and order[higher] == 2)


def a_stream(*rates: float, asked: float = 0.0) -> Stream:
    """Blocks of 16 tokens at these rates."""
    arrivals = [Arrival(asked + 0.1, 1)]
    for rate in rates:
        arrivals.append(Arrival(arrivals[-1].at + 16 / rate, arrivals[-1].tokens + 16))
    return Stream(asked, arrivals[0].at, arrivals[-1].at, arrivals[-1].tokens, tuple(arrivals))


def a_sample(*rates: float, drafted: int = 66, accepted: int = 60, first_token: float = 0.1) -> Sample:
    stream = a_stream(*rates)
    before = EngineCounters(0, 0, 0, 0)
    moved = Stream(stream.first - first_token, stream.first, stream.last, stream.tokens, stream.arrivals)
    return Sample(moved, before, EngineCounters(stream.tokens, 0, drafted, accepted))


FAST, SLOW = [85.0] * 8, [40.0] * 8
STOPS: dict[str, tuple[list[Sample], bool]] = {
    "nothing was measured": ([], False),
    "every block is fast": ([a_sample(*FAST)], True),
    "one spell of a busy machine": ([a_sample(*SLOW)], False),
    "slow twice": ([a_sample(*SLOW), a_sample(*SLOW)], True),
    "slow, and then fast": ([a_sample(*SLOW), a_sample(*FAST)], False),
    "all samples are taken, whatever they say": ([a_sample(*SLOW), a_sample(*FAST), a_sample(*SLOW)], True),
    "too few blocks to say": ([a_sample(*FAST[:6])], False),
    "most blocks are fast, and the stream is slow: it stops and goes": ([a_sample(*[200.0] * 8, 1.0)], False),
    "a share of drafts that is too near to its floor": ([a_sample(*FAST, drafted=66, accepted=30)], False),
    "a dead draft": ([a_sample(*FAST, drafted=127, accepted=0)], True),
    "a first token that came late, once": ([a_sample(*FAST, first_token=0.9)], False),
}


@pytest.mark.parametrize(("samples", "stops"), STOPS.values(), ids=STOPS.keys())
def test_the_measurement_ends_when(samples: list[Sample], stops: bool) -> None:  # noqa: FBT001 - a table
    assert enough(samples, CONFIG) is stops


def test_a_stream_is_cut_once_it_is_clear_and_much_of_it_is_left() -> None:
    config = CONFIG.model_copy(update={"decode": CONFIG.decode.model_copy(update={"tokens": 4096})})
    assert stream_is_clear(a_stream(*SLOW).arrivals, config)
    assert not stream_is_clear(a_stream(*SLOW[:6]).arrivals, config)
    assert not stream_is_clear(a_stream(*FAST).arrivals, CONFIG), "what is left of 128 tokens is not worth it"


@given(st.integers(min_value=1, max_value=500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_an_interval_holds_its_share_and_stays_within_bounds(counts: tuple[int, int]) -> None:
    accepted, drafted = counts
    low, high = interval(accepted, drafted)
    assert -1e-9 <= low <= 100 * accepted / drafted + 1e-9
    assert 100 * accepted / drafted - 1e-9 <= high <= 100 + 1e-9


def test_an_interval_misses_the_truth_in_about_one_of_a_thousand() -> None:
    """Summed over all outcomes of 66 drafts, for shares around the default floor."""
    for share in (0.3, 0.4, 0.5):
        missed = 0.0
        for accepted in range(67):
            low, high = interval(accepted, 66)
            if not low <= 100 * share <= high:
                missed += comb(66, accepted) * share**accepted * (1 - share) ** (66 - accepted)
        assert missed < 0.002


def test_a_floor_of_zero_is_always_reached() -> None:
    free: dict[str, Any] = {"decode": CONFIG.decode.model_copy(update={"min_tokens_per_second": 0.0})}
    assert enough([a_sample(*SLOW)], CONFIG.model_copy(update=free))
