"""What arms say together, as a table; and what ranks say of an arm."""

import itertools
from collections.abc import Sequence

import pytest

from flash_contracts.p2p_report import Outcome
from flash_engine.p2p_test.judgement import LAST_WORDS_SECONDS, Cut, Patience, Rank, cut, judge
from flash_engine.p2p_test.outcome import VariantResult
from flash_engine.p2p_test.rank_progress import Account
from flash_engine.p2p_test.verdict import verdict

VARIANTS = ("ncclP2pOff", "nccl", "ncclP2p", "peer")
TWO = ("GPU-a", "GPU-b")


def results(*outcomes: Outcome, gpus: tuple[str, ...] = TWO, variants: Sequence[str] = VARIANTS) -> list[VariantResult]:
    return [VariantResult(variant, outcome, gpus=gpus) for variant, outcome in zip(variants, outcomes, strict=True)]


@pytest.mark.parametrize(
    ("outcomes", "expected", "words"),
    [
        (("healthy", "healthy", "healthy", "healthy"), "healthy", "may be used"),
        (("healthy", "hang", "healthy", "healthy"), "hang", "arm nccl"),
        (("healthy", "healthy", "hang", "hang"), "hang", "arm ncclP2p is hang, likewise peer"),
        (("healthy", "healthy", "healthy", "hang"), "hang", "--disable-custom-all-reduce"),
        (("healthy", "healthy", "healthy", "corrupt"), "corrupt", "wrong data"),
        (("healthy", "hang", "hang", "corrupt"), "corrupt", "arm peer"),
        (("healthy", "healthy", "healthy", "notPossible"), "notPossible", "refuses"),
        (("healthy", "inconclusive", "healthy", "hang"), "hang", "arm peer"),
        (("healthy", "inconclusive", "healthy", "notPossible"), "notPossible", "arm peer"),
        (("healthy", "healthy", "inconclusive", "healthy"), "inconclusive", "arm ncclP2p"),
        (("hang", "hang", "hang", "hang"), "inconclusive", "other than peer-to-peer is broken"),
        (("corrupt", "healthy", "healthy", "corrupt"), "inconclusive", "other than peer-to-peer is broken"),
        (("inconclusive", "hang", "hang", "hang"), "inconclusive", "other than peer-to-peer is broken"),
        (("inconclusive", "healthy", "healthy", "healthy"), "inconclusive", "arm ncclP2pOff"),
        (("notPossible", "healthy", "healthy", "healthy"), "inconclusive", "arm ncclP2pOff"),
    ],
)
def test_what_the_arms_say_together(outcomes: tuple[Outcome, ...], expected: str, words: str) -> None:
    found = verdict(results(*outcomes))
    assert found.outcome == expected
    assert words in found.reason


def test_nothing_but_four_healthy_arms_on_two_gpus_is_healthy() -> None:
    kinds: tuple[Outcome, ...] = ("healthy", "hang", "corrupt", "notPossible", "inconclusive")
    healthy = [one for one in itertools.product(kinds, repeat=4) if verdict(results(*one)).outcome == "healthy"]
    assert healthy == [("healthy",) * 4]


def test_peer_to_peer_is_blamed_only_where_the_gpus_are_well_without_it() -> None:
    kinds: tuple[Outcome, ...] = ("healthy", "hang", "corrupt", "notPossible", "inconclusive")
    for base, *others in itertools.product(kinds, repeat=4):
        if base != "healthy":
            assert verdict(results(base, *others)).outcome == "inconclusive"


@pytest.mark.parametrize("gpus", [(), ("GPU-a",)])
@pytest.mark.parametrize("outcome", ["healthy", "hang", "corrupt", "notPossible"])
def test_less_than_two_gpus_prove_nothing(gpus: tuple[str, ...], outcome: Outcome) -> None:
    found = verdict(results("healthy", outcome, outcome, outcome, gpus=gpus))
    assert found.outcome == "inconclusive"
    assert "nvidia.com/gpu: 2" in found.reason


@pytest.mark.parametrize(
    ("arms", "outcomes", "expected"),
    [
        (("nccl", "peer"), ("healthy", "healthy"), "inconclusive"),
        (("ncclP2pOff", "peer"), ("healthy", "healthy"), "inconclusive"),
        (("ncclP2pOff", "peer"), ("healthy", "hang"), "hang"),
        (("nccl", "peer"), ("healthy", "hang"), "inconclusive"),
        (("nccl", "peer"), ("corrupt", "hang"), "inconclusive"),
        ((), (), "inconclusive"),
    ],
)
def test_some_arms_alone_are_never_healthy(
    variants: tuple[str, ...], outcomes: tuple[Outcome, ...], expected: str
) -> None:
    assert verdict(results(*outcomes, variants=variants)).outcome == expected


NEW = Account(gpu="GPU-a")
READY = Account(gpu="GPU-a", ready=True, doing="a step")
DONE = Account(gpu="GPU-a", ready=True, end="done")
WRONG = Account(gpu="GPU-a", ready=True, end="wrong", detail="zeros")
PATIENCE = Patience(start=90, step=30)


