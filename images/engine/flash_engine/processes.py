"""Finds the processes of a program that we started, such as the engine, in /proc, and ends them.

They are the program's session and all descendants, because a compiler may have its own session. A process may end while
it is read, so one that cannot be read is skipped.
"""

import contextlib
import ctypes
import os
import signal
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

PROC = Path("/proc")
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")

COMPILERS = ("nvcc", "cicc", "ptxas", "cudafe++", "fatbinary", "nvlink", "ninja", "cc1plus", "cc1", "g++", "gcc", "c++",
             "clang", "ld")  # fmt: skip
"""Started by FlashInfer, DeepGEMM, tilelang and Triton; the kernel reports the first 15 characters of a name."""

_DISK_SLEEP, _ZOMBIE, _DEAD = "D", "Z", "X"

_MARK = "FLASH_STARTED_AS"
_PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class Process:
    """The useful fields of /proc/PID/stat, numbered as in proc(5)."""

    pid: int
    name: str
    state: str
    parent: int
    session: int
    cpu_seconds: float
    """Of the process and its reaped children."""
    threads: int = 1

    @property
    def has_ended(self) -> bool:
        """Whether it has ended. A zombie with other threads has not: they are still in the kernel, as in a driver."""
        return self.state == _DEAD or (self.state == _ZOMBIE and self.threads <= 1)

    @classmethod
    def parse(cls, stat: str) -> "Process":
        """Raises ValueError or IndexError. The name is in brackets, and may itself contain brackets and spaces."""
        head, _, tail = stat.rpartition(")")
        pid, _, name = head.partition(" (")
        fields = tail.split()
        ticks = sum(int(field) for field in fields[11:15])
        seconds, threads = ticks / TICKS_PER_SECOND, int(fields[17])
        return cls(int(pid), name, fields[0], int(fields[1]), int(fields[3]), seconds, threads)


@dataclass(frozen=True)
class ProcessTree:
    """The engine's processes at one moment."""

    processes: tuple[Process, ...]
    io_bytes: int

    @property
    def cpu_seconds(self) -> float:
        return sum(process.cpu_seconds for process in self.processes)

    @property
    def waits_for_disk(self) -> bool:
        return any(process.state == _DISK_SLEEP for process in self.processes)

    @property
    def compilers(self) -> tuple[str, ...]:
        names = {process.name for process in self.processes if process.state != _ZOMBIE}
        # Triton's ptxas is called ptxas-blackwell, and g++ may be x86_64-linux-gnu-g++-13, whose cc1plus is not.
        return tuple(sorted(name for name in names if name in COMPILERS or name.startswith("ptxas")))


@dataclass(frozen=True)
class Family:
    """All processes that came from a program that we started, an engine or a rank of the test, and the way to end them.

    A process may leave the program's session and lose its parent. Then only two things show where it came from: the
    mark in its environment, and that the kernel gave it to us (`adopt_orphans`) after the program was started.
    """

    leader: int
    """The program's pid, which leads a session."""
    mark: str
    adopts: bool = False
    """Whether children of this process that are not in `before` count too, because they are orphans of this family."""
    before: frozenset[int] = frozenset()
    """Children that this process had before the program was started."""

    def living(self, proc: Path = PROC) -> tuple[Process, ...]:
        """The processes that have not ended, including any that are stuck in a GPU's driver."""
        everything = tuple(_all(proc))
        strays = frozenset(process.pid for process in everything if self._is_stray(process, proc))
        found = members(self.leader, everything, strays)
        return tuple(process for process in found if not process.has_ended)

    def signal(self, number: signal.Signals) -> None:
        """Signal all of them. One may fork meanwhile, so repeat a SIGKILL until none is left."""
        outside = [process.pid for process in self.living() if process.session != self.leader]
        # The group's id is not reused while one of its processes exists. That none exists is not an error.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.leader, number)
        for pid in outside:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)

    def _is_stray(self, process: Process, proc: Path) -> bool:
        me = os.getpid()
        if process.pid in (me, self.leader):
            return False
        if self.adopts and process.parent == me and process.pid not in self.before:
            return True
        try:
            return f"{_MARK}={self.mark}".encode() in (proc / str(process.pid) / "environ").read_bytes().split(b"\0")
        except OSError:
            return False  # it has ended, or is another user's


@dataclass(frozen=True)
class FamilyMark:
    """Marks a program before it is started, and creates its family once it has a pid."""

    text: str = field(default_factory=lambda: uuid.uuid4().hex)
    before: frozenset[int] | None = None
    """Children of this process, if it adopts orphans."""

    @classmethod
    def adopting(cls) -> "FamilyMark":
        me = os.getpid()
        return cls(before=frozenset(process.pid for process in _all(PROC) if process.parent == me))

    def marked(self, environment: Mapping[str, str]) -> dict[str, str]:
        return {**environment, _MARK: self.text}

    def family(self, leader: int) -> Family:
        return Family(leader, self.text, adopts=self.before is not None, before=self.before or frozenset())


def adopt_orphans() -> None:
    """Become the parent of our descendants' orphans, like a container's first process, even if we are not it."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def process_tree(leader: int, proc: Path = PROC) -> ProcessTree:
    """The processes of the session led by `leader`, and their descendants."""
    processes = members(leader, _all(proc))
    return ProcessTree(processes, sum(_io_bytes(proc / str(process.pid) / "io") for process in processes))


def members(leader: int, processes: Iterable[Process], strays: frozenset[int] = frozenset()) -> tuple[Process, ...]:
    """The session led by `leader`, the `strays` that belong to it, and the descendants of both."""
    children: dict[int, list[Process]] = {}
    found: dict[int, Process] = {}
    for process in processes:
        children.setdefault(process.parent, []).append(process)
        if process.session == leader or process.pid in strays:
            found[process.pid] = process
    pending = list(found.values())
    while pending:
        added = [child for child in children.get(pending.pop().pid, ()) if child.pid not in found]
        found.update((child.pid, child) for child in added)
        pending.extend(added)
    return tuple(found.values())


def _all(proc: Path) -> Iterable[Process]:
    for folder in proc.iterdir():
        if folder.name.isdigit():
            try:
                yield Process.parse((folder / "stat").read_text(errors="replace"))
            except (OSError, ValueError, IndexError):
                continue  # it has ended


def _io_bytes(file: Path) -> int:
    """All bytes read and written, from disks or elsewhere; 0 if the kernel does not permit reading the file."""
    try:
        lines = file.read_text().splitlines()
        counts = dict(line.split(": ") for line in lines)
        return sum(int(counts[name]) for name in ("rchar", "wchar", "read_bytes"))
    except (OSError, ValueError, KeyError):
        return 0
