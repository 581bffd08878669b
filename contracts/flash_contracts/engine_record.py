"""`engine.json`: the state of the engine's process, written by the launcher. The gate includes it in its result."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeAlias

from flash_contracts.document import OMITTED, Document

FaultKind: TypeAlias = Literal["hang", "corrupt"]

Run: TypeAlias = tuple[int | None, str | None]
"""Pid and start time of one run of the engine. The pid alone is not unique: in a container it is always the same."""

PLUGIN_LINE = "flash plugin is active"
"""Log line that the active vLLM plugin writes once in each of vLLM's processes. Without it, the plugin is missing: vLLM
continues without a plugin that it cannot import, and then nothing checks the checkpoint while it is loaded."""


class EndedBy(StrEnum):
    """What ended an engine that did not exit by itself. The launcher records its own kills in advance."""

    STOP = "Stop"
    """Its container was told to terminate, and the engine exited."""
    STOP_TIMEOUT = "StopTimeout"
    """Its container was told to terminate, and the launcher killed the engine after the timeout."""
    SECOND_SIGNAL = "SecondSignal"
    """Its container got a second stop signal, and the launcher killed the engine."""
    INCIDENT = "Incident"
    """The launcher killed it because it hung or gave wrong answers."""
    REBOOT = "Reboot"
    """Its node was restarted while it ran."""
    CONTAINER = "Container"
    """Its whole container was killed, including the launcher, and the pod does not record what killed it."""

    @property
    def is_no_fault(self) -> bool:
        """Whether this says nothing about the engine."""
        return self not in (EndedBy.CONTAINER, EndedBy.INCIDENT)


@dataclass(frozen=True)
class EngineExit(Document):
    """How an engine ended: exit code or signal, and its last log lines, without secrets and users' text."""

    code: int | None = None
    signal: str | None = None
    at: str = ""
    last_lines: tuple[str, ...] = ()
    stale_lines: int | None = field(default=None, metadata={OMITTED: True})
    """How many of the first lines are too old to show the cause. None: unknown."""
    detail: str = field(default="", metadata={OMITTED: True})
    """The launcher's own explanation and remedy if no engine was started or it could not be killed."""
    ended_by: str | None = field(default=None, metadata={OMITTED: True})
    """An `EndedBy`; None if the engine exited by itself, or the reason is unknown. A newer launcher may use others."""
    oom_kills: int = field(default=0, metadata={OMITTED: True})
    """How many processes the kernel killed in this run for lack of memory, from the container's cgroup
    (memory.events)."""

    @property
    def end_reason(self) -> EndedBy | None:
        return next((known for known in EndedBy if known == self.ended_by), None)


@dataclass(frozen=True)
class Incident(Document):
    """Why the launcher restarted an engine with the safe flags. At most once in the life of a pod."""

    kind: FaultKind
    signature: str = ""
    """Hang signature, S1 to S4 in docs/topology.md."""
    detail: str = ""
    at: str = ""
    row: str = ""
    """Row of the flags table that the engine's flags came from."""
    flags: tuple[str, ...] = ()
    evidence: dict[str, Any] = field(default_factory=dict)
    asked: str = field(default="", metadata={OMITTED: True})
    """Identifies the golden question and the expected answer, if they revealed the fault."""

    def __str__(self) -> str:
        return f"{self.kind} under row {self.row} at {self.at} ({self.signature}): {self.detail}"


@dataclass(frozen=True)
class EngineRecord(Document):
    """The state of the engine's process. It survives restarts of the container."""

    FILE: ClassVar[str] = "engine.json"
    IS_VERSIONED: ClassVar[bool] = True
    WRITER: ClassVar[str] = "launcher"
    READERS: ClassVar[tuple[str, ...]] = ("gate", "flash-drain")

    phase: str = "WaitingForFlags"
    """WaitingForFlags, Starting (started, and not known to have ended) or Exited."""
    pid: int | None = None
    started_at: str | None = None
    started_monotonic: float | None = field(default=None, metadata={OMITTED: True})
    """When it was started, in seconds of CLOCK_MONOTONIC, which all containers of the pod share."""
    starts: int = 0
    command: tuple[str, ...] = ()
    exit: EngineExit | None = None
    """How the last run ended, unless an incident ended it. Kept while the next run starts."""
    incident: Incident | None = None
    """Kept for the life of the pod."""
    rejection: str | None = None
    """Why the checkpoint cannot be served, so that vLLM was not started.

    Kept until the check of a later start passes.
    """
    ending: str | None = field(default=None, metadata={OMITTED: True})
    """An `EndedBy`: why the launcher is about to end this run. Written in advance, because it may be killed too."""
    boot: str | None = field(default=None, metadata={OMITTED: True})
    """The boot id of the node when this run was started (/proc/sys/kernel/random/boot_id)."""
    computing: str | None = field(default=None, metadata={OMITTED: True})
    """What the engine did after the gate had reported a hang, which shows that it does not hang. None if nothing."""
    plugin: str | None = None
    """The plugin's log line (PLUGIN_LINE) in this run; None until it has been written."""

    @property
    def survives_power_cut(self) -> bool:
        """A start that has lost the incident would hang again."""
        return self.incident is not None

    @property
    def run(self) -> Run:
        return self.pid, self.started_at

    @classmethod
    def read_or_new(cls, path: Path) -> "EngineRecord":
        """Read the record, or return an empty one if the file is missing or invalid."""
        record = cls.read(path) or cls()
        try:
            datetime.fromisoformat(record.started_at or "2026-01-01")
        except ValueError:
            return cls()
        return record
