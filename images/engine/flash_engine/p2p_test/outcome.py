"""What came of an arm, and of the whole probe."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from flash_contracts.p2p_report import Outcome, VariantReport

EXIT_CODES: Mapping[Outcome, int] = {"healthy": 0, "hang": 3, "corrupt": 4, "notPossible": 5, "inconclusive": 6}

_NAME_LIMIT = 20


@dataclass(frozen=True)
class VariantResult:
    """One arm's part of the report."""

    variant: str
    outcome: Outcome
    detail: str = ""
    kernel: str = ""
    """Whose kernel ran, of the peer arm."""
    micros: Mapping[int, float] = field(default_factory=dict)
    """Microseconds of one all-reduce, by its bytes."""
    gpus: tuple[str, ...] = ()
    """The UUIDs of the GPUs that the ranks were on, each once."""
    nccl: str | None = None
    stuck: tuple[int, ...] = ()
    """Processes that SIGKILL did not end."""

    def reported(self, detail_limit: int) -> VariantReport:
        return VariantReport(
            variant=self.variant,
            outcome=self.outcome,
            detail=plain(self.detail, detail_limit) if detail_limit else "",
            kernel=plain(self.kernel, _NAME_LIMIT),
            micros=dict(self.micros),
        )


@dataclass(frozen=True)
class Verdict:
    """With one sentence that ends in the remedy or in what to do next."""

    outcome: Outcome
    reason: str


def shortened(text: str, limit: int) -> str:
    """Cut in the middle: the beginning says where it happened, the end of a traceback what."""
    if len(text) <= limit:
        return text
    kept = max(limit - 3, 0)
    tail = kept * 2 // 3
    return f"{text[: kept - tail]}...{text[len(text) - tail :]}"


def plain(text: str, limit: int) -> str:
    """In ASCII that can be seen: JSON writes anything else in six or twelve bytes, and half an emoji is no JSON."""
    return "".join(letter if " " <= letter <= "~" else "?" for letter in shortened(text, limit))
