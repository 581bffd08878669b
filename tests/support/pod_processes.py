"""Processes of pods, seen from their node, which is this machine."""

from pathlib import Path


def processes_of(pod_uid: str) -> list[int]:
    marks = (pod_uid, pod_uid.replace("-", "_"))
    pids = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            cgroups = (process / "cgroup").read_text()
        except OSError:
            continue  # it ended in the meantime
        if any(mark in cgroups for mark in marks):
            pids.append(int(process.name))
    return pids


def command_of(pid: int) -> str:
    """Empty where it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""
