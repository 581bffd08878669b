"""`delivery.json`: the progress of the model's download into the pod."""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from flash_contracts.document import Document, now

GIB = 1 << 30

Phase = Literal["Resolving", "Waiting", "Downloading", "Verifying", "Unpacking", "Complete", "Failed"]
"""Waiting: another replica is downloading the same model into the same cache. Unpacking: the layers of an image."""


@dataclass(frozen=True)
class DownloadRecord(Document):
    """Progress of a download; sizes in bytes. The gate includes it in its result for the operator."""

    FILE: ClassVar[str] = "delivery.json"
    IS_VERSIONED: ClassVar[bool] = True
    WRITER: ClassVar[str] = "flash-fetch"
    READERS: ClassVar[tuple[str, ...]] = ("flash-fetch", "launcher", "gate", "operator")

    phase: Phase = "Resolving"
    source: str = ""
    commit: str | None = None
    bytes: int = 0
    total_bytes: int = 0
    needed_bytes: int = 0
    """Free space needed on the volume: more than `total_bytes` for images, whose layers and files exist at once."""
    bytes_per_second: float | None = None
    message: str = ""
    failure: str | None = None
    """Why the last attempt failed. Cleared when the next attempt receives its first bytes."""
    warning: str | None = None
    retry_at: str | None = None
    """When the server allows the next attempt, if it throttled the last one (RFC 3339). Omitted otherwise."""
    attempts: int = 0
    at: str = field(default_factory=now)

    @property
    def eta_seconds(self) -> int | None:
        if self.phase != "Downloading" or not self.bytes_per_second:
            return None
        return round((self.total_bytes - self.bytes) / self.bytes_per_second)

    @property
    def summary(self) -> str:
        """One line for people, such as "fetching 12.3 of 148.7 GiB at 1.1 GiB/s, 2 min left"."""
        if self.phase == "Downloading":
            return f"fetching {self._amount}{self._pace}"
        if self.phase == "Verifying":
            return f"downloaded {format_size(self.total_bytes)}, verifying checksums"
        if self.phase == "Unpacking":
            return f"downloaded {format_size(self.total_bytes)}, unpacking {self.message}"
        return self.message

    @property
    def _amount(self) -> str:
        total = format_size(self.total_bytes)
        unit = total.rpartition(" ")[2]
        return f"{self.bytes / UNITS[unit]:.1f} of {total}"

    @property
    def _pace(self) -> str:
        if not self.bytes_per_second or self.eta_seconds is None:
            return ""
        return f" at {format_size(self.bytes_per_second)}/s, {format_duration(self.eta_seconds)} left"

    def to_json(self) -> dict[str, Any]:
        """Add `etaSeconds`, and write the summary as `message`."""
        made = {**super().to_json(), "message": self.summary, "etaSeconds": self.eta_seconds}
        return {key: value for key, value in made.items() if key != "retryAt" or value is not None}


UNITS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": GIB}


def format_size(size: float) -> str:
    """A size in the largest unit that gives at least 1."""
    unit = next((unit for unit in ("GiB", "MiB", "KiB") if size >= UNITS[unit]), "B")
    return f"{size / UNITS[unit]:.1f} {unit}" if unit != "B" else f"{size:.0f} B"


def format_duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"  # noqa: PLR2004 - minutes from there on
