"""Running the engine as the first process of a container.

A first process has duties that vLLM does not know of: it must forward signals (the kernel ignores those that a
first process does not handle), take the exits of orphans, and end the engine's whole group, for a tensor-parallel
worker that outlives its parent keeps the GPU's memory.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from types import FrameType

from flash_contracts.document import now
from flash_contracts.engine_record import Exit, Incident
from flash_engine.launcher.engine_run import EngineRun
from flash_engine.launcher.progress import Progress

COMMAND_NOT_FOUND = 127
IDLE_SECONDS = 0.5
"""How often a silent engine is looked at."""

GROUP_SECONDS = 5.0
"""What is left of the engine's group gets this long after SIGTERM, and as long again after SIGKILL: a worker that is
stuck in the GPU's driver does not end even then, and must not keep the exit from being written down."""

KILL_SECONDS = 30.0
"""A process with tens of gigabytes on a GPU takes seconds to be undone."""

LAST_WORDS_SECONDS = 1.0


class Supervisor:
    """Runs engines, one after the other: `start`, then `wait`, and `kill` where waiting found a reason to.

    SIGTERM and SIGINT are passed on to the engine, and outlast it: after them none is to be started. A second one, or
    `stop_seconds` after the first, kills the engine's whole group.
    """

    def __init__(self, *, stop_seconds: float) -> None:
        self.asked_to_end = False
        self._stop_seconds = stop_seconds
        self._pending: signal.Signals | None = None
        """A signal that came while no engine was running, or one was being started."""
        self._run: EngineRun | None = None
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._forward)
        signal.signal(signal.SIGALRM, self._patience_has_ended)

    def start(self, command: Sequence[str], environment: Mapping[str, str]) -> int:
        """Returns the engine's pid. Raises OSError where the command cannot be started."""
        process = subprocess.Popen(
            command, env=dict(environment), stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )
        self._run = EngineRun(process)
        # A signal that came while the engine was being started must not be lost either.
        self._forward_pending()
        return process.pid

    @property
    def progress(self) -> Progress:
        """How far the engine that was started last has come."""
        return self._started.progress

    def wait(self, watch: Callable[[], Incident | None]) -> Exit | Incident:
        """Pass the engine's output through until it ends, and end what is left of its group then.

        Or until `watch`, which is asked every IDLE_SECONDS, finds an incident; the engine is running then. One that
        was asked to end is not watched any more.
        """
        run = self._started
        asked = time.monotonic()
        while run.process.poll() is None:
            run.pass_output(IDLE_SECONDS)
            self._reap_orphans()
            if time.monotonic() - asked >= IDLE_SECONDS and not self.asked_to_end:
                asked = time.monotonic()
                incident = watch()
                if incident:
                    return incident
        signal.setitimer(signal.ITIMER_REAL, 0)
        # A worker that outlives the engine keeps the GPU's memory.
        self._end_group(signal.SIGTERM, GROUP_SECONDS)
        self._end_group(signal.SIGKILL, GROUP_SECONDS)
        self._pass_last_words()
        return self._finish(run)

    def kill(self) -> Exit | None:
        """End the engine's group at once: one that hangs heeds no SIGTERM. None where it is not gone in time.

        A process that is stuck in the GPU's driver ends when the driver lets it, which may be never.
        """
        run = self._started
        self._end_group(signal.SIGKILL, KILL_SECONDS)
        self._pass_last_words()
        if run.process.poll() is None or self._group_is_alive():
            return None
        return self._finish(run)

    def close(self) -> None:
        """What is left is to pass on the engine's exit code; a late signal must not put its own in its place."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)

    def _finish(self, run: EngineRun) -> Exit:
        run.close()
        self._run = None
        code = run.process.returncode
        name = signal.Signals(-code).name if code < 0 else None
        return Exit(code=None if code < 0 else code, signal=name, at=now(), last_lines=run.last_lines.kept())

    @property
    def _started(self) -> EngineRun:
        if self._run is None:
            raise RuntimeError("no engine was started")
        return self._run

    def _forward(self, number: int, _frame: FrameType | None) -> None:
        """The first to the engine alone: its API server ends the others, after it has let requests finish."""
        if self.asked_to_end:
            self._pending = signal.SIGKILL
        else:
            self.asked_to_end = True
            self._pending = signal.Signals(number)
            signal.setitimer(signal.ITIMER_REAL, self._stop_seconds)
        self._forward_pending()

    def _forward_pending(self) -> None:
        run, pending = self._run, self._pending
        if run is None or pending is None:
            return
        self._pending = None
        if pending is signal.SIGKILL:
            self._signal_group(pending)
        else:
            run.process.send_signal(pending)

    def _patience_has_ended(self, _number: int, _frame: FrameType | None) -> None:
        self._signal_group(signal.SIGKILL)

    def _end_group(self, number: signal.Signals, seconds: float) -> None:
        """And pass its output on meanwhile, for a process that cannot write its last words cannot end."""
        run = self._started
        self._signal_group(number)
        deadline = time.monotonic() + seconds
        while self._group_is_alive() and time.monotonic() < deadline:
            run.pass_output(0.05)
            run.process.poll()
            self._reap_orphans()

    def _pass_last_words(self) -> None:
        """A process that left the group may hold the pipes, and write for ever."""
        deadline = time.monotonic() + LAST_WORDS_SECONDS
        while self._started.pass_output(0) and time.monotonic() < deadline:
            pass

    def _group_is_alive(self) -> bool:
        try:
            os.killpg(self._started.process.pid, 0)
        except ProcessLookupError:
            return False
        return True

    def _signal_group(self, number: signal.Signals) -> None:
        if self._run is None:
            return
        try:
            os.killpg(self._run.process.pid, number)
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
            process = self._started.process
            if ended is None or (ended.si_pid == process.pid and process.returncode is None):
                return
            os.waitpid(ended.si_pid, 0)
