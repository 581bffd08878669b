"""What `restore` says at its end, for programs: one line of JSON, which fits into a container's termination message."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Literal

VERSION: Final = 1
MESSAGE_LIMIT: Final = 3000
"""A kubelet cuts a termination message at 4096 bytes, and JSON that is cut says nothing."""

State = Literal["Restored", "NotNeeded", "AlreadyRestored", "Failed"]


@dataclass(frozen=True)
class Figures:
    """Of the matrices that were quantised."""

    gptq: int
    rtn: int
    seconds: float
    worst_error: float | None
    """Relative, of the output, on held-out tokens; None where no capture was given."""
    device: str

    @classmethod
    def of(cls, report: Mapping[str, Any], seconds: float) -> "Figures":
        worst = [matrix["worstKept"] for matrix in report["matrices"].values()]
        method = report["method"]
        return cls(method["gptq"], method["rtn"], round(seconds, 1), max(worst, default=None), report["device"])

    def told(self) -> str:
        error = "no capture to judge by" if self.worst_error is None else f"worst held-out error {self.worst_error:.2e}"
        return (
            f"{self.gptq} matrices by GPTQ, {self.rtn} rounded to nearest, {error}; "
            f"{self.seconds:.0f} s on {self.device}, every bit read back"
        )


@dataclass(frozen=True)
class RestoreResult:
    state: State
    message: str
    """A sentence for people."""
    path: str
    figures: Figures | None = None

    def to_json(self) -> str:
        """One line."""
        short = replace(self, message=self.message[:MESSAGE_LIMIT])
        return json.dumps({"version": VERSION, **asdict(short)})
