"""Rates each line of an engine's log as evidence, reading them in order.

When an engine dies, its log says so many times: each process reports the death of its child, each request fails, every
rank's threads print their stacks. The levels separate the few lines that show the cause from its many consequences.
"""

import re
from dataclasses import dataclass
from enum import IntEnum

from flash_engine.engine_log.kinds import CRASHES, NATIVE, NCCL, PYDANTIC, TOOLCHAIN, UNKNOWN, Kind, kind_of
from flash_engine.engine_log.line import LogLine, read_line
from flash_engine.engine_log.user_text import goes_on_below, is_about_a_request


class Level(IntEnum):
    """How much a line proves, from nothing to the cause itself."""

    ROUTINE = 0
    """Says nothing about a failure."""
    FRAME = 1
    """A line of a stack."""
    REQUEST = 2
    """About one request of a user: never the cause of an exit."""
    CONSEQUENCE = 3
    """Reports that another process failed."""
    SECONDARY = 4
    """An error that an earlier line explains, if there is one."""
    SILENT_DEATH = 5
    """Reports that a process died without logging anything."""
    EXPLANATION = 6
    """A warning that explains an error."""
    WRAPPER = 7
    """Wraps a more specific line, which follows."""
    ROOT = 8
    """Shows the cause."""


@dataclass(frozen=True)
class Reading:
    """A line with its level."""

    line: LogLine
    level: Level
    kind: Kind = UNKNOWN
    is_fatal: bool = False
    """The process did not survive this: it had logged that it fails, or it crashed."""


_SUSPECT = re.compile(
    r"rror|xcep|atal|ail|egfault|bort|erminat|what\(\)|died|[Kk]ill|emory|SIG|Warn|WARN|ptxas|nvcc|imed out"
    r"|imeout|not found"
    r"|frame #|File \"|Xid|/dev/shm|space left|core dump|\bExit|nterrupt|Assert|llegal|free\(|malloc|Aborted"
    r"|process|alive"
    r"|cannot|annot|can't|undefined|nccl|NCCL|CU[A-Z]+_STATUS|ECC|ncaught|no such|No such|too old|too many"
    r"|Unsupported"
    r"|unsupported|GLIBC|pure virtual|stack smash|corrupted|double free|too much|exceed|out of",
)
"""Lines without any of this are routine, and skipped quickly."""

_FRAME = re.compile(
    r'^File "[^"]*", line \d+|^(?:frame )?#\d+:? |^@ +0x|^[\w./-]+\(\+?[\w]*0x|^\[0x[0-9a-f]+\]'
    r"|^Extension modules:"
    r"|^(?:Current thread|Thread) 0x|^\^+$|^~*\^+~*$|^Traceback \(most recent call last\)"
)
_NOTE = re.compile(
    r"^Search for `|^CUDA kernel errors might|^For (?:debugging|more|further)|^Compile with `|^Exception raised from"
    r"|^Set TORCH|^You can suppress|^See https?:|^Repro command|^If you |for benchmark choice|^\(Triggered"
)
"""Advice and remarks that follow errors, or that healthy engines log."""

