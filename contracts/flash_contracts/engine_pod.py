"""Small documents that the containers of an engine pod exchange in `/run/flash`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from flash_contracts.document import OMITTED, Document, now
from flash_contracts.engine_record import EngineRecord, FaultKind, Run
from flash_contracts.flags.flag_set import FlagSet

QUARANTINE_FILE = "quarantine"
"""A file in the downwardAPI volume: the quarantine request that the operator has granted, or a user's order to take the
replica out of service; empty if there is none."""
DEFAULT_ENGINE_URL = "http://127.0.0.1:8000"
"""The engine's address within its pod, unless FLASH_ENGINE_URL says otherwise."""

API_KEYS_DIR = "FLASH_API_KEYS_DIR"
"""Variable of engine and gate: the folder in which the Secret with the clients' keys is mounted. Unset without keys."""
API_KEYS_SECRET = "FLASH_API_KEYS_SECRET_NAME"  # noqa: S105 - the name of a variable
"""Variable of the engine: that Secret's name, for messages."""
API_KEYS_ARGUMENT = "--middleware=flash_engine.api_keys.RequireApiKey"
"""Argument of vLLM. The operator sets it, so that an image without this middleware fails to start instead of serving
everybody."""


@dataclass(frozen=True)
class EffectiveFlags(Document):
    """The flags in force and their origin. The gate includes them in its result for the operator."""

    FILE: ClassVar[str] = "effective.json"
    IS_VERSIONED: ClassVar[bool] = True
    WRITER: ClassVar[str] = "launcher"
    READERS: ClassVar[tuple[str, ...]] = ("gate",)

    origin: str
    """annotation (from the operator), fallback (the safe flags) or recovery (the safe flags, after an incident)."""
    flags: FlagSet
    detail: str = ""
    waited_millis: int = 0


@dataclass(frozen=True)
class FaultReport(Document):
    """A fault that the gate found in one run of the engine and that only a restart can fix.

    Only requests reveal such faults: an engine may answer /health but produce no tokens, or wrong ones.
    """

    FILE: ClassVar[str] = "fault-report.json"
    IS_VERSIONED: ClassVar[bool] = True
    WRITER: ClassVar[str] = "gate"
    READERS: ClassVar[tuple[str, ...]] = ("launcher",)

    kind: FaultKind
    signature: str
    """Hang signature, S3 or S4 in docs/topology.md."""
    message: str
    pid: int | None
    started_at: str | None
    at: str
    asked: str = field(default="", metadata={OMITTED: True})
    """Identifies the golden question and the expected answer (`GoldenQuestion.identity`)."""

    @property
    def run(self) -> Run:
        """The faulty run, as in EngineRecord."""
        return self.pid, self.started_at


@dataclass(frozen=True)
class DrainRequest(Document):
    """Asks one run of the engine to drain. A later run of the same pod serves again.

    The gate reads it, and the middleware in vLLM's server (flash_engine/drain/connections.py).
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
        """Whether this run of the engine is draining."""
        request = cls.read(run_dir / cls.FILE)
        return request is not None and (request.pid, request.started_at) == record.run


@dataclass(frozen=True)
class MeasureOrder(Document):
    """A user's order to measure the engine once, beside its verdict. The gate takes the file away when it reads it.

    A file, so that only those who may run a command in the pod can make the engine work: everybody in the cluster may
    reach the gate's port.
    """

    FILE: ClassVar[str] = "measure-order.json"
    IS_VERSIONED: ClassVar[bool] = True
    WRITER: ClassVar[str] = "flash-measure"
    READERS: ClassVar[tuple[str, ...]] = ("gate",)

    id: str
    """Names the order in its answer, in GateResult."""
