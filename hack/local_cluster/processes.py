"""The processes of one cluster, found again by a mark in their environment.

A list of pids in a file would miss the process that was started just before its starter was killed, and a name would
hit somebody else's. The mark is the run folder itself, inherited by whatever the components start (containerd's
shims among them).
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
    """Starts processes with the mark, and ends all that bear it."""

    # By run folder, not by object: components outlive the object that started them, and another one may stop them.
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
        """Pids that bear the mark; of one program (by the name of its file) or of all."""
        mark = f"{MARK}={self.run}\0".encode()
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                ours = mark in (process / "environ").read_bytes() + b"\0"
                name = Path((process / "cmdline").read_bytes().split(b"\0")[0].decode()).name
            except OSError:
                continue  # it ended while we looked
            if ours and int(process.name) != os.getpid() and program in (None, name):
                found.append(int(process.name))
        return found

    def is_running(self, program: str) -> bool:
        """Whether one of that program is there. One that was started a moment ago has no environment to be read yet."""
        ours = (child for child in self._children if Path(cast("Sequence[str]", child.args)[0]).name == program)
        return any(child.poll() is None for child in ours) or bool(self.pids(program))

    def stop(self, program: str | None = None, *, patience: float = 5.0) -> None:
        """End one program, or all: politely first, then for good."""
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
        """Take the exits of our own children that have ended, so that they do not stay as zombies.

        A process loses its environment a moment before its exit can be taken, so this waits for that moment.
        """
        alive = set(self.pids())
        for child in [child for child in self._children if child.pid not in alive]:
            child.wait(timeout=10)
            self._children.remove(child)


def start_of(pid: int) -> int | None:
    """When a process started, in ticks since boot: with its pid it names one process, even after pids come round."""
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
    """Signal a process that may be gone already."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
