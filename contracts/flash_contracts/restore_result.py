"""The last words of the Job that restores an MTP head: one line of JSON, its container's termination message.

`mtp-quantise restore` writes it, and the operator keeps it in `status.model`. Either may be of another release.
"""

from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, TypeAlias

from flash_contracts.document import FORMER_KEY, BadDocumentError, Document

MESSAGE_LIMIT = 3000
"""A kubelet cuts a termination message at 4096 bytes, and JSON that is cut says nothing."""

State: TypeAlias = Literal["Restored", "NotNeeded", "AlreadyRestored", "Failed"]


@dataclass(frozen=True)
class RestoreFigures(Document):
    """Of the matrices that were quantised."""

    gptq: int
    rtn: int
    seconds: float
    worst_error: float | None = field(default=None, metadata={FORMER_KEY: "worst_error"})
    """Relative, of the output, on held-out tokens; None where no capture was given."""
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
    """A sentence for people."""
    path: str = ""
    figures: RestoreFigures | None = None

    def to_termination_message(self) -> str:
        """One line, short enough for a kubelet."""
        return replace(self, message=self.message[:MESSAGE_LIMIT]).to_text()

    @classmethod
    def of_text(cls, text: str) -> "RestoreResult":
        """Read a termination message; anything that is no result is a failure, with what was there instead."""
        try:
            return cls.parse_text(text)
        except BadDocumentError:
            found = " ".join(text.split())[-500:]
            return cls("Failed", f"the Job left no result; its last words: {found or 'none'}")
