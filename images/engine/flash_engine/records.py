"""The documents that launcher and gate share, and the flags that both are given.

Only the standard library: the launcher must be under way within a second, and imports are most of that.
"""

import json
import os
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

VERSION = 1
EFFECTIVE_FILE = "effective.json"
ENGINE_FILE = "engine.json"
SUSPICION_FILE = "suspicion.json"
DRAIN_FILE = "drain.json"
QUARANTINE_FILE = "quarantine"
"""Of the node's folder: the wish to be taken out that the operator has granted, empty where it has granted none."""
TRIAL_FILE = "trial.json"
CHECKPOINT_FILE = "checkpoint.json"

KINDS = ("hang", "corrupt")

PLUGIN_LINE = "flash plugin is active"
"""What the vLLM plugin says once in each of vLLM's processes. vLLM goes on without a plugin that it cannot import, and
then nothing is checked while a checkpoint is loaded."""


class BadDocumentError(ValueError):
    """A document that is not what it should be; the message says in which way."""


@dataclass(frozen=True)
class Flags:
    """What the launcher needs of a flag set: the arguments, the environment, and what must not be in it."""

    document: dict[str, Any]
    args: tuple[str, ...]
    env: dict[str, str]
    unset: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> "Flags":
        """Read a flag set as the operator writes it. Raises BadDocumentError."""
        try:
            document = json.loads(text)
            _check_version(document.get("version"))
            return cls(
                document=document,
                args=tuple(_text(argument["value"]) for argument in document["args"]),
                env={_name(variable["name"]): _text(variable["value"]) for variable in document["env"]},
                unset=tuple(_text(name) for name in document.get("unset", ())),
            )
        except BadDocumentError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise BadDocumentError(f"not a flag set: {type(error).__name__}: {error}") from error

    @property
    def words(self) -> tuple[str, ...]:
        """The arguments as a program gets them: one that takes several values has them after blanks."""
        return tuple(word for argument in self.args for word in argument.split())

    def same_effect(self, other: "Flags") -> bool:
        """The engine would be started alike; rows, reasons and sources may differ."""
        return self.effect == other.effect

    @property
    def effect(self) -> tuple[frozenset[object], ...]:
        return frozenset(self.args), frozenset(self.env.items()), frozenset(self.unset)

    @property
    def spoken(self) -> tuple[str, ...]:
        """Each flag as a person would write it."""
        return (*self.args, *(f"{name}={value}" for name, value in self.env.items()))


def _check_version(version: object) -> None:
    if version != VERSION:
        raise BadDocumentError(f"version {version!r}, and this launcher reads {VERSION}")


def _text(value: object) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise BadDocumentError(f"{value!r} is not a text")
    return value


def _name(value: object) -> str:
    """The name of a variable. The kernel takes no other, and a start that fails on it would fail for ever."""
    name = _text(value)
    if not name or "=" in name:
        raise BadDocumentError(f"{name!r} is not the name of a variable")
    return name


@dataclass(frozen=True)
class Effective:
    """`effective.json`: the flags in force, and where they came from."""

    origin: str
    """annotation, fallback, or recovery: the safe set, after an incident."""
    detail: str
    waited_millis: int
    flags: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        return {
            "version": VERSION,
            "origin": self.origin,
            "detail": self.detail,
            "waitedMillis": self.waited_millis,
            "flags": self.flags,
        }


@dataclass(frozen=True)
class Exit:
    """How an engine ended: by exit code or by signal, and what it said last."""

    code: int | None
    signal: str | None
    at: str
    last_lines: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {"code": self.code, "signal": self.signal, "at": self.at, "lastLines": list(self.last_lines)}

    @classmethod
    def parse(cls, raw: dict[str, Any]) -> "Exit":
        return cls(raw.get("code"), raw.get("signal"), raw.get("at", ""), tuple(raw.get("lastLines", ())))


