"""`delivery.json`: how far the model's way into the pod has come."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast, get_args

from flash_engine.records import VERSION, now, read_document

DELIVERY_FILE = "delivery.json"
GIB = 1 << 30

Phase = Literal["Resolving", "Waiting", "Downloading", "Verifying", "Unpacking", "Complete", "Failed"]
"""Waiting: another replica fetches the same model into the same cache. Unpacking: the layers of an image. The rest says
what it is."""


@dataclass(frozen=True)
class DeliveryRecord:
    """Sizes in bytes. `message` is for people, the figures are for programs."""

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
        return {
            "version": VERSION,
            "phase": self.phase,
            "source": self.source,
            "commit": self.commit,
            "bytes": self.bytes,
            "totalBytes": self.total_bytes,
            "neededBytes": self.needed_bytes,
            "bytesPerSecond": None if self.bytes_per_second is None else round(self.bytes_per_second),
            "etaSeconds": self.eta_seconds,
            "message": self.told,
            "failure": self.failure,
            "warning": self.warning,
            "attempts": self.attempts,
            "at": self.at,
        }

    @classmethod
    def read(cls, path: Path) -> "DeliveryRecord | None":
        """None where there is none, or none that makes sense."""
        raw = read_document(path)
        try:
            return cls.parse(raw) if raw else None
        except (KeyError, TypeError, ValueError):
            return None

    @classmethod
    def parse(cls, raw: dict[str, Any]) -> "DeliveryRecord":
        """Raises ValueError, TypeError or KeyError for what is no record."""
        phase = raw["phase"]
        if phase not in get_args(Phase):
            raise ValueError(f"{phase!r} is no phase of a delivery")
        rate = raw.get("bytesPerSecond")
        return cls(
            phase=cast("Phase", phase),
            source=str(raw.get("source") or ""),
            commit=_text_or_none(raw.get("commit")),
            bytes=int(raw.get("bytes", 0)),
            total_bytes=int(raw.get("totalBytes", 0)),
            needed_bytes=int(raw.get("neededBytes", 0)),
            bytes_per_second=None if rate is None else float(rate),
            message=str(raw.get("message") or ""),
            failure=_text_or_none(raw.get("failure")),
            warning=_text_or_none(raw.get("warning")),
            attempts=int(raw.get("attempts", 0)),
            at=str(raw.get("at") or ""),
        )


def _text_or_none(value: object) -> str | None:
    return None if value is None else str(value)


UNITS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": GIB}


def size_told(size: float) -> str:
    """In the largest unit that leaves a figure above 1."""
    unit = next((unit for unit in ("GiB", "MiB", "KiB") if size >= UNITS[unit]), "B")
    return f"{size / UNITS[unit]:.1f} {unit}" if unit != "B" else f"{size:.0f} B"


def time_told(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"  # noqa: PLR2004 - from there on minutes
