"""When the ranks of an arm are not waited for any longer, and what came of the arm. Pure; times are seconds."""

import signal
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from flash_contracts.p2p_report import Outcome
from flash_engine.p2p_test.outcome import VariantResult
from flash_engine.p2p_test.rank_progress import Account

LAST_WORDS_SECONDS = 2.0
"""A rank whose peer fails often says why only a moment later; and one that is done needs a moment to end."""


class Cut(Enum):
    """Why ranks were killed."""

    SILENT = "silent"
    SLOW_START = "slow start"
    OUT_OF_TIME = "out of time"
    STOPPED = "stopped"
    DECIDED = "decided"


@dataclass(frozen=True)
class Patience:
    """How long is waited."""

    start: float
    """For a rank to be ready."""
    step: float
    """For the next line of a rank, once both are ready."""


@dataclass(frozen=True)
class Rank:
    """One rank at one moment."""

    account: Account
    said_at: float
    """When it last told something: when it was started, at first, and when it ended, at last."""
    ready_at: float | None = None
    exit_code: int | None = None
    """Negative for a signal, None while it runs."""
    last_words: str = ""
    """Of its standard error."""

    @property
    def has_ended(self) -> bool:
        return self.exit_code is not None or self.account.end is not None

    @property
    def is_well(self) -> bool:
        return self.account.end == "done"


def cut(ranks: Sequence[Rank], patience: Patience, *, began: float, until: float, now: float) -> Cut | None:
    """None while they are to go on. `until` is the end of the arm's time, `began` its beginning."""
    if all(rank.exit_code is not None for rank in ranks):
        return Cut.DECIDED
    decided = all(rank.is_well for rank in ranks) or any(rank.has_ended and not rank.is_well for rank in ranks)
    if decided and now - max(rank.said_at for rank in ranks) >= LAST_WORDS_SECONDS:
        return Cut.DECIDED
    if now >= until:
        return Cut.OUT_OF_TIME
    ready_at = [rank.ready_at for rank in ranks if rank.ready_at is not None]
    if len(ready_at) < len(ranks):
        return Cut.SLOW_START if now - began >= patience.start else None
    # A rank that is ready waits for the other without a word.
    silent = [now - max(rank.said_at, *ready_at) for rank in ranks if not rank.has_ended]
    return Cut.SILENT if silent and max(silent) >= patience.step else None


def judge(variant: str, ranks: Sequence[Rank], why: Cut, stuck: Sequence[int] = ()) -> VariantResult:
    """What came of an arm. `ranks` as they were before they were killed, `stuck` what could not be killed."""
    outcome, detail = _outcome(ranks, why)
    if stuck:
        told = (
            f"process {', '.join(map(str, stuck))} is stuck in the GPU's driver and cannot be killed: reboot the node"
        )
        outcome, detail = ("inconclusive" if outcome == "healthy" else outcome), f"{told}; {detail}".rstrip("; ")
    accounts = [rank.account for rank in ranks]
    return VariantResult(
        variant,
        outcome,
        detail,
        kernel=next((account.kernel for account in accounts if account.kernel), ""),
        micros=_slower(accounts) if outcome == "healthy" else {},
        gpus=tuple(dict.fromkeys(account.gpu for account in accounts if account.gpu)),
        nccl=next((account.nccl for account in accounts if account.nccl), None),
        stuck=tuple(stuck),
    )


def _outcome(ranks: Sequence[Rank], why: Cut) -> tuple[Outcome, str]:
    """What a rank found goes before how it ended, and that before what its peer waited for in vain."""
    if why is Cut.STOPPED:
        return "inconclusive", f"asked to stop in {_doing(ranks)}"
    if all(rank.is_well for rank in ranks):
        return "healthy", "; ".join(dict.fromkeys(note for rank in ranks for note in rank.account.notes))
    found: dict[str, Outcome] = {"wrong": "corrupt", "refused": "notPossible", "failed": "inconclusive"}
    for end, outcome in found.items():
        for number, rank in enumerate(ranks):
            if rank.account.end == end:
                return outcome, f"rank {number}: {rank.account.detail or 'no detail'}"
    for number, rank in enumerate(ranks):
        if rank.exit_code is not None and not rank.is_well:
            return "inconclusive", f"rank {number} {_death(rank)}"
    return _cut_short(ranks, why)


def _cut_short(ranks: Sequence[Rank], why: Cut) -> tuple[Outcome, str]:
    doing = _doing(ranks)
    match why:
        case Cut.SILENT:
            return "hang", f"no progress in {doing}"
        case Cut.SLOW_START:
            return "inconclusive", f"the ranks were not ready in time ({doing})"
        case _:
            return "inconclusive", f"the time was up in {doing}"


def _doing(ranks: Sequence[Rank]) -> str:
    steps = dict.fromkeys(rank.account.doing for rank in ranks if not rank.has_ended)
    return " and ".join(steps) or "its end"


def _death(rank: Rank) -> str:
    code = rank.exit_code or 0
    how = f"ended with code {code}" if code >= 0 else f"was killed by {_signal_name(-code)}"
    memory = " (out of memory?)" if code == -signal.SIGKILL else ""
    words = f": {rank.last_words}" if rank.last_words else ""
    return f"{how}{memory} in {rank.account.doing}{words}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _slower(accounts: Sequence[Account]) -> dict[int, float]:
    """An all-reduce is over when its slower rank is; sizes that not both have timed are none."""
    first, *others = accounts
    timed = (size for size in first.micros if all(size in other.micros for other in others))
    return {size: round(max(account.micros[size] for account in accounts), 2) for size in timed}
