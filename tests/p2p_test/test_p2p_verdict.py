"""The verdict from the results of the variants, and the result of a variant from its ranks."""

import itertools
from collections.abc import Sequence

import pytest

from flash_contracts.p2p_report import Outcome
from flash_engine.p2p_test.outcome import (
    EXIT_GRACE_SECONDS,
    StopReason,
    Timeouts,
    VariantResult,
    reason_to_stop,
    variant_result,
)
from flash_engine.p2p_test.rank_process import RankProgress, RankState
from flash_engine.p2p_test.verdict import verdict

VARIANTS = ("ncclP2pOff", "nccl", "ncclP2p", "peer")
TWO = ("GPU-a", "GPU-b")


def results(*outcomes: Outcome, gpus: tuple[str, ...] = TWO, variants: Sequence[str] = VARIANTS) -> list[VariantResult]:
    return [VariantResult(variant, outcome, gpus=gpus) for variant, outcome in zip(variants, outcomes, strict=True)]


@pytest.mark.parametrize(
    ("outcomes", "expected", "text"),
    [
        (("healthy", "healthy", "healthy", "healthy"), "healthy", "can be used"),
        (("healthy", "hang", "healthy", "healthy"), "hang", "variant nccl"),
        (("healthy", "healthy", "hang", "hang"), "hang", "variant ncclP2p is hanging, likewise peer"),
        (("healthy", "healthy", "healthy", "hang"), "hang", "--disable-custom-all-reduce"),
        (("healthy", "healthy", "healthy", "corrupt"), "corrupt", "wrong data"),
        (("healthy", "hang", "hang", "corrupt"), "corrupt", "variant peer"),
        (("healthy", "healthy", "healthy", "notPossible"), "notPossible", "refuses"),
        (("healthy", "inconclusive", "healthy", "hang"), "hang", "variant peer"),
        (("healthy", "inconclusive", "healthy", "notPossible"), "notPossible", "variant peer"),
        (("healthy", "healthy", "inconclusive", "healthy"), "inconclusive", "variant ncclP2p"),
        (("hang", "hang", "hang", "hang"), "inconclusive", "other than peer-to-peer is broken"),
        (("corrupt", "healthy", "healthy", "corrupt"), "inconclusive", "other than peer-to-peer is broken"),
        (("inconclusive", "hang", "hang", "hang"), "inconclusive", "other than peer-to-peer is broken"),
        (("inconclusive", "healthy", "healthy", "healthy"), "inconclusive", "variant ncclP2pOff"),
        (("notPossible", "healthy", "healthy", "healthy"), "inconclusive", "variant ncclP2pOff"),
    ],
)
def test_the_verdict_of_all_variants(outcomes: tuple[Outcome, ...], expected: str, text: str) -> None:
    found = verdict(results(*outcomes))
    assert found.outcome == expected
    assert text in found.reason


def test_only_four_healthy_variants_on_two_gpus_are_healthy() -> None:
    kinds: tuple[Outcome, ...] = ("healthy", "hang", "corrupt", "notPossible", "inconclusive")
    healthy = [one for one in itertools.product(kinds, repeat=4) if verdict(results(*one)).outcome == "healthy"]
    assert healthy == [("healthy",) * 4]


def test_peer_to_peer_is_blamed_only_if_the_gpus_work_without_it() -> None:
    kinds: tuple[Outcome, ...] = ("healthy", "hang", "corrupt", "notPossible", "inconclusive")
    for base, *others in itertools.product(kinds, repeat=4):
        if base != "healthy":
            assert verdict(results(base, *others)).outcome == "inconclusive"


@pytest.mark.parametrize("gpus", [(), ("GPU-a",)])
@pytest.mark.parametrize("outcome", ["healthy", "hang", "corrupt", "notPossible"])
def test_fewer_than_two_gpus_prove_nothing(gpus: tuple[str, ...], outcome: Outcome) -> None:
    found = verdict(results("healthy", outcome, outcome, outcome, gpus=gpus))
    assert found.outcome == "inconclusive"
    assert "nvidia.com/gpu: 2" in found.reason


@pytest.mark.parametrize(
    ("variants", "outcomes", "expected"),
    [
        (("nccl", "peer"), ("healthy", "healthy"), "inconclusive"),
        (("ncclP2pOff", "peer"), ("healthy", "healthy"), "inconclusive"),
        (("ncclP2pOff", "peer"), ("healthy", "hang"), "hang"),
        (("nccl", "peer"), ("healthy", "hang"), "inconclusive"),
        (("nccl", "peer"), ("corrupt", "hang"), "inconclusive"),
        ((), (), "inconclusive"),
    ],
)
def test_a_subset_of_the_variants_is_never_healthy(
    variants: tuple[str, ...], outcomes: tuple[Outcome, ...], expected: str
) -> None:
    assert verdict(results(*outcomes, variants=variants)).outcome == expected


NEW = RankProgress(gpu="GPU-a")
READY = RankProgress(gpu="GPU-a", ready=True, current_step="a step")
DONE = RankProgress(gpu="GPU-a", ready=True, end="done")
WRONG = RankProgress(gpu="GPU-a", ready=True, end="wrong", detail="zeros")
TIMEOUTS = Timeouts(start=90, step=30)


