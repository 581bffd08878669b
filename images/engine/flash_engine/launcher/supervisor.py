"""Runs the engine as PID 1 of a container.

PID 1 has duties that vLLM does not fulfil: it must forward signals (the kernel drops those that PID 1 does not handle),
reap orphans, and end every process that came from the engine, because a tensor-parallel worker that outlives its parent
keeps GPU memory. That includes processes in sessions of their own (`flash_engine.processes.Family`).
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from types import FrameType

from flash_contracts.document import now
from flash_contracts.engine_record import EndedBy, EngineExit, Incident
from flash_engine.launcher.engine_run import EngineRun
from flash_engine.launcher.host_evidence import oom_kills
from flash_engine.launcher.progress import Progress
from flash_engine.processes import FamilyMark, adopt_orphans

COMMAND_NOT_FOUND = 127
IDLE_SECONDS = 0.5
"""How often a silent engine is checked."""

STOPPING_SECONDS = 0.1
"""The same while it is being stopped."""

REST_SECONDS = 5.0
"""How long the engine's remaining processes have after SIGTERM, and again after SIGKILL. A worker stuck in the GPU's
driver does not end even then, and must not delay the exit record."""

KILL_SECONDS = 30.0
"""The kernel takes seconds to tear down a process with tens of gigabytes on a GPU."""

LAST_OUTPUT_SECONDS = 1.0


class Supervisor:
    """Runs engines one after the other: `start`, then `wait`, and `kill` after an incident.

    Forwards SIGTERM and SIGINT to the engine; no engine may be started after them. A second signal, or `stop_seconds`
    after the first, kills the engine and every process that came from it. `record_ending` is called before that, so
    that the reason is on disk even if the launcher is killed too.
    """

    def __init__(self, *, stop_seconds: float, record_ending: Callable[[EndedBy], None]) -> None:
        self.stop_requested = False
        self._stop_seconds = stop_seconds
        self._record_ending = record_ending
        self._ending: EndedBy | None = None
        """Why this engine is being ended; None if it is not."""
        self._recorded: EndedBy | None = None
        self._pending: signal.Signals | None = None
        """A signal that arrived while no engine was running, or while one was starting."""
        self._run: EngineRun | None = None
        adopt_orphans()
        self._oom_kills_before: int | None = None
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._forward)
        signal.signal(signal.SIGALRM, self._stop_timeout)

    def start(self, command: Sequence[str], environment: Mapping[str, str], secrets: Sequence[str] = ()) -> int:
        """Returns the engine's pid. Raises OSError if the command cannot be started.

        `secrets`: values to remove from its output.
        """
        mark = FamilyMark.adopting()
        process = subprocess.Popen(
            command,
            env=mark.marked(environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self._run = EngineRun(process, mark.family(process.pid), secrets)
        self._oom_kills_before = oom_kills()
        # A signal that arrived during the start must not be lost.
        self._forward_pending()
        return process.pid

    @property
    def progress(self) -> Progress:
        """Progress of the engine that was started last."""
        return self._started.progress

    def wait(self, watch: Callable[[], Incident | None]) -> EngineExit | Incident:
        """Pass the engine's output through until it exits, then end its remaining processes.

        Returns early, with the engine still running, if `watch` finds an incident; it is called every IDLE_SECONDS. An
        engine that is shutting down is not watched.
        """
        run = self._started
        asked = time.monotonic()
        while run.process.poll() is None:
            run.pass_output(STOPPING_SECONDS if self.stop_requested else IDLE_SECONDS)
            self._reap_orphans()
            self._carry_out_ending()
            if time.monotonic() - asked >= IDLE_SECONDS and not self.stop_requested:
                asked = time.monotonic()
                incident = watch()
                if incident:
                    return incident
        signal.setitimer(signal.ITIMER_REAL, 0)
        # A worker that outlives the engine keeps the GPU's memory.
        self._end_rest(signal.SIGTERM, REST_SECONDS)
        self._end_rest(signal.SIGKILL, REST_SECONDS)
        self._pass_last_output()
        return self._finish(run)

    def kill(self) -> EngineExit | None:
        """Kill the engine with SIGKILL: a hung one ignores SIGTERM. Returns None if it does not end in time.

        A process stuck in the GPU's driver ends only when the driver returns, which may be never.
        """
        run = self._started
        self._end_rest(signal.SIGKILL, KILL_SECONDS)
        self._pass_last_output()
        if run.process.poll() is None or run.family.living():
            return None
        return self._finish(run)

    def close(self) -> None:
        """Ignore later signals, which must not replace the engine's exit code."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)

    def _finish(self, run: EngineRun) -> EngineExit:
        run.close()
        self._run = None
        code = run.process.returncode
        name = signal.Signals(-code).name if code < 0 else None
        kills, before = oom_kills(), self._oom_kills_before
        return EngineExit(
            code=None if code < 0 else code,
            signal=name,
            at=now(),
            last_lines=run.last_lines.kept(),
            stale_lines=run.last_lines.stale(),
            ended_by=self._ending,
            oom_kills=max(0, kills - before) if kills is not None and before is not None else 0,
        )

    @property
    def _started(self) -> EngineRun:
        if self._run is None:
            raise RuntimeError("no engine was started")
        return self._run

    def _forward(self, number: int, _frame: FrameType | None) -> None:
        """Send the first signal only to the engine's API server, which finishes requests and then ends the others."""
        if self.stop_requested:
            self._ending = EndedBy.SECOND_SIGNAL
        else:
            self.stop_requested = True
            self._ending = EndedBy.STOP
            self._pending = signal.Signals(number)
            signal.setitimer(signal.ITIMER_REAL, self._stop_seconds)
        self._forward_pending()

    def _forward_pending(self) -> None:
        run, pending = self._run, self._pending
        if run is None or pending is None:
            return
        self._pending = None
        run.process.send_signal(pending)

    def _stop_timeout(self, _number: int, _frame: FrameType | None) -> None:
        self._ending = EndedBy.STOP_TIMEOUT

    def _carry_out_ending(self) -> None:
        """Record why the engine ends, then kill it if that is due. Signal handlers must not write files or kill."""
        ending = self._ending
        if ending is None or ending is self._recorded:
            return
        self._recorded = ending
        self._record_ending(ending)
        if ending is not EndedBy.STOP:
            self._started.family.signal(signal.SIGKILL)

    def _end_rest(self, number: signal.Signals, seconds: float) -> None:
        """Signal all processes and pass on their output, because one that blocks on a full pipe cannot end."""
        run = self._started
        run.family.signal(number)
        deadline = time.monotonic() + seconds
        while run.family.living() and time.monotonic() < deadline:
            run.pass_output(0.05)
            run.process.poll()
            self._reap_orphans()
            if number == signal.SIGKILL:
                # A process may have been started while the others were killed.
                run.family.signal(number)

    def _pass_last_output(self) -> None:
        """Pass on what is left, for a limited time: a process that cannot be killed may write forever."""
        deadline = time.monotonic() + LAST_OUTPUT_SECONDS
        while self._started.pass_output(0) and time.monotonic() < deadline:
            pass

    def _reap_orphans(self) -> None:
        """Reaps orphans, which the kernel reparents to PID 1."""
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            # The engine's own exit is left to `Popen`, which would otherwise report exit code 0.
            process = self._started.process
            if ended is None or (ended.si_pid == process.pid and process.returncode is None):
                return
            os.waitpid(ended.si_pid, 0)