@pytest.mark.parametrize(
    ("first", "second", "now", "expected"),
    [
        (Rank(NEW, 0), Rank(NEW, 0), 89, None),
        (Rank(NEW, 80), Rank(NEW, 80), 90, Cut.SLOW_START),
        # One that is ready waits for the other, however long that one's start takes.
        (Rank(READY, 5, ready_at=5), Rank(NEW, 0), 60, None),
        (Rank(READY, 5, ready_at=5), Rank(NEW, 0), 90, Cut.SLOW_START),
        (Rank(READY, 5, ready_at=5), Rank(READY, 60, ready_at=60), 89, None),
        (Rank(READY, 5, ready_at=5), Rank(READY, 60, ready_at=60), 90, Cut.SILENT),
        # Progress of one is none of the other.
        (Rank(READY, 20, ready_at=5), Rank(READY, 49, ready_at=5), 50, Cut.SILENT),
        (Rank(DONE, 20, ready_at=5), Rank(READY, 49, ready_at=5), 78, None),
        (Rank(DONE, 20, ready_at=5), Rank(READY, 20, ready_at=5), 50, Cut.SILENT),
        (Rank(DONE, 20, ready_at=5), Rank(DONE, 20, ready_at=5), 20, None),
        (Rank(DONE, 20, ready_at=5), Rank(DONE, 20, ready_at=5), 20 + LAST_WORDS_SECONDS, Cut.DECIDED),
        (Rank(DONE, 20, 5, exit_code=0), Rank(DONE, 20, 5, exit_code=0), 20, Cut.DECIDED),
        (Rank(WRONG, 20, ready_at=5), Rank(READY, 20, ready_at=5), 21, None),
        (Rank(WRONG, 20, ready_at=5), Rank(READY, 20, ready_at=5), 22, Cut.DECIDED),
        (Rank(READY, 20, 5, exit_code=-11), Rank(READY, 20, ready_at=5), 22, Cut.DECIDED),
        (Rank(READY, 199, ready_at=5), Rank(READY, 199, ready_at=5), 200, Cut.OUT_OF_TIME),
    ],
)
def test_when_ranks_are_not_waited_for_any_longer(first: Rank, second: Rank, now: float, expected: Cut | None) -> None:
    assert cut((first, second), PATIENCE, began=0, until=200, now=now) == expected


@pytest.mark.parametrize(
    ("first", "second", "why", "expected", "words"),
    [
        (Rank(DONE, 0), Rank(DONE, 0), Cut.DECIDED, "healthy", ""),
        (Rank(READY, 0), Rank(READY, 0), Cut.SILENT, "hang", "no progress in a step"),
        (Rank(READY, 0), Rank(WRONG, 0), Cut.SILENT, "corrupt", "rank 1: zeros"),
        (Rank(READY, 0, 0, exit_code=1), Rank(WRONG, 0), Cut.DECIDED, "corrupt", "rank 1: zeros"),
        (Rank(DONE, 0), Rank(READY, 0), Cut.SILENT, "hang", "a step"),
        (Rank(NEW, 0), Rank(READY, 0), Cut.SLOW_START, "inconclusive", "not ready"),
        (Rank(READY, 0), Rank(READY, 0), Cut.OUT_OF_TIME, "inconclusive", "the time was up"),
        (Rank(READY, 0, 0, -9), Rank(READY, 0), Cut.DECIDED, "inconclusive", "SIGKILL (out of memory?)"),
        (Rank(READY, 0, 0, 1, "Bus error"), Rank(READY, 0), Cut.DECIDED, "inconclusive", "code 1 in a step: Bus error"),
        (Rank(READY, 0, 0, 0), Rank(DONE, 0, 0, 0), Cut.DECIDED, "inconclusive", "rank 0 ended with code 0"),
        (Rank(READY, 0), Rank(READY, 0), Cut.STOPPED, "inconclusive", "asked to stop"),
    ],
)
def test_what_ranks_say_of_an_arm(first: Rank, second: Rank, why: Cut, expected: str, words: str) -> None:
    result = judge("nccl", (first, second), why)
    assert result.outcome == expected
    assert words in result.detail


def test_a_process_that_cannot_be_killed_is_named() -> None:
    hung = judge("nccl", (Rank(READY, 0), Rank(READY, 0)), Cut.SILENT, stuck=(4711,))
    assert (hung.outcome, hung.stuck) == ("hang", (4711,))
    assert "4711 is stuck" in hung.detail
    well = judge("nccl", (Rank(DONE, 0), Rank(DONE, 0)), Cut.DECIDED, stuck=(4711,))
    assert well.outcome == "inconclusive"


def test_only_sizes_that_both_ranks_have_timed_count_and_the_slower_one_tells() -> None:
    first = Account(end="done", micros={8192: 9.0, 16384: 10.0})
    second = Account(end="done", micros={8192: 9.5})
    assert judge("nccl", (Rank(first, 0), Rank(second, 0)), Cut.DECIDED).micros == {8192: 9.5}
