"""The result of a variant: when to stop waiting for its ranks, and what their progress means. Pure."""

import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from flash_contracts.p2p_report import Outcome, VariantReport
from flash_engine.p2p_test.rank_process import RankProgress, RankState

EXIT_CODES: Mapping[Outcome, int] = {"healthy": 0, "hang": 3, "corrupt": 4, "notPossible": 5, "inconclusive": 6}

EXIT_GRACE_SECONDS = 2.0
"""A rank whose peer failed often reports the cause only a moment later, and a finished rank needs a moment to exit."""

_NAME_LIMIT = 20


@dataclass(frozen=True)
class VariantResult:
    """One variant's part of the report."""

    variant: str
    outcome: Outcome
    detail: str = ""
    kernel: str = ""
    """Whose kernel the `peer` variant ran."""
    micros: Mapping[int, float] = field(default_factory=dict)
    """Microseconds of one all-reduce, by its size in bytes."""
    gpus: tuple[str, ...] = ()
    """UUIDs of the GPUs that the ranks used, without duplicates."""
    nccl: str | None = None
    stuck: tuple[int, ...] = ()
    """Processes that SIGKILL did not end."""

    def to_report(self, detail_limit: int) -> VariantReport:
        return VariantReport(
            variant=self.variant,
            outcome=self.outcome,
            detail=plain(self.detail, detail_limit) if detail_limit else "",
            kernel=plain(self.kernel, _NAME_LIMIT),
            micros=dict(self.micros),
        )


@dataclass(frozen=True)
class P2pVerdict:
    """The outcome of the whole test. `reason` is one sentence that ends with the remedy or the next step."""

    outcome: Outcome
    reason: str


class StopReason(Enum):
    """Why the ranks of a variant were not waited for any longer."""

    NO_PROGRESS = "no progress"
    SLOW_START = "slow start"
    OUT_OF_TIME = "out of time"
    REQUESTED = "requested"
    DECIDED = "decided"


@dataclass(frozen=True)
class Timeouts:
    """Time limits in seconds."""

    start: float
    """For both ranks to become ready."""
    step: float
    """For the next step of a rank, once both are ready."""


def reason_to_stop(
    ranks: Sequence[RankState], timeouts: Timeouts, *, began: float, until: float, now: float
) -> StopReason | None:
    """None while the ranks should go on. The variant started at `began`, and its deadline is `until`."""
    if all(rank.exit_code is not None for rank in ranks):
        return StopReason.DECIDED
    decided = all(rank.has_passed for rank in ranks) or any(rank.has_ended and not rank.has_passed for rank in ranks)
    if decided and now - max(rank.progress_at for rank in ranks) >= EXIT_GRACE_SECONDS:
        return StopReason.DECIDED
    if now >= until:
        return StopReason.OUT_OF_TIME
    ready_at = [rank.ready_at for rank in ranks if rank.ready_at is not None]
    if len(ready_at) < len(ranks):
        return StopReason.SLOW_START if now - began >= timeouts.start else None
    # A rank that is ready reports nothing while it waits for the other to become ready.
    silent = [now - max(rank.progress_at, *ready_at) for rank in ranks if not rank.has_ended]
    return StopReason.NO_PROGRESS if silent and max(silent) >= timeouts.step else None


def variant_result(
    variant: str, ranks: Sequence[RankState], reason: StopReason, stuck: Sequence[int] = ()
) -> VariantResult:
    """The result, from the ranks as they were before they were killed. `stuck` processes could not be killed."""
    outcome, detail = _outcome(ranks, reason)
    if stuck:
        pids = ", ".join(map(str, stuck))
        message = f"process {pids} is stuck in the GPU driver and cannot be killed: reboot the node"
        outcome, detail = ("inconclusive" if outcome == "healthy" else outcome), f"{message}; {detail}".rstrip("; ")
    progress = [rank.progress for rank in ranks]
    return VariantResult(
        variant,
        outcome,
        detail,
        kernel=next((one.kernel for one in progress if one.kernel), ""),
        micros=_slower_times(progress) if outcome == "healthy" else {},
        gpus=tuple(dict.fromkeys(one.gpu for one in progress if one.gpu)),
        nccl=next((one.nccl for one in progress if one.nccl), None),
        stuck=tuple(stuck),
    )


def _outcome(ranks: Sequence[RankState], reason: StopReason) -> tuple[Outcome, str]:
    """A rank's report takes precedence over how it exited, and its exit over a timeout of its peer."""
    if reason is StopReason.REQUESTED:
        return "inconclusive", f"asked to stop in {_current_steps(ranks)}"
    if all(rank.has_passed for rank in ranks):
        return "healthy", "; ".join(dict.fromkeys(note for rank in ranks for note in rank.progress.notes))
    by_end: dict[str, Outcome] = {"wrong": "corrupt", "refused": "notPossible", "failed": "inconclusive"}
    for end, outcome in by_end.items():
        for number, rank in enumerate(ranks):
            if rank.progress.end == end:
                return outcome, f"rank {number}: {rank.progress.detail or 'no detail'}"
    for number, rank in enumerate(ranks):
        if rank.exit_code is not None and not rank.has_passed:
            return "inconclusive", f"rank {number} {_exit_message(rank)}"
    return _timeout_outcome(ranks, reason)


def _timeout_outcome(ranks: Sequence[RankState], reason: StopReason) -> tuple[Outcome, str]:
    steps = _current_steps(ranks)
    match reason:
        case StopReason.NO_PROGRESS:
            return "hang", f"no progress in {steps}"
        case StopReason.SLOW_START:
            return "inconclusive", f"the ranks were not ready in time ({steps})"
        case _:
            return "inconclusive", f"time ran out in {steps}"


def _current_steps(ranks: Sequence[RankState]) -> str:
    steps = dict.fromkeys(rank.progress.current_step for rank in ranks if not rank.has_ended)
    return " and ".join(steps) or "shutdown"


def _exit_message(rank: RankState) -> str:
    code = rank.exit_code or 0
    how = f"exited with code {code}" if code >= 0 else f"was killed by {_signal_name(-code)}"
    hint = " (out of memory?)" if code == -signal.SIGKILL else ""
    stderr = f": {rank.stderr_tail}" if rank.stderr_tail else ""
    return f"{how}{hint} in {rank.progress.current_step}{stderr}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _slower_times(progress: Sequence[RankProgress]) -> dict[int, float]:
    """An all-reduce ends when its slower rank does. Sizes that only one rank has timed are left out."""
    first, *others = progress
    timed = (size for size in first.micros if all(size in other.micros for other in others))
    return {size: round(max(one.micros[size] for one in progress), 2) for size in timed}


def shortened(text: str, limit: int) -> str:
    """Cut the middle out: the beginning shows where it happened, and the end of a traceback shows the error."""
    if len(text) <= limit:
        return text
    kept = max(limit - 3, 0)
    tail = kept * 2 // 3
    return f"{text[: kept - tail]}...{text[len(text) - tail :]}"


def plain(text: str, limit: int) -> str:
    """Printable ASCII only: JSON escapes anything else in six or twelve bytes, and half a surrogate pair is invalid."""
    return "".join(letter if " " <= letter <= "~" else "?" for letter in shortened(text, limit))
