"""Provides the two Debian packages for building: installs them as root, or names them to other users."""

import os
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from failure_reason import reason_in

PROGRAMS: Final = {"buildah": "buildah", "debootstrap": "debootstrap"}
"""Program -> Debian package."""

SYSTEM_FOLDERS: Final = "/usr/local/sbin:/usr/sbin:/sbin"
"""The folder of debootstrap, which is not in every user's PATH."""


class SetupError(RuntimeError):
    """A problem that only the user can fix; the message says how."""


def search_path() -> str:
    return f"{os.environ.get('PATH', '')}:{SYSTEM_FOLDERS}"


def missing_packages(programs: Mapping[str, str] = PROGRAMS) -> list[str]:
    path = search_path()
    return [package for program, package in programs.items() if shutil.which(program, path=path) is None]


def ensure_tools() -> None:
    missing = missing_packages()
    if missing and os.geteuid() == 0 and shutil.which("apt-get"):
        install(missing)
    elif missing:
        raise SetupError(f"Building images needs {' and '.join(missing)}: {install_command(missing)}")
    if os.geteuid() != 0:
        raise SetupError(
            "Building images needs root (debootstrap and overlay mounts): "
            "sudo --preserve-env=FLASH_CACHE,XDG_CACHE_HOME,HOME .venv/bin/python -m image_builder all"
        )


def install_command(packages: Iterable[str]) -> str:
    return f"sudo apt-get install --yes --no-install-recommends {' '.join(packages)}"


def install(packages: Iterable[str]) -> None:
    names = list(packages)
    refused = f"{' and '.join(names)} could not be installed"
    run(["apt-get", "update", "-qq", "--error-on=any"], refused)
    run(["apt-get", "install", "-qq", "--yes", "--no-install-recommends", *names], refused)


def make_root_file_system(script: Path, archive: Path) -> None:
    run([str(script), str(archive)], "no base image could be made")


def run(command: Sequence[str], refused: str) -> None:
    """Prints output only on failure: the line that has the cause."""
    environment = {**os.environ, "PATH": search_path(), "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode != 0:
        raise SetupError(f"{refused}: {reason_in(done.stdout)}")
