"""The result of the Job that restores an MTP head: one line of JSON, its container's termination message.

`mtp-quantise restore` writes it, and the operator copies it into `status.model`. The two may be of different releases.
"""

from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, TypeAlias

from flash_contracts.document import FORMER_KEY, BadDocumentError, Document

MESSAGE_LIMIT = 3000
"""Longest message, in characters. The kubelet truncates termination messages at 4096 bytes, which breaks the JSON."""

State: TypeAlias = Literal["Restored", "NotNeeded", "AlreadyRestored", "Failed"]


@dataclass(frozen=True)
class RestoreFigures(Document):
    """Figures for the quantised matrices."""

    gptq: int
    rtn: int
    seconds: float
    worst_error: float | None = field(default=None, metadata={FORMER_KEY: "worst_error"})
    """Worst relative error of a matrix's output on held-out tokens; None without a capture."""
    device: str = ""

    def __str__(self) -> str:
        error = "no capture to judge by" if self.worst_error is None else f"worst held-out error {self.worst_error:.2e}"
        return (
            f"{self.gptq} matrices by GPTQ, {self.rtn} rounded to nearest, {error}; "
            f"{self.seconds:.0f} s on {self.device}, every bit read back"
        )


@dataclass(frozen=True)
class RestoreResult(Document):
    """One run of `mtp-quantise restore`."""

    IS_VERSIONED: ClassVar[bool] = True
    WRITER: ClassVar[str] = "quantiser"
    READERS: ClassVar[tuple[str, ...]] = ("operator",)

    state: State
    message: str = ""
    """One sentence for people."""
    path: str = ""
    figures: RestoreFigures | None = None

    def to_termination_message(self) -> str:
        """One line, short enough not to be truncated by the kubelet."""
        return replace(self, message=self.message[:MESSAGE_LIMIT]).to_text()

    @classmethod
    def of_text(cls, text: str) -> "RestoreResult":
        """Read a termination message. Invalid text becomes a failure that quotes it."""
        try:
            return cls.parse_text(text)
        except BadDocumentError:
            found = " ".join(text.split())[-500:]
            return cls("Failed", f"the Job left no result; its output: {found or 'none'}")