@dataclass(frozen=True)
class Suspicion:
    """`suspicion.json`: what the gate saw of one run of the engine, and only another start can mend.

    Its requests reach what no look from outside does: an engine may answer /health and never give a token, or give
    wrong ones.
    """

    kind: str
    """hang or corrupt."""
    signature: str
    """S3 or S4 of docs/topology.md."""
    message: str
    pid: int | None
    started_at: str | None
    at: str

    @property
    def run(self) -> tuple[int | None, str | None]:
        """The run of the engine that it is about, as in EngineRecord."""
        return self.pid, self.started_at

    def to_json(self) -> dict[str, Any]:
        return {
            "version": VERSION,
            "kind": self.kind,
            "signature": self.signature,
            "message": self.message,
            "pid": self.pid,
            "startedAt": self.started_at,
            "at": self.at,
        }

    @classmethod
    def parse(cls, text: bytes) -> "Suspicion":
        """Raises BadDocumentError."""
        try:
            raw = json.loads(text)
            _check_version(raw.get("version"))
            return cls(
                kind=_kind(raw["kind"]),
                signature=_text(raw["signature"]),
                message=_text(raw["message"]),
                pid=raw["pid"],
                started_at=raw["startedAt"],
                at=_text(raw["at"]),
            )
        except BadDocumentError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise BadDocumentError(f"not a suspicion: {type(error).__name__}: {error}") from error


def _kind(value: object) -> str:
    if value not in KINDS:
        raise BadDocumentError(f"{value!r} is none of {', '.join(KINDS)}")
    return str(value)


@dataclass(frozen=True)
class Incident:
    """What the launcher ended an engine for, to start it again with the safe set. One a pod, and it stays."""

    kind: str
    """hang or corrupt."""
    signature: str
    """S1 to S4 of docs/topology.md."""
    detail: str
    at: str
    row: str
    """The row of the flags table that was in force."""
    flags: tuple[str, ...]
    evidence: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "signature": self.signature,
            "detail": self.detail,
            "at": self.at,
            "row": self.row,
            "flags": list(self.flags),
            "evidence": self.evidence,
        }

    @classmethod
    def parse(cls, raw: dict[str, Any]) -> "Incident":
        return cls(
            kind=_kind(raw.get("kind")),
            signature=raw.get("signature", ""),
            detail=raw.get("detail", ""),
            at=raw.get("at", ""),
            row=raw.get("row", ""),
            flags=tuple(raw.get("flags", ())),
            evidence=dict(raw.get("evidence", {})),
        )


@dataclass(frozen=True)
class EngineRecord:
    """`engine.json`: the phase of the engine process. It outlives restarts of the container."""

    phase: str = "WaitingForFlags"
    """WaitingForFlags, Starting (started, and not known to have ended) or Exited."""
    pid: int | None = None
    started_at: str | None = None
    starts: int = 0
    command: tuple[str, ...] = field(default=())
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

    def to_json(self) -> dict[str, Any]:
        return {
            "version": VERSION,
            "phase": self.phase,
            "pid": self.pid,
            "startedAt": self.started_at,
            "starts": self.starts,
            "command": list(self.command),
            "exit": self.exit.to_json() if self.exit else None,
            "incident": self.incident.to_json() if self.incident else None,
            "rejection": self.rejection,
            "plugin": self.plugin,
        }

    @property
    def run(self) -> tuple[int | None, str | None]:
        """What tells one run of the engine from another: in a container the pid alone is always the same."""
        return self.pid, self.started_at

    @classmethod
    def read(cls, path: Path) -> "EngineRecord":
        """The record on disk; an empty one where there is none, or none that makes sense."""
        try:
            return cls.parse(read_document(path) or {})
        except (TypeError, ValueError, AttributeError):
            return cls()

    @classmethod
    def parse(cls, raw: dict[str, Any]) -> "EngineRecord":
        """Read a record back; what is missing keeps its default."""
        started_at = raw.get("startedAt")
        if started_at is not None:
            datetime.fromisoformat(started_at)
        return cls(
            phase=raw.get("phase", "WaitingForFlags"),
            pid=raw.get("pid"),
            started_at=started_at,
            starts=int(raw.get("starts", 0)),
            command=tuple(raw.get("command", ())),
            exit=Exit.parse(raw["exit"]) if raw.get("exit") else None,
            incident=Incident.parse(raw["incident"]) if raw.get("incident") else None,
            rejection=raw.get("rejection"),
            plugin=raw.get("plugin"),
        )


def now() -> str:
    """The time as RFC 3339, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def write_document(path: Path, document: dict[str, Any]) -> None:
    """Replace a document in one step: a reader sees the old one or the new one, never half of one."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_text(json.dumps(document, indent=1))
    unfinished.replace(path)


def read_document(path: Path) -> dict[str, Any] | None:
    """A document, or None while there is none that can be read."""
    try:
        document = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None
