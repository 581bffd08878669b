"""Reads the kernel's evidence about an engine's exit: kills for lack of memory, and restarts of the node."""

from pathlib import Path

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUP = Path("/proc/self/cgroup")


def boot_id(file: Path = BOOT_ID) -> str | None:
    """Changes with each restart of the node; None if it cannot be read."""
    try:
        return file.read_text().strip() or None
    except OSError:
        return None


def oom_kills(cgroups: Path = CGROUPS, own_cgroup: Path = OWN_CGROUP) -> int | None:
    """Processes of this container that the kernel has killed for lack of memory; None if its cgroup has no count.

    It only counts kills that this process survives: with memory.oom.group, which the kubelet sets, the kernel kills the
    whole container, and only the kubelet knows why (OOMKilled in the pod's status).
    """
    for file in _event_files(cgroups, own_cgroup):
        try:
            pairs = [line.split() for line in file.read_text().splitlines()]
            return next(int(value) for name, value in pairs if name == "oom_kill")
        except (OSError, ValueError, StopIteration):
            continue
    return None


def _event_files(cgroups: Path, own_cgroup: Path) -> list[Path]:
    """The files of cgroup v2 and v1. In its own cgroup namespace, a container sees its cgroup at the root."""
    try:
        lines = [line.split(":", 2) for line in own_cgroup.read_text().splitlines()]
    except OSError:
        lines = []
    paths = {controllers: path.lstrip("/") for _, controllers, path in (line for line in lines if len(line) == 3)}  # noqa: PLR2004
    v1 = cgroups / "memory"
    return [
        cgroups / paths.get("", "") / "memory.events",
        cgroups / "memory.events",
        v1 / paths.get("memory", "") / "memory.oom_control",
        v1 / "memory.oom_control",
    ]