@pytest.mark.parametrize(
    ("first", "second", "now", "expected"),
    [
        (RankState(NEW, 0), RankState(NEW, 0), 89, None),
        (RankState(NEW, 80), RankState(NEW, 80), 90, StopReason.SLOW_START),
        # A rank that is ready waits for the other, however long the other takes to start.
        (RankState(READY, 5, ready_at=5), RankState(NEW, 0), 60, None),
        (RankState(READY, 5, ready_at=5), RankState(NEW, 0), 90, StopReason.SLOW_START),
        (RankState(READY, 5, ready_at=5), RankState(READY, 60, ready_at=60), 89, None),
        (RankState(READY, 5, ready_at=5), RankState(READY, 60, ready_at=60), 90, StopReason.NO_PROGRESS),
        # Progress of one rank does not count for the other.
        (RankState(READY, 20, ready_at=5), RankState(READY, 49, ready_at=5), 50, StopReason.NO_PROGRESS),
        (RankState(DONE, 20, ready_at=5), RankState(READY, 49, ready_at=5), 78, None),
        (RankState(DONE, 20, ready_at=5), RankState(READY, 20, ready_at=5), 50, StopReason.NO_PROGRESS),
        (RankState(DONE, 20, ready_at=5), RankState(DONE, 20, ready_at=5), 20, None),
        (RankState(DONE, 20, ready_at=5), RankState(DONE, 20, ready_at=5), 20 + EXIT_GRACE_SECONDS, StopReason.DECIDED),
        (RankState(DONE, 20, 5, exit_code=0), RankState(DONE, 20, 5, exit_code=0), 20, StopReason.DECIDED),
        (RankState(WRONG, 20, ready_at=5), RankState(READY, 20, ready_at=5), 21, None),
        (RankState(WRONG, 20, ready_at=5), RankState(READY, 20, ready_at=5), 22, StopReason.DECIDED),
        (RankState(READY, 20, 5, exit_code=-11), RankState(READY, 20, ready_at=5), 22, StopReason.DECIDED),
        (RankState(READY, 199, ready_at=5), RankState(READY, 199, ready_at=5), 200, StopReason.OUT_OF_TIME),
    ],
)
def test_when_to_stop_waiting_for_the_ranks(
    first: RankState, second: RankState, now: float, expected: StopReason | None
) -> None:
    assert reason_to_stop((first, second), TIMEOUTS, began=0, until=200, now=now) == expected


@pytest.mark.parametrize(
    ("first", "second", "reason", "expected", "text"),
    [
        (RankState(DONE, 0), RankState(DONE, 0), StopReason.DECIDED, "healthy", ""),
        (RankState(READY, 0), RankState(READY, 0), StopReason.NO_PROGRESS, "hang", "no progress in a step"),
        (RankState(READY, 0), RankState(WRONG, 0), StopReason.NO_PROGRESS, "corrupt", "rank 1: zeros"),
        (RankState(READY, 0, 0, exit_code=1), RankState(WRONG, 0), StopReason.DECIDED, "corrupt", "rank 1: zeros"),
        (RankState(DONE, 0), RankState(READY, 0), StopReason.NO_PROGRESS, "hang", "a step"),
        (RankState(NEW, 0), RankState(READY, 0), StopReason.SLOW_START, "inconclusive", "not ready"),
        (RankState(READY, 0), RankState(READY, 0), StopReason.OUT_OF_TIME, "inconclusive", "time ran out"),
        (
            RankState(READY, 0, 0, -9),
            RankState(READY, 0),
            StopReason.DECIDED,
            "inconclusive",
            "SIGKILL (out of memory?)",
        ),
        (
            RankState(READY, 0, 0, 1, "Bus error"),
            RankState(READY, 0),
            StopReason.DECIDED,
            "inconclusive",
            "code 1 in a step: Bus error",
        ),
        (
            RankState(READY, 0, 0, 0),
            RankState(DONE, 0, 0, 0),
            StopReason.DECIDED,
            "inconclusive",
            "rank 0 exited with code 0",
        ),
        (RankState(READY, 0), RankState(READY, 0), StopReason.REQUESTED, "inconclusive", "asked to stop"),
    ],
)
def test_the_result_of_a_variant(
    first: RankState, second: RankState, reason: StopReason, expected: str, text: str
) -> None:
    result = variant_result("nccl", (first, second), reason)
    assert result.outcome == expected
    assert text in result.detail


def test_a_process_that_cannot_be_killed_is_named() -> None:
    hung = variant_result("nccl", (RankState(READY, 0), RankState(READY, 0)), StopReason.NO_PROGRESS, stuck=(4711,))
    assert (hung.outcome, hung.stuck) == ("hang", (4711,))
    assert "4711 is stuck" in hung.detail
    well = variant_result("nccl", (RankState(DONE, 0), RankState(DONE, 0)), StopReason.DECIDED, stuck=(4711,))
    assert well.outcome == "inconclusive"


def test_only_sizes_that_both_ranks_timed_count_with_the_slower_time() -> None:
    first = RankProgress(end="done", micros={8192: 9.0, 16384: 10.0})
    second = RankProgress(end="done", micros={8192: 9.5})
    assert variant_result("nccl", (RankState(first, 0), RankState(second, 0)), StopReason.DECIDED).micros == {8192: 9.5}
