"""Reads the engine's processes from /proc.

They are the processes of the engine's session and all their descendants, because a compiler may have its own session.
Processes may end while they are read, so one that cannot be read is skipped.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")

COMPILERS = ("nvcc", "cicc", "ptxas", "cudafe++", "fatbinary", "nvlink", "ninja", "cc1plus", "cc1", "g++", "gcc", "c++",
             "clang", "ld")  # fmt: skip
"""Started by FlashInfer, DeepGEMM, tilelang and Triton; the kernel reports the first 15 characters of a name."""

_DISK_SLEEP, _ZOMBIE = "D", "Z"


@dataclass(frozen=True)
class Process:
    """The useful fields of /proc/PID/stat; their numbers are those of proc(5)."""

    pid: int
    name: str
    state: str
    parent: int
    session: int
    cpu_seconds: float
    """Its own, and that of its reaped children."""

    @classmethod
    def parse(cls, stat: str) -> "Process":
        """Raises ValueError or IndexError. The name is in brackets, and may itself contain brackets and spaces."""
        head, _, tail = stat.rpartition(")")
        pid, _, name = head.partition(" (")
        fields = tail.split()
        ticks = sum(int(field) for field in fields[11:15])
        return cls(int(pid), name, fields[0], int(fields[1]), int(fields[3]), ticks / TICKS_PER_SECOND)


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


def process_tree(leader: int, proc: Path = PROC) -> ProcessTree:
    """The processes of the session led by `leader`, and their descendants."""
    processes = members(leader, _all(proc))
    return ProcessTree(processes, sum(_io_bytes(proc / str(process.pid) / "io") for process in processes))


def members(leader: int, processes: Iterable[Process]) -> tuple[Process, ...]:
    children: dict[int, list[Process]] = {}
    found: dict[int, Process] = {}
    for process in processes:
        children.setdefault(process.parent, []).append(process)
        if process.session == leader:
            found[process.pid] = process
    grown = list(found.values())
    while grown:
        born = [child for child in children.get(grown.pop().pid, ()) if child.pid not in found]
        found.update((child.pid, child) for child in born)
        grown.extend(born)
    return tuple(found.values())


def _all(proc: Path) -> Iterable[Process]:
    for folder in proc.iterdir():
        if folder.name.isdigit():
            try:
                yield Process.parse((folder / "stat").read_text(errors="replace"))
            except (OSError, ValueError, IndexError):
                continue  # it has ended


def _io_bytes(file: Path) -> int:
    """All bytes read and written, from a disk or not; 0 if the kernel does not permit reading it."""
    try:
        lines = file.read_text().splitlines()
        counts = dict(line.split(": ") for line in lines)
        return sum(int(counts[name]) for name in ("rchar", "wchar", "read_bytes"))
    except (OSError, ValueError, KeyError):
        return 0
