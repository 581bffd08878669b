"""The cgroup under which all pods of the cluster live, on version 1, on version 2, and where both are mounted."""

import os
import signal
from pathlib import Path

from local_cluster.processes import send
from waiting import eventually

ROOT = Path("/sys/fs/cgroup")
NAME = "flash-local-cluster"

FACTOR = 8
"""All pods together get as much CPU time as eight busy threads outside. With the default of one, the tests' own
processes starved the operator until it lost its lease."""

SHARES = {"cpu.shares": 1024 * FACTOR, "cpu.weight": 100 * FACTOR}
"""By file, the former of version 1."""


def is_version_2() -> bool:
    return (ROOT / "cgroup.controllers").exists()


def make_cgroup() -> None:
    """Make the cgroup in every hierarchy that the kubelet looks at, and on version 2 pass the controllers down."""
    for hierarchy in _hierarchies():
        (hierarchy / NAME).mkdir(exist_ok=True)
    if is_version_2():
        for name in (ROOT / "cgroup.controllers").read_text().split():
            for folder in (ROOT, ROOT / NAME):
                (folder / "cgroup.subtree_control").write_text(f"+{name}")
    for hierarchy in _hierarchies():
        for name, share in SHARES.items():
            file = hierarchy / NAME / name
            if file.exists():
                file.write_text(str(share))


def members() -> set[int]:
    """Pids of everything that runs in a pod of the cluster."""
    found: set[int] = set()
    for folder in folders():
        found |= _read_pids(folder / "cgroup.procs")
    return found


def folders() -> list[Path]:
    """Our cgroup and those below it, in every hierarchy, the deepest first."""
    found = [Path(path) for hierarchy in _hierarchies() for path, _, _ in os.walk(hierarchy / NAME)]
    return sorted(found, key=lambda path: len(path.parts), reverse=True)


def remove_cgroup() -> None:
    """Kill the remaining processes of pods, including new forks, and remove the cgroup."""
    eventually(_nobody_is_left, "processes in pods are gone", seconds=20)
    eventually(_is_removed, f"the cgroup {NAME} is gone", seconds=10)


def _nobody_is_left() -> bool:
    left = members()
    for pid in left:
        send(pid, signal.SIGKILL)
    return not left


def _is_removed() -> bool:
    for folder in folders():
        try:
            folder.rmdir()
        except OSError:
            return False  # busy for a moment after its last process; the caller retries
    return True


def _hierarchies() -> list[Path]:
    """Every mounted hierarchy. A hybrid machine has those of version 1 and a version 2 beside them."""
    mounts = (line.split() for line in Path("/proc/self/mounts").read_text().splitlines())
    return sorted({Path(mount[1]) for mount in mounts if mount[2] in ("cgroup", "cgroup2")})


def _read_pids(file: Path) -> set[int]:
    try:
        return {int(pid) for pid in file.read_text().split()}
    except OSError:
        return set()  # the cgroup was removed in the meantime
