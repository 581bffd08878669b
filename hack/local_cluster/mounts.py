"""Mounts under a folder: volumes of pods, root file systems of containers, network namespaces."""

import ctypes
import errno
import os
import shutil
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
        done = _libc.umount2(point.encode(), MNT_DETACH)
        number = ctypes.get_errno()
        # EINVAL, ENOENT: it was removed with the mount below it, or by its own process.
        if done != 0 and number not in (errno.EINVAL, errno.ENOENT):
            raise OSError(number, os.strerror(number), point)


def remove_folder(folder: Path) -> None:
    """Delete a folder with its content, but never through a mount into files of others."""
    unmount_all(folder)
    mounted = mounts_under(folder)
    if mounted:
        raise RuntimeError(f"still mounted, so {folder} was not deleted: {', '.join(mounted)}")
    if folder.exists():
        shutil.rmtree(folder)
