"""`delivery.json`: how far the model's way into the pod has come."""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from flash_contracts.document import Document, now

GIB = 1 << 30

Phase = Literal["Resolving", "Waiting", "Downloading", "Verifying", "Unpacking", "Complete", "Failed"]
"""Waiting: another replica fetches the same model into the same cache. Unpacking: the layers of an image. The rest says
what it is."""


@dataclass(frozen=True)
class DownloadRecord(Document):
    """Sizes in bytes. `message` is for people, the figures are for programs.

    flash-fetch writes it; the gate reads it, and hands it on in its result.
    """

    FILE: ClassVar[str] = "delivery.json"
    IS_VERSIONED: ClassVar[bool] = True
    WRITER: ClassVar[str] = "flash-fetch"
    READERS: ClassVar[tuple[str, ...]] = ("flash-fetch", "gate", "operator")

    phase: Phase = "Resolving"
    source: str = ""
    commit: str | None = None
    bytes: int = 0
    total_bytes: int = 0
    needed_bytes: int = 0
    """That the volume must hold at once: more than come, where layers are unpacked."""
    bytes_per_second: float | None = None
    message: str = ""
    failure: str | None = None
    """Why the last attempt ended. It stays while another one begins, and goes with its first bytes."""
    warning: str | None = None
    attempts: int = 0
    at: str = field(default_factory=now)

    @property
    def eta_seconds(self) -> int | None:
        if self.phase != "Downloading" or not self.bytes_per_second:
            return None
        return round((self.total_bytes - self.bytes) / self.bytes_per_second)

    @property
    def told(self) -> str:
        """Such as "fetching 12.3 of 148.7 GiB at 1.1 GiB/s, 2 min left"."""
        if self.phase == "Downloading":
            return f"fetching {self._amount}{self._pace}"
        if self.phase == "Verifying":
            return f"all {size_told(self.total_bytes)} are here, comparing checksums"
        if self.phase == "Unpacking":
            return f"all {size_told(self.total_bytes)} are here, unpacking {self.message}"
        return self.message

    @property
    def _amount(self) -> str:
        total = size_told(self.total_bytes)
        unit = total.rpartition(" ")[2]
        return f"{self.bytes / UNITS[unit]:.1f} of {total}"

    @property
    def _pace(self) -> str:
        if not self.bytes_per_second or self.eta_seconds is None:
            return ""
        return f" at {size_told(self.bytes_per_second)}/s, {time_told(self.eta_seconds)} left"

    def to_json(self) -> dict[str, Any]:
        """With the sentence and the time left as they follow from the figures."""
        return {**super().to_json(), "message": self.told, "etaSeconds": self.eta_seconds}


UNITS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": GIB}


def size_told(size: float) -> str:
    """In the largest unit that leaves a figure above 1."""
    unit = next((unit for unit in ("GiB", "MiB", "KiB") if size >= UNITS[unit]), "B")
    return f"{size / UNITS[unit]:.1f} {unit}" if unit != "B" else f"{size:.0f} B"


def time_told(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"  # noqa: PLR2004 - from there on minutes
