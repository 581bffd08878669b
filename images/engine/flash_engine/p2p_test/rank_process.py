"""One rank as a child process: its start, the progress it reports, and killing it with all its descendants."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import IO, Any

from flash_engine.p2p_test.payload import TIMED_BYTES
from flash_engine.processes import FamilyMark

END_STEPS = ("wrong", "refused", "failed", "done")
_DETAIL_LIMIT = 500
_MICROS_LIMIT = 1e9

CHUNK = 1 << 12
FULL_PIPE_CHUNKS = 16
"""A pipe holds at most this many chunks by default."""
LINE_LIMIT = 1 << 14
"""Bytes. No rank writes longer lines, so a longer one is another program's output."""
STDERR_TAIL = 400


@dataclass(frozen=True)
class RankProgress:
    """Everything a rank has reported so far, one JSON object per line on its standard output.

    {"step": "device", "uuid": "GPU-…", "nccl": "2.30.4"}    it has found its GPU
    {"step": "ready", "kernel": "triton"}                    it has started and joined the other rank
    {"step": "begun", "what": "bf16, 8192 bytes, eager"}     it begins to check or time something
    {"step": "note", "detail": "…"}                          a remark for the report
    {"step": "timed", "bytes": 8192, "micros": 9.1}          the time of one all-reduce
    {"step": "wrong" | "refused" | "failed", "detail": "…"}  the end: wrong data; NCCL or the driver refuses; an error
    {"step": "done"}                                         the end: every check passed
    """

    gpu: str | None = None
    nccl: str | None = None
    ready: bool = False
    kernel: str = ""
    current_step: str = "start-up"
    notes: tuple[str, ...] = ()
    micros: Mapping[int, float] = field(default_factory=dict)
    end: str | None = None
    """One of `END_STEPS`."""
    detail: str = ""

    def after(self, line: str) -> "RankProgress | None":
        """None for a line that is not a step: libraries print too, and that is not progress."""
        try:
            step = json.loads(line)
        except (ValueError, RecursionError):
            return None
        return self._with(step) if isinstance(step, dict) else None

    def _with(self, fields: dict[str, Any]) -> "RankProgress | None":
        step = fields.get("step")
        if step in END_STEPS:
            return replace(self, end=step, detail=_text(fields, "detail"))
        match step:
            case "device":
                return replace(self, gpu=_text(fields, "uuid") or None, nccl=_text(fields, "nccl") or None)
            case "ready":
                return replace(self, ready=True, kernel=_text(fields, "kernel"), current_step="the first step")
            case "begun":
                return replace(self, current_step=_text(fields, "what"))
            case "note":
                return replace(self, notes=(*self.notes, _text(fields, "detail")))
        return self._timed(fields) if step == "timed" else None

    def _timed(self, fields: dict[str, Any]) -> "RankProgress | None":
        size, micros = fields.get("bytes"), fields.get("micros")
        if size not in TIMED_BYTES or not isinstance(micros, int | float) or not 0 <= micros < _MICROS_LIMIT:
            return None
        return replace(self, micros={**self.micros, size: float(micros)})


def _text(fields: dict[str, Any], name: str) -> str:
    return " ".join(str(fields.get(name) or "").split())[:_DETAIL_LIMIT]


@dataclass(frozen=True)
class RankState:
    """A snapshot of one rank. Times are seconds on the time.monotonic clock."""

    progress: RankProgress
    progress_at: float
    """Time of its start, of its last reported step, or of its exit, whichever is latest."""
    ready_at: float | None = None
    exit_code: int | None = None
    """Negative for a signal, None while it runs."""
    stderr_tail: str = ""

    @property
    def has_ended(self) -> bool:
        return self.exit_code is not None or self.progress.end is not None

    @property
    def has_passed(self) -> bool:
        return self.progress.end == "done"


class RankProcess:
    """Starts the command in a session of its own. Raises OSError if it cannot be started."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        mark = FamilyMark()
        self._process = subprocess.Popen(
            command,
            env=mark.marked(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self._family = mark.family(self._process.pid)
        self._out, self._err = _non_blocking(self._process.stdout), _non_blocking(self._process.stderr)
        self._progress = RankProgress()
        self._progress_at = time.monotonic()
        self._ready_at: float | None = None
        self._exit_code: int | None = None
        self._partial_line = b""
        self._stderr_tail = b""

    @property
    def pipes(self) -> tuple[IO[bytes], ...]:
        """The pipes to select on. Closed ones are left out, since select would return for them at once, forever."""
        return tuple(pipe for pipe in (self._out, self._err) if not pipe.closed)

    def poll(self) -> RankState:
        """Read new output without blocking. The exit code is taken first, so that no output is lost."""
        exit_code = self._process.poll()
        for _ in range(1 if exit_code is None else FULL_PIPE_CHUNKS):
            self._take_lines(_read_chunk(self._out))
        self._stderr_tail = (self._stderr_tail + _read_chunk(self._err))[-STDERR_TAIL:]
        if exit_code is not None and self._exit_code is None:
            self._exit_code, self._progress_at = exit_code, time.monotonic()
        stderr = " ".join(self._stderr_tail.decode(errors="replace").split())
        return RankState(self._progress, self._progress_at, self._ready_at, self._exit_code, stderr)

    def kill(self) -> None:
        """Kill the rank and everything that came from it. Does not wait."""
        self._family.signal(signal.SIGKILL)

    def survivors(self) -> tuple[int, ...]:
        """Reap the rank, and return the processes that have not ended."""
        self._process.poll()
        return tuple(process.pid for process in self._family.living())

    def close(self) -> None:
        for pipe in self.pipes:
            pipe.close()

    def _take_lines(self, output: bytes) -> None:
        *lines, self._partial_line = (self._partial_line + output).split(b"\n")
        if len(self._partial_line) > LINE_LIMIT:
            self._partial_line = b""
        for line in lines:
            progress = self._progress.after(line.decode(errors="replace"))
            if progress:
                self._progress, self._progress_at = progress, time.monotonic()
        if self._progress.ready and self._ready_at is None:
            self._ready_at = self._progress_at


def _non_blocking(pipe: IO[bytes] | None) -> IO[bytes]:
    if pipe is None:
        raise TypeError("a rank's output must be a pipe")
    os.set_blocking(pipe.fileno(), False)
    return pipe


def _read_chunk(pipe: IO[bytes]) -> bytes:
    """Read at most one chunk, so that a process that never stops writing cannot block us. Closes a pipe at its end."""
    if pipe.closed:
        return b""
    try:
        output = os.read(pipe.fileno(), CHUNK)
    except BlockingIOError:
        return b""
    if not output:
        pipe.close()
    return output
