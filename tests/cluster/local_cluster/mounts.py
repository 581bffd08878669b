"""Mounts under a folder: volumes of pods, root file systems of containers, network namespaces."""

import ctypes
import os
from pathlib import Path

MNT_DETACH = 2

_libc = ctypes.CDLL(None, use_errno=True)


def mounts_under(folder: Path) -> list[str]:
    """Mount points under a folder, the deepest first."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    points = [line.split()[4].encode().decode("unicode_escape") for line in lines]
    return sorted((point for point in points if point.startswith(f"{folder}/")), key=len, reverse=True)


def unmount_all(folder: Path) -> None:
    for point in mounts_under(folder):
        if _libc.umount2(point.encode(), MNT_DETACH) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), point)
