"""The request to drain: `drain.json`, which flash-drain writes and the gate and the engine's server read."""

from pathlib import Path

from flash_engine.records import DRAIN_FILE, VERSION, EngineRecord, now, read_document, write_document


def ask(run_dir: Path, record: EngineRecord) -> None:
    """Name the run of the engine that is to drain: one that is started after this serves again. Raises OSError."""
    pid, started_at = record.run
    document = {"version": VERSION, "pid": pid, "startedAt": started_at, "at": now()}
    write_document(run_dir / DRAIN_FILE, document)


def is_asked(run_dir: Path, record: EngineRecord) -> bool:
    asked = read_document(run_dir / DRAIN_FILE) or {}
    return bool(asked) and (asked.get("pid"), asked.get("startedAt")) == record.run
