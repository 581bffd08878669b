"""`engine.json`: what the launcher says of the engine's process. The gate reads it, and hands it on in its result."""

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeAlias

from flash_contracts.document import Document

FaultKind: TypeAlias = Literal["hang", "corrupt"]

Run: TypeAlias = tuple[int | None, str | None]
"""Pid and start of one run of the engine: in a container the pid alone is always the same."""

PLUGIN_LINE = "flash plugin is active"
"""What the vLLM plugin says once in each of vLLM's processes. vLLM goes on without a plugin that it cannot import, and
then nothing is checked while a checkpoint is loaded."""


@dataclass(frozen=True)
class Exit(Document):
    """How an engine ended: by exit code or by signal, and what it said last."""

    code: int | None = None
    signal: str | None = None
    at: str = ""
    last_lines: tuple[str, ...] = ()


@dataclass(frozen=True)
class Incident(Document):
    """What the launcher ended an engine for, to start it again with the safe set. One a pod, and it stays."""

    kind: FaultKind
    signature: str = ""
    """S1 to S4 of docs/topology.md."""
    detail: str = ""
    at: str = ""
    row: str = ""
    """The row of the flags table that was in force."""
    flags: tuple[str, ...] = ()
    evidence: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.kind} under row {self.row} at {self.at} ({self.signature}): {self.detail}"


@dataclass(frozen=True)
class EngineRecord(Document):
    """The phase of the engine process. It outlives restarts of the container."""

    FILE: ClassVar[str] = "engine.json"
    IS_VERSIONED: ClassVar[bool] = True
    WRITER: ClassVar[str] = "launcher"
    READERS: ClassVar[tuple[str, ...]] = ("gate", "flash-drain")

    phase: str = "WaitingForFlags"
    """WaitingForFlags, Starting (started, and not known to have ended) or Exited."""
    pid: int | None = None
    started_at: str | None = None
    starts: int = 0
    command: tuple[str, ...] = ()
    exit: Exit | None = None
    """How the last run ended that did end; it stays while the next one is starting. Not that of an incident."""
    incident: Incident | None = None
    """It stays for the life of the pod."""
    rejection: str | None = None
    """Why the checkpoint cannot be served, in sentences: vLLM was not even started.

    It stays while the next start looks again, until that has found nothing.
    """
    plugin: str | None = None
    """What the vLLM plugin said of itself in this run; None while it has said nothing."""

    @property
    def run(self) -> Run:
        return self.pid, self.started_at

    @classmethod
    def read_or_new(cls, path: Path) -> "EngineRecord":
        """The record on disk; an empty one where there is none, or none that makes sense."""
        record = cls.read(path) or cls()
        try:
            datetime.fromisoformat(record.started_at or "2026-01-01")
        except ValueError:
            return cls()
        return record
