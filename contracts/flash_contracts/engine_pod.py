"""The small documents that the containers of an engine pod leave for each other in `/run/flash`."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from flash_contracts.document import Document, now
from flash_contracts.engine_record import EngineRecord, FaultKind, Run
from flash_contracts.flags.flag_set import FlagSet

QUARANTINE_FILE = "quarantine"
"""In the node's folder: the wish to be taken out that the operator has granted, empty where it has granted none."""
TRIAL_FILE = "trial.json"
CHECKPOINT_FILE = "checkpoint.json"


@dataclass(frozen=True)
class EffectiveFlags(Document):
    """The flags in force, and where they came from: the launcher tells the gate, and the gate the operator."""

    FILE: ClassVar[str] = "effective.json"
    IS_VERSIONED: ClassVar[bool] = True
    WRITER: ClassVar[str] = "launcher"
    READERS: ClassVar[tuple[str, ...]] = ("gate",)

    origin: str
    """annotation, fallback, or recovery: the safe set, after an incident."""
    flags: FlagSet
    detail: str = ""
    waited_millis: int = 0


@dataclass(frozen=True)
class FaultReport(Document):
    """What the gate saw of one run of the engine, and only another start can mend. It tells the launcher.

    Its requests reach what no look from outside does: an engine may answer /health and never give a token, or give
    wrong ones.
    """

    FILE: ClassVar[str] = "suspicion.json"
    IS_VERSIONED: ClassVar[bool] = True
    WRITER: ClassVar[str] = "gate"
    READERS: ClassVar[tuple[str, ...]] = ("launcher",)

    kind: FaultKind
    signature: str
    """S3 or S4 of docs/topology.md."""
    message: str
    pid: int | None
    started_at: str | None
    at: str

    @property
    def run(self) -> Run:
        """The run of the engine that it is about, as in EngineRecord."""
        return self.pid, self.started_at


@dataclass(frozen=True)
class DrainRequest(Document):
    """The run of the engine that is to drain: one that is started after this serves again.

    flash-drain writes it; the gate and the engine's server read it.
    """

    FILE: ClassVar[str] = "drain.json"
    IS_VERSIONED: ClassVar[bool] = True
    WRITER: ClassVar[str] = "flash-drain"
    READERS: ClassVar[tuple[str, ...]] = ("flash-drain", "gate")

    pid: int | None = None
    started_at: str | None = None
    at: str = ""

    @classmethod
    def of(cls, record: EngineRecord) -> "DrainRequest":
        return cls(record.pid, record.started_at, now())

    @classmethod
    def is_made(cls, run_dir: Path, record: EngineRecord) -> bool:
        """Whether this run of the engine is on its way out."""
        request = cls.read(run_dir / cls.FILE)
        return request is not None and (request.pid, request.started_at) == record.run
