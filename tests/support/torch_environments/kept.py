"""Folders in the project's cache, each built once per content and atomically, even if a run is killed."""

import errno
import hashlib
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from file_lock import held
from image_builder.debian import SetupError

KEPT: Final = 2
"""How many of each kind are kept, so that switching between two branches rebuilds nothing."""

IN_USE: Final = 24 * 3600.0
"""Seconds since the last use after which no run of another checkout can still use a folder."""


@dataclass(frozen=True)
class Kept:
    """One folder. `key` changes with everything that `make` puts into it."""

    kind: str
    key: str
    make: Callable[[Path], None]
    """Fills an empty folder, which is renamed when it is complete."""

    def folder(self, cache: Path) -> Path:
        return cache / f"{self.kind}-{self.key}"


def key_of(files: Iterable[Path], *texts: str) -> str:
    digest = hashlib.sha256("\0".join(texts).encode())
    for file in files:
        digest.update(b"\0" + file.read_bytes())
    return digest.hexdigest()[:16]


def ensure(cache: Path, wanted: Sequence[Kept]) -> None:
    """Returns at once if all exist. Raises SetupError with one sentence."""
    with _in_a_sentence(cache):
        if not all(one.folder(cache).exists() for one in wanted):
            with _alone(cache):
                for one in wanted:
                    _ensure(one, cache)
        for one in wanted:
            os.utime(one.folder(cache))


def _ensure(one: Kept, cache: Path) -> None:
    folder = one.folder(cache)
    if folder.exists():
        return
    unfinished = cache / f".{folder.name}.part"
    unfinished.mkdir()
    one.make(unfinished)
    unfinished.rename(folder)
    os.utime(folder)
    _remove_old(cache, one.kind)


def _remove_old(cache: Path, kind: str) -> None:
    made = sorted(cache.glob(f"{kind}-{'[0-9a-f]' * 16}"), key=lambda path: path.stat().st_mtime, reverse=True)
    for old in made[KEPT:]:
        if time.time() - old.stat().st_mtime > IN_USE:
            shutil.rmtree(old)


@contextmanager
def _alone(cache: Path) -> Iterator[None]:
    """Prevents two runs from building the same folder. Removes unfinished folders of killed runs."""
    message = f"  another run is making environments in {cache}; waiting for it ..."
    with held(cache / ".torch.lock", lambda: print(message, file=sys.stderr, flush=True)):
        try:
            _sweep(cache)
            yield
        finally:
            _sweep(cache)


def _sweep(cache: Path) -> None:
    for unfinished in cache.glob(".torch-*.part"):
        shutil.rmtree(unfinished)


@contextmanager
def _in_a_sentence(cache: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise full_disk(cache) from error
        raise SetupError(f"The environments for tests cannot be made in {cache}: {error}") from error


def full_disk(cache: Path) -> SetupError:
    return SetupError(
        f"The disk of {cache} is full: the environments with torch need 5 GB there while they are made; "
        "free some, or set FLASH_CACHE to a folder on another disk, and run the same again"
    )
