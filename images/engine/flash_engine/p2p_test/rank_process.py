"""One rank as a process: started in a session of its own, listened to, and killed with all that it has started."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from typing import IO

from flash_engine.p2p_test.judgement import Rank
from flash_engine.p2p_test.rank_progress import Account
from flash_engine.processes import Process, process_tree

CHUNK = 1 << 12
LAST_CHUNKS = 16
"""As much as a pipe can hold by default."""
LINE_LIMIT = 1 << 14
"""Bytes; a longer line is none of ours."""
LAST_WORDS = 400
_OVER = ("Z", "X")


class RankProcess:
    """Raises OSError where the command cannot be started."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            command,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self._out, self._err = _opened(self._process.stdout), _opened(self._process.stderr)
        self._account = Account()
        self._said_at = time.monotonic()
        self._ready_at: float | None = None
        self._exit_code: int | None = None
        self._rest = b""
        self._tail = b""

    @property
    def pipes(self) -> tuple[IO[bytes], ...]:
        """What can still be listened to; a pipe that has ended would wake its listener for ever."""
        return tuple(pipe for pipe in (self._out, self._err) if not pipe.closed)

    def listen(self) -> Rank:
        """Take what it has said meanwhile, without waiting for more. Its exit is looked at first: no word gets lost."""
        exit_code = self._process.poll()
        for _ in range(1 if exit_code is None else LAST_CHUNKS):
            self._take_lines(_drained(self._out))
        self._tail = (self._tail + _drained(self._err))[-LAST_WORDS:]
        if exit_code is not None and self._exit_code is None:
            self._exit_code, self._said_at = exit_code, time.monotonic()
        words = " ".join(self._tail.decode(errors="replace").split())
        return Rank(self._account, self._said_at, self._ready_at, self._exit_code, words)

    def kill(self) -> None:
        """And what it has started, even where that has a session of its own. Returns at once."""
        outside = [process.pid for process in self._living() if process.session != self._process.pid]
        # A group's number is its own while anything is left of it; that nothing is left is no error.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        for pid in outside:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def left(self) -> tuple[int, ...]:
        """The processes that have not ended; takes the rank's exit."""
        self._process.poll()
        return tuple(process.pid for process in self._living())

    def close(self) -> None:
        for pipe in self.pipes:
            pipe.close()

    def _living(self) -> list[Process]:
        return [process for process in process_tree(self._process.pid).processes if process.state not in _OVER]

    def _take_lines(self, said: bytes) -> None:
        *lines, self._rest = (self._rest + said).split(b"\n")
        if len(self._rest) > LINE_LIMIT:
            self._rest = b""
        for line in lines:
            account = self._account.after(line.decode(errors="replace"))
            if account:
                self._account, self._said_at = account, time.monotonic()
        if self._account.ready and self._ready_at is None:
            self._ready_at = self._said_at


def _opened(pipe: IO[bytes] | None) -> IO[bytes]:
    if pipe is None:
        raise TypeError("a rank's output is a pipe")
    os.set_blocking(pipe.fileno(), False)
    return pipe


def _drained(pipe: IO[bytes]) -> bytes:
    """One chunk, so that a process that writes without end cannot keep us; closes what has ended."""
    if pipe.closed:
        return b""
    try:
        said = os.read(pipe.fileno(), CHUNK)
    except BlockingIOError:
        return b""
    if not said:
        pipe.close()
    return said
