"""What `kubectl describe pod` shows of the engine's container after its end.

Without such a message the kubelet shows the end of the container's log, which may have users' words and secrets.
"""

from pathlib import Path

from flash_contracts.engine_record import EngineExit
from flash_engine.engine_log.cause import find_cause
from flash_engine.log import Logger

log = Logger("flash.launcher")

KILLED_WITH_LAUNCHER = "killed at once together with the launcher: the reason and the exit code show what killed it"
LIMIT = 2048
"""Bytes that the kubelet shows."""


def write_message(file: Path | None, message: str) -> None:
    """Only where the kubelet has mounted the file: elsewhere nobody reads it."""
    if file is None or not file.exists():
        return
    try:
        file.write_bytes(message.encode()[:LIMIT])
    except OSError as error:
        log.warning("termination message not written", error=str(error), remedy="look at terminationMessagePath")


def message_of(ended: EngineExit) -> str:
    """Who ended the engine, or the cause that its log shows."""
    if ended.ended_by:
        return f"the engine was ended: {ended.ended_by}"
    cause = find_cause(ended.last_lines, ended.stale_lines).text
    return ended.detail or cause or "the engine logged nothing"
