"""The cgroup under which all pods of the cluster live, on version 1 and on version 2."""

import signal
from pathlib import Path

from local_cluster.processes import send
from local_cluster.waiting import wait_until

ROOT = Path("/sys/fs/cgroup")
NAME = "flash-local-cluster"


def is_version_2() -> bool:
    return (ROOT / "cgroup.controllers").exists()


def make_cgroup() -> None:
    """Make the cgroup in every hierarchy that the kubelet looks at."""
    for hierarchy in _hierarchies():
        (hierarchy / NAME).mkdir(exist_ok=True)
    if is_version_2():
        controllers = (ROOT / "cgroup.controllers").read_text().split()
        wanted = " ".join(f"+{name}" for name in controllers)
        for folder in (ROOT, ROOT / NAME):
            (folder / "cgroup.subtree_control").write_text(wanted)


def members() -> set[int]:
    """Pids of everything that runs in a pod of the cluster."""
    found: set[int] = set()
    for hierarchy in _hierarchies():
        for file in (hierarchy / NAME).glob("**/cgroup.procs"):
            found |= _read_pids(file)
    return found


def remove_cgroup() -> None:
    """Kill what is left in pods and remove the cgroup."""
    for pid in members():
        send(pid, signal.SIGKILL)
    wait_until(lambda: not members(), "processes in pods are gone", seconds=20)
    for hierarchy in _hierarchies():
        folders = [path for path in (hierarchy / NAME).glob("**/") if path.is_dir()]
        for folder in sorted(folders, key=lambda path: len(path.parts), reverse=True):
            folder.rmdir()


def _hierarchies() -> list[Path]:
    if is_version_2():
        return [ROOT]
    mounts = (line.split() for line in Path("/proc/self/mounts").read_text().splitlines())
    return sorted({Path(mount[1]) for mount in mounts if mount[2] == "cgroup"})


def _read_pids(file: Path) -> set[int]:
    try:
        return {int(pid) for pid in file.read_text().split()}
    except OSError:
        return set()  # the cgroup went away while we looked
