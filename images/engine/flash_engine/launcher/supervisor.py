"""Running the engine as the first process of a container.

A first process has duties that vLLM does not know of: it must forward signals (the kernel ignores those that a
first process does not handle), take the exits of orphans, and end the engine's whole group, for a tensor-parallel
worker that outlives its parent keeps the GPU's memory.
"""

import os
import re
import selectors
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from types import FrameType

from flash_engine.records import Exit, now

KEPT_LINES = 30
KEPT_ERRORS = 20
"""vLLM tells the cause a hundred lines before its end: each of its processes reports the death of the one below."""

ERROR = re.compile(rb"\w(?:Error|Exception)\b: *\S")
LINE_LIMIT = 2000
COMMAND_NOT_FOUND = 127


class Engine:
    """One run of the engine: started at once, waited for with `wait`."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Raises OSError where the command cannot be started."""
        self._lines: deque[tuple[int, str]] = deque(maxlen=KEPT_LINES)
        self._errors: deque[tuple[int, str]] = deque(maxlen=KEPT_ERRORS)
        self._count = 0
        self._process = subprocess.Popen(
            command, env=dict(environment), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
        )
        self.pid = self._process.pid
        self._asked_to_end = False

    def forward_signals(self) -> None:
        """Pass on what the kubelet sends. A second SIGTERM means that patience has ended."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._forward)

    def wait(self) -> Exit:
        """Pass the engine's output through until it ends; then end what is left of its group."""
        self._pass_output_through()
        code = self._process.wait()
        self._end_group()
        self._reap_orphans()
        name = signal.Signals(-code).name if code < 0 else None
        return Exit(code=None if code < 0 else code, signal=name, at=now(), last_lines=self._last_lines())

    def _forward(self, number: int, _frame: FrameType | None) -> None:
        chosen = signal.SIGKILL if self._asked_to_end else signal.Signals(number)
        self._asked_to_end = True
        self._signal_group(chosen)

    def _pass_output_through(self) -> None:
        """Until the engine has ended; a worker that still holds the pipe must not keep us waiting."""
        if self._process.stdout is None:
            raise RuntimeError("the engine was started without a pipe")
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            unfinished = b""
            while True:
                ended = self._process.poll() is not None
                if not selector.select(timeout=0 if ended else 0.5):
                    if ended:
                        break
                    continue
                chunk = os.read(self._process.stdout.fileno(), 65536)
                if not chunk:
                    break
                unfinished = self._keep(unfinished + chunk)
                sys.stdout.buffer.write(chunk)
                sys.stdout.buffer.flush()
            self._keep(unfinished + b"\n" if unfinished else b"")
        self._process.stdout.close()

    def _keep(self, text: bytes) -> bytes:
        """Remember whole lines; returns what is not a whole line yet."""
        *whole, rest = text.split(b"\n")
        for line in whole:
            decoded = line.decode(errors="replace").rstrip()[:LINE_LIMIT]
            if decoded:
                self._count += 1
                kept = self._errors if ERROR.search(line) else self._lines
                kept.append((self._count, decoded))
        return rest

    def _last_lines(self) -> tuple[str, ...]:
        """The last lines, and the last errors among all lines, in the order in which they came."""
        return tuple(line for _, line in sorted([*self._errors, *self._lines]))

    def _end_group(self, patience: float = 5.0) -> None:
        deadline = time.monotonic() + patience
        self._signal_group(signal.SIGTERM)
        while self._group_is_alive():
            self._reap_orphans()
            if time.monotonic() > deadline:
                self._signal_group(signal.SIGKILL)
            time.sleep(0.05)

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
        """Only a first process inherits orphans; anywhere else there are none to take."""
        while True:
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
