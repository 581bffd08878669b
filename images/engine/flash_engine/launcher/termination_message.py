"""Writes the message that `kubectl describe pod` shows after the engine's container has ended.

Without one, the kubelet shows the end of the container's log, which may contain users' text and secrets.
"""

from pathlib import Path

from flash_contracts.engine_record import EngineExit
from flash_engine.engine_log.cause import find_cause
from flash_engine.log import Logger

log = Logger("flash.launcher")

KILLED_WITH_LAUNCHER = "killed together with the launcher: the reason and the exit code show what killed it"
LIMIT = 2048
"""Bytes that the kubelet shows."""


def write_message(file: Path | None, message: str) -> None:
    """Write it if the kubelet has mounted the file: otherwise nobody reads it."""
    if file is None or not file.exists():
        return
    try:
        file.write_bytes(message.encode()[:LIMIT])
    except OSError as error:
        log.warning("termination message not written", error=str(error), remedy="check terminationMessagePath")


def message_of(ended: EngineExit) -> str:
    """Who ended the engine, or the cause that its log shows."""
    if ended.ended_by:
        return f"the engine did not exit by itself: {ended.ended_by}"
    cause = find_cause(ended.last_lines, ended.stale_lines).text
    return ended.detail or cause or "the engine logged nothing"
