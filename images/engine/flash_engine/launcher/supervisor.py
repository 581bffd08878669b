"""Running the engine as the first process of a container.

A first process has duties that vLLM does not know of: it must forward signals (the kernel ignores those that a
first process does not handle), take the exits of orphans, and end the engine's whole group, for a tensor-parallel
worker that outlives its parent keeps the GPU's memory.
"""

import os
import selectors
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from types import FrameType

from flash_engine.launcher.last_lines import LastLines
from flash_engine.records import Exit, now

COMMAND_NOT_FOUND = 127
STDOUT, STDERR = 1, 2
IDLE_SECONDS = 0.5
"""How often a silent engine is looked at."""

GROUP_SECONDS = 5.0
"""What is left of the engine's group gets this long after SIGTERM, and as long again after SIGKILL: a worker that is
stuck in the GPU's driver does not end even then, and must not keep the exit from being written down."""

LAST_WORDS_SECONDS = 1.0


class Engine:
    """One run of the engine: started at once, waited for with `wait`.

    SIGTERM and SIGINT are passed on to it. A second one, or `stop_seconds` after the first, kills its whole group.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], *, stop_seconds: float) -> None:
        """Raises OSError where the command cannot be started."""
        self._last_lines = LastLines()
        self._stop_seconds = stop_seconds
        self._asked_to_end = False
        self._pending: signal.Signals | None = None
        """A signal that came while the engine was being started."""
        self._process: subprocess.Popen[bytes] | None = None
        # Before the start: a signal that comes while the engine is being started must not be lost either.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._forward)
        signal.signal(signal.SIGALRM, self._patience_has_ended)
        self._process = subprocess.Popen(
            command, env=dict(environment), stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )
        self.pid = self._process.pid
        self._forward_pending()

    def wait(self) -> Exit:
        """Pass the engine's output through until it ends; then end what is left of its group."""
        process = self._started
        with selectors.DefaultSelector() as pipes:
            for pipe, own in ((process.stdout, STDOUT), (process.stderr, STDERR)):
                if pipe is not None:
                    pipes.register(pipe, selectors.EVENT_READ, own)
            while process.poll() is None:
                self._pass_output(pipes, IDLE_SECONDS)
                self._reap_orphans()
            signal.setitimer(signal.ITIMER_REAL, 0)
            self._end_group(pipes)
        for number in (signal.SIGTERM, signal.SIGINT):
            # What is left is to pass on the engine's exit code; a late signal must not put its own in its place.
            signal.signal(number, signal.SIG_IGN)
        code = process.returncode
        name = signal.Signals(-code).name if code < 0 else None
        return Exit(code=None if code < 0 else code, signal=name, at=now(), last_lines=self._last_lines.kept())

    @property
    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("the engine was not started")
        return self._process

    def _forward(self, number: int, _frame: FrameType | None) -> None:
        """The first to the engine alone: its API server ends the others, after it has let requests finish."""
        if self._asked_to_end:
            self._pending = signal.SIGKILL
        else:
            self._asked_to_end = True
            self._pending = signal.Signals(number)
            signal.setitimer(signal.ITIMER_REAL, self._stop_seconds)
        self._forward_pending()

    def _forward_pending(self) -> None:
        process, pending = self._process, self._pending
        if process is None or pending is None:
            return
        self._pending = None
        if pending is signal.SIGKILL:
            self._signal_group(pending)
        else:
            process.send_signal(pending)

    def _patience_has_ended(self, _number: int, _frame: FrameType | None) -> None:
        if self._process is not None:
            self._signal_group(signal.SIGKILL)

    def _pass_output(self, pipes: selectors.BaseSelector, patience: float) -> bool:
        """Pass on what there is, unchanged; False where nothing came within `patience` seconds."""
        ready = pipes.select(patience)
        for key, _ in ready:
            chunk = os.read(key.fd, 65536)
            if not chunk:
                pipes.unregister(key.fileobj)
            self._last_lines.feed(key.data, chunk)
            _write_all(key.data, chunk)
        return bool(ready)

    def _end_group(self, pipes: selectors.BaseSelector) -> None:
        """And pass on its last words, for a process that cannot write them cannot end."""
        for last_word in (signal.SIGTERM, signal.SIGKILL):
            self._signal_group(last_word)
            deadline = time.monotonic() + GROUP_SECONDS
            while self._group_is_alive() and time.monotonic() < deadline:
                self._pass_output(pipes, 0.05)
                self._reap_orphans()
        # A process that left the group may hold the pipes, and write for ever.
        deadline = time.monotonic() + LAST_WORDS_SECONDS
        while self._pass_output(pipes, 0) and time.monotonic() < deadline:
            pass

    def _group_is_alive(self) -> bool:
        try:
            os.killpg(self.pid, 0)
        except ProcessLookupError:
            return False
        return True

    def _signal_group(self, number: signal.Signals) -> None:
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            return  # it ended by itself

    def _reap_orphans(self) -> None:
        """Take the exits of processes that were left to us, as they are to every first process of a container."""
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            # The engine's own exit stays for `Popen`, which would otherwise take it for exit code 0.
            if ended is None or (ended.si_pid == self.pid and self._started.returncode is None):
                return
            os.waitpid(ended.si_pid, 0)


def _write_all(descriptor: int, chunk: bytes) -> None:
    while chunk:
        chunk = chunk[os.write(descriptor, chunk) :]
