"""A copy of this repository, set up like a fresh clone, so that its tests import its own sources only.

It needs an environment of its own, because the editable installs in the repository's environment lead to the
repository.
"""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mutations.breaks import Break
from mutations.processes import ended

NEWER_SECONDS = 2
"""Python recognises outdated bytecode by the source's size and mtime in whole seconds."""

OF_MAKE = ("MAKE", "MFLAGS")
OTHERS = ("PYTHONPATH", "VIRTUAL_ENV", "PYTEST", *OF_MAKE)
"""Prefixes of variables that belong to the process that started this one."""


class TreeError(RuntimeError):
    """The copy cannot be made. The message says why."""


@dataclass(frozen=True)
class Tree:
    """A set-up copy, and the environment that its Makefile exports."""

    folder: Path
    environment: dict[str, str]

    @contextlib.contextmanager
    def broken(self, one: Break) -> Iterator[None]:
        """Applies this break for a while. Raises ListError if it does not fit."""
        file = self.folder / one.file
        whole = file.read_text()
        _write(file, one.applied(whole))
        try:
            yield
        finally:
            _write(file, whole)


async def make_tree(root: Path, folder: Path, commit: str | None) -> Tree:
    """Copies `root` as it is now, or one of its commits. Raises TreeError."""
    _copy(root, folder, commit)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(OTHERS)}
    code, said = await ended(["make", "--silent", "setup"], folder, environment)
    if code != 0:
        raise TreeError(f"make setup fails in a copy of the repository: {' '.join(said.split()[-60:])}")
    return Tree(folder, environment | await _of_makefile(folder, environment))


async def _of_makefile(folder: Path, environment: dict[str, str]) -> dict[str, str]:
    """What the Makefile exports, which older commits need."""
    asked = ["make", "--silent", "--eval", "environment: ; @env -0", "environment"]
    code, said = await ended(asked, folder, environment)
    if code != 0:
        raise TreeError(f"the Makefile did not print its environment: {said.strip()}")
    pairs = (line.partition("=") for line in said.split("\0") if line)
    return {name: value for name, _, value in pairs if not name.startswith(OF_MAKE)}


def _copy(root: Path, folder: Path, commit: str | None) -> None:
    try:
        folder.mkdir()
        if commit is None:
            _copy_files(root, folder)
        else:
            _copy_commit(root, folder, commit)
    except OSError as error:
        raise TreeError(f"the repository cannot be copied to {folder}: {error.strerror}") from error
    except subprocess.CalledProcessError as error:
        raise TreeError(f"{' '.join(error.cmd[:4])}: {error.stderr.decode().strip()}") from error


def _copy_files(root: Path, folder: Path) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root,
        check=True,
        capture_output=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (root / name).is_file():  # otherwise it was deleted without `git rm`
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, folder / name, follow_symlinks=False)


def _copy_commit(root: Path, folder: Path, commit: str) -> None:
    archive = subprocess.run(["git", "archive", commit], cwd=root, check=True, capture_output=True).stdout
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive, check=True, capture_output=True)


def _write(file: Path, text: str) -> None:
    """Sets an mtime that the bytecode of no earlier text has."""
    later = int(file.stat().st_mtime) + NEWER_SECONDS
    file.write_text(text)
    os.utime(file, (later, later))