_CONSEQUENCE = re.compile(
    r"[Ss]ee (?:the )?(?:root cause|stack trace|error|logs?)\b.{0,40}(?:above|for (?:the )?root cause)"
    r"|check the stack trace above"
    r"|[Ee]ngine core initialization failed|WorkerProc initialization failed|Engine process failed to start"
    r"|EngineDeadError|[Ff]ailed core proc|EngineGenerateError|[Ee]ngine loop (?:has died|is not running)"
    r"|Engine is dead"
    r"|EngineCore (?:failed|encountered)|WorkerProc (?:failed|hit)|output_handler failed|[Ss]hutting down"
    r"|(?:during|in|at) shutdown"
    r"|[Cc]onnection (?:was )?(?:closed|reset)(?: by)?|Broken ?[Pp]ipe|ConnectionResetError|ConnectionAbortedError"
    r"|\bEOFError\b|IncompleteReadError|CancelledError|resource_tracker|leaked (?:semaphore|shared_memory)"
    r"|destroy_process_group|Exception ignored in|ncclRemoteError|remote process (?:exited|has)"
    r"|recvValue failed|TCPStore"
    r"|[Hh]eartbeat|GeneratorExit|SystemExit|KeyboardInterrupt|To avoid data inconsistency"
    r"|NCCL operations have failed"
    r"|Stream is aborted|taking the entire process down|Parent process exited|Failed to check the \"should dump\""
    r"|^(?:Worker|Process|Engine)\S* (?:process )?(?:\d+ )?(?:exiting|terminating|stopped)"
    r"|communicator was aborted|ncclCommAbort"
    r"|first root cause|ChildFailedError|SignalException|ProcessExitedException"
    r"|Exception \(either an error or timeout\)"
    r"|has been signaled to abort|background (?:loop|process)|worker.{0,30}has died|Context was terminated"
)
_SECONDARY = re.compile(
    r"RuntimeError: cancelled|Failed to infer device type|No CUDA GPUs are available|no CUDA-capable device"
    r"|terminate called without an active exception|DeferredCudaCallError|Event loop is closed|__del__"
    r"|interpreter shutdown"
    r"|Found no NVIDIA driver|Torch not compiled with CUDA|No platform detected"
)
_SILENT_DEATH = re.compile(
    r"(?:[Pp]roc(?:ess)?|RayWorkerProc|[Ww]orker|[Ee]ngine|[Ww]orkers?|ranks?|actor)\b.{0,60}\b"
    r"(?:died|exited|terminated|killed|dead|is not alive|disappeared)\b"
    r".{0,40}(?:unexpectedly|signal|exit ?code|code|without|prematurely|by )"
    r"|died unexpectedly|(?:exit ?code|exitcode|returncode|\bcode)[:= ]+-\d+|WorkerCrashedError|ActorDiedError"
    r"|WorkerLostError|\s\d+ Killed\s"
)
_FATAL_MARK = re.compile(
    r"failed to start|encountered a fatal error|hit an exception|failed during|initialization failed|startup failed"
)
_WRAPPER = re.compile(
    r"Ninja build failed|Error building extension|[Cc]ompilation (?:failed|error)|codegen error|PTXAS ?[Ee]rror"
    r"|autotuning code block"
    r"|unhandled (?:system|cuda) error|nccl[A-Z]\w+: "
    r"|terminate called after throwing|\d+ validation errors? for|CalledProcessError|returned non-zero|command failed"
    r"|BackendCompilerFailed|InductorError|TorchRuntimeError|CppCompileError|RayTaskError|RemoteError"
    r"|ProcessRaisedException"
    r"|terminated with the following error|Worker failed with error|InternalTorchDynamoError|DistBackendError"
    r"|jit.*failed|^what\(\):"
)
_NAMED = re.compile(
    r"(?:^|[\s(:'\"])(?:[\w.]+\.)?[A-Z]\w*(?:Error|Exception|Exit|Failure|Timeout|OutOfResources)\b: *\S"
)
_BARE = re.compile(r"^(?:[\w.]+\.)?[A-Z]\w*(?:Error|Exception|Failure|Timeout)\.?:?$")
_PLAIN = re.compile(r"(?:^|\s)(?:error|fatal)\b ?: \S|^(?:Error|Fatal|FATAL|Failed)\b", re.IGNORECASE)
_WARNING = re.compile(r"\b\w*Warning: |NCCL WARN|^W(?:ARN|arning)")
_SUPPOSED = re.compile(r"\b(?:if|may|might|could|avoid|prevent)\b.{0,80}(?:memory|space left|limit)", re.IGNORECASE)
"""A warning about what might happen is no evidence that it did."""
EXPLAINING = frozenset(
    ("driver", "cards", "GPU setup", "GPU failure", "shared memory", "host memory", "GPU memory", "disk", "limits")
)  # fmt: skip
"""Kinds whose warnings explain a later error."""
CHAIN = re.compile(r"^The above exception was the direct cause of|^During handling of the above exception")
_CRASH_HEADER = re.compile(r"^!+ Segfault|^Fatal Python error|^terminate called|^\*\*\* (?:SIG|Aborted)")


class Reader:
    """Reads lines in order, and remembers for each process what its next lines belong to."""

    def __init__(self) -> None:
        self._in_request: set[str] = set()
        """Processes whose next lines without a level belong to a request."""
        self._failing: set[str] = set()
        """Processes that have logged that they fail."""

    def read(self, raw: str) -> Reading:
        line = read_line(raw)
        if self._belongs_to_request(line):
            return Reading(line, Level.REQUEST)
        if line.level in ("INFO", "DEBUG") or not _SUSPECT.search(line.text):
            return Reading(line, Level.ROUTINE)
        if _FATAL_MARK.search(line.text):
            self._failing.add(line.who)
        level, kind = _classify(line)
        is_fatal = kind in CRASHES or line.who in self._failing
        if level is Level.SECONDARY and is_fatal and _BARE.match(line.text):
            level = Level.ROOT
        return Reading(line, level, kind, is_fatal)

    def _belongs_to_request(self, line: LogLine) -> bool:
        if goes_on_below(line):
            self._in_request.add(line.process)
            return True
        if line.process in self._in_request and not line.level and not _CRASH_HEADER.match(line.text):
            return True
        self._in_request.discard(line.process)
        return is_about_a_request(line)


def _classify(line: LogLine) -> tuple[Level, Kind]:  # noqa: PLR0911 - a return for each level
    text = line.text
    if _FRAME.match(text):
        return Level.FRAME, UNKNOWN
    if _NOTE.search(text):
        return Level.ROUTINE, UNKNOWN
    kind = kind_of(text) or UNKNOWN
    if line.level == "WARNING" or _WARNING.search(text):
        explains = kind.name in EXPLAINING and not (_CONSEQUENCE.search(text) or _SUPPOSED.search(text))
        return (Level.EXPLANATION if explains else Level.ROUTINE), kind
    derived = _derived(text, kind)
    if derived is not None:
        return derived, kind
    if text.startswith("what():"):
        return Level.ROOT, kind
    if _WRAPPER.search(text) and kind in (UNKNOWN, NCCL, NATIVE, PYDANTIC, TOOLCHAIN):
        return Level.WRAPPER, kind
    # An indented line is a program's source, unless it is an exception of a group.
    if line.is_indented and not _NAMED.search(text):
        return Level.ROUTINE, UNKNOWN
    if kind is not UNKNOWN or _NAMED.search(text):
        return Level.ROOT, kind
    return (Level.SECONDARY if _BARE.match(text) or _PLAIN.search(text) else Level.ROUTINE), UNKNOWN


def _derived(text: str, kind: Kind) -> Level | None:
    """The level of a consequence; None for any other line, which may be or quote the cause itself."""
    if _SECONDARY.search(text):
        return Level.SECONDARY
    if kind in (UNKNOWN, NCCL, *CRASHES) and _SILENT_DEATH.search(text):
        return Level.SILENT_DEATH
    return Level.CONSEQUENCE if kind in (UNKNOWN, NCCL) and _CONSEQUENCE.search(text) else None
