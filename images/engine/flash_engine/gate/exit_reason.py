"""Explains why an engine exited: the verdict's reason, and a message with the cause and the remedy.

    evidence                                             reason
    its container was stopped, or its node restarted     EngineExited; says nothing about the engine
    its log shows a root cause                           OutOfMemory or EngineExited, by the kind of the cause
    the kernel killed a process for lack of memory       OutOfMemory
    killed, by something that the pod does not record    EngineExited; the cause is unknown
    anything else                                        EngineExited, with the best line of its log

OutOfMemory requires evidence, because the operator rolls back a template for it: the kernel's count of such kills, or a
message of the kernel, CUDA, NCCL or vLLM. A SIGKILL alone is not enough: anything may have sent it.
"""

import signal
from collections.abc import Sequence

from flash_contracts.engine_record import EndedBy, EngineExit
from flash_contracts.verdict_reason import Reason
from flash_engine.engine_log.cause import Cause, crash_advice, find_cause
from flash_engine.engine_log.kinds import MORE_HOST_MEMORY
from flash_engine.engine_log.reader import Level

SIGNALLED = 128
"""A shell between launcher and engine exits with this plus the number of the signal that ended its child."""

WHO_KILLED = (
    "the pod does not record what killed it: kubectl describe pod shows OOMKilled if it exceeded "
    "engine.resources.limits.memory; otherwise check the node's dmesg and events"
)
SEE_LOG = "see the log of container engine (kubectl logs --previous)"

_ENDED_BY = {
    EndedBy.STOP: "the engine stopped because its container was told to terminate",
    EndedBy.STOP_TIMEOUT: "the launcher killed the engine because it did not stop in time",
    EndedBy.SECOND_SIGNAL: "the launcher killed the engine because its container got a second stop signal",
    EndedBy.INCIDENT: "the launcher killed the engine because it hung or gave wrong answers",
    EndedBy.REBOOT: "the engine ended because its node restarted",
    EndedBy.CONTAINER: f"the engine was killed together with its whole container; {WHO_KILLED}",
}


def earlier_end(ended: EngineExit) -> str:
    """How the previous run ended if that says nothing about the engine; otherwise empty."""
    reason = ended.end_reason
    return f"previously, {_ENDED_BY[reason]}" if reason and reason.is_no_fault else ""


def explain_exit(ended: EngineExit, starts: int) -> tuple[Reason, str]:
    """The reason of the verdict, and its message."""
    so_far = f"({starts} {'start' if starts == 1 else 'starts'} so far)"
    reason = ended.end_reason
    if reason:
        return Reason.ENGINE_EXITED, f"{_ENDED_BY[reason]} {so_far}"
    if ended.detail:
        return Reason.ENGINE_EXITED, f"the engine exited with {_exit_status(ended)} {so_far}: {ended.detail}"
    cause = find_cause(ended.last_lines, ended.stale_lines)
    status = f"the engine exited with {_exit_status(ended)} {so_far}"
    if cause.out_of_memory:
        return Reason.OUT_OF_MEMORY, f"{status}: {cause.text}; {cause.advice}"
    is_explained = cause.level in (Level.ROOT, Level.WRAPPER, Level.EXPLANATION)
    if ended.oom_kills and not is_explained:
        killed = "a process" if ended.oom_kills == 1 else f"{ended.oom_kills} processes"
        return Reason.OUT_OF_MEMORY, (
            f"{status}: the kernel killed {killed} of its container for lack of memory; {MORE_HOST_MEMORY}"
        )
    if not is_explained and _was_killed(ended):
        return Reason.ENGINE_EXITED, f"{status}: killed; {WHO_KILLED}"
    return Reason.ENGINE_EXITED, f"{status}: {_cause_text(cause)}; {cause.advice or _advice(ended, cause)}"


def _cause_text(cause: Cause) -> str:
    """A line without an error is not a cause, whatever it says."""
    if not cause.text:
        return "it logged nothing"
    return cause.text if cause.level > Level.ROUTINE else f"it logged no error; its last line is: {cause.text}"


def _advice(ended: EngineExit, cause: Cause) -> str:
    return (crash_advice(_signal_of(ended)) if cause.level < Level.EXPLANATION else "") or SEE_LOG


def _was_killed(ended: EngineExit) -> bool:
    return _signal_of(ended) == signal.SIGKILL.name


def _signal_of(ended: EngineExit) -> str:
    """The signal that ended the engine, even behind a shell; empty if it exited."""
    number = (ended.code or 0) - SIGNALLED
    return ended.signal or next((known.name for known in signal.Signals if known == number), "")


def _exit_status(ended: EngineExit) -> str:
    if ended.signal:
        return f"signal {ended.signal}"
    behind_shell = _signal_of(ended)
    return f"exit code {ended.code} ({behind_shell})" if behind_shell else f"exit code {ended.code}"


def cause_line(lines: Sequence[str]) -> str:
    """The line that shows the cause; the last line if there is no error; empty if there is no output."""
    return find_cause(lines).text


def ran_out_of_memory(lines: Sequence[str]) -> bool:
    """Whether the cause that the lines show is a lack of memory: of the GPU, of the host or in /dev/shm."""
    return find_cause(lines).out_of_memory
