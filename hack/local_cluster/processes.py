"""The processes of one cluster, found again by a mark in their environment.

A file with pids would miss a process that was started just before its starter was killed, and names may match
processes of others. The mark is the run folder, inherited by everything that the components start, including
containerd's shims.
"""

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, cast

MARK = "LOCAL_CLUSTER_RUN"


class ProcessGroup:
    """Starts processes with the mark, and ends all processes that have it."""

    # Keyed by run folder, because another object may stop the components.
    _started: ClassVar[dict[Path, list[subprocess.Popen[bytes]]]] = {}

    def __init__(self, run: Path) -> None:
        self.run = run
        self.logs = run / "logs"
        self._children = self._started.setdefault(run, [])

    def start(self, name: str, *command: str, path: str = "") -> None:
        """Start one component in a session of its own, its output in logs/NAME.log."""
        self.logs.mkdir(parents=True, exist_ok=True)
        search = os.pathsep.join(filter(None, [path, os.environ.get("PATH", ""), "/usr/sbin", "/sbin"]))
        environment = {**os.environ, MARK: str(self.run), "PATH": search}
        with (self.logs / f"{name}.log").open("ab") as log:
            child = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment, start_new_session=True
            )
        self._children.append(child)

    def pids(self, program: str | None = None) -> list[int]:
        """Pids with the mark, of one program (by the name of its file) or of all."""
        mark = f"{MARK}={self.run}\0".encode()
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                ours = mark in (process / "environ").read_bytes() + b"\0"
                name = Path((process / "cmdline").read_bytes().split(b"\0")[0].decode()).name
            except OSError:
                continue  # it ended in the meantime
            if ours and int(process.name) != os.getpid() and program in (None, name):
                found.append(int(process.name))
        return found

    def is_running(self, program: str) -> bool:
        """Whether that program runs. A process that was just started has no readable environment yet."""
        ours = (child for child in self._children if Path(cast("Sequence[str]", child.args)[0]).name == program)
        return any(child.poll() is None for child in ours) or bool(self.pids(program))

    def stop(self, program: str | None = None, *, patience: float = 5.0) -> None:
        """End one program, or all: first with SIGTERM, then with SIGKILL."""
        for number, seconds in ((signal.SIGTERM, patience), (signal.SIGKILL, 10.0)):
            for pid in self.pids(program):
                send(pid, number)
            if self._gone(program, seconds):
                return
        raise RuntimeError(f"processes that do not end: {self.pids(program)}")

    def _gone(self, program: str | None, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while self.pids(program):
            self._reap()
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        self._reap()
        return True

    def _reap(self) -> None:
        """Reap our own children that have ended.

        A process loses its environment shortly before it can be reaped, so this waits for that.
        """
        alive = set(self.pids())
        for child in [child for child in self._children if child.pid not in alive]:
            child.wait(timeout=10)
            self._children.remove(child)


def start_of(pid: int) -> int | None:
    """When a process started, in ticks since boot. Together with the pid this is unique, even if pids are reused."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def command_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()


def folder_of(pid: int) -> str:
    return str(Path(f"/proc/{pid}/cwd").readlink())


def is_alive(pid: int, start: int) -> bool:
    return start_of(pid) == start


def send(pid: int, number: signal.Signals) -> None:
    """Signal a process that may have ended."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
