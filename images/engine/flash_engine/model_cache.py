"""The cache: a folder for each commit of each repository, and who may do what to it.

    hub/OWNER--NAME/COMMIT/                the files, under their own names; of an image REGISTRY--NAME/DIGEST
    hub/OWNER--NAME/COMMIT.manifest.json   written last: the folder is whole
    hub/OWNER--NAME/COMMIT.progress.json   how far the one who fetches it has come
    hub/OWNER--NAME/COMMIT.fetch.lock      exclusive: of the one who fetches it
    hub/OWNER--NAME/COMMIT.use.lock        shared: of every engine that serves it; exclusive: of the one who removes it
    space.lock                             exclusive: of the one who decides whether something fits

Locks are flock(2), so that the kernel gives them back when their owner dies in whatever way. An engine's container that
starts anew holds none for a while, so what was used within GRACE_SECONDS counts as used: the kubelet waits 5 minutes at
most between two starts.
"""

import contextlib
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from flash_contracts.document import VERSION, read_json

GRACE_SECONDS = 900.0
PART = ".flash-part"
MANIFEST, PROGRESS, FETCH, USE = ".manifest.json", ".progress.json", ".fetch.lock", ".use.lock"


@dataclass(frozen=True)
class StoredModel:
    """One commit, or digest, of one repository in one cache; it need not be there."""

    root: Path
    repository: str
    commit: str

    @property
    def folder(self) -> Path:
        return self.root / "hub" / self.repository.replace("/", "--") / self.commit

    @property
    def told(self) -> str:
        """Its revision, short enough for a sentence."""
        kind, _, digest = self.commit.rpartition(":")
        return f"digest {kind}:{digest[:12]}" if kind else f"commit {digest[:12]}"

    def beside(self, suffix: str) -> Path:
        return self.folder.with_name(self.folder.name + suffix)

    def is_whole(self) -> bool:
        """Its manifest is there, and every file has the size that the manifest says."""
        manifest = read_json(self.beside(MANIFEST)) or {}
        files = manifest.get("files") or []
        return bool(files) and all(_size(self.folder / file["name"]) == file["size"] for file in files)

    @property
    def stored_bytes(self) -> int:
        return sum(_size(path) or 0 for path in self.folder.rglob("*") if path.is_file())

    def stored_of(self, name: str) -> int:
        """Bytes of one file, or of its unfinished beginning."""
        path = self.folder / name
        return _size(path) or _size(path.with_name(path.name + PART)) or 0

    @property
    def used_at(self) -> float:
        """When somebody last said that it is used or fetched."""
        return max(_modified(self.beside(suffix)) for suffix in (PROGRESS, MANIFEST))

    def write_manifest(self, files: list[dict[str, Any]]) -> None:
        """Lasting: a manifest that survives a power cut must not speak of files that did not."""
        document = {"version": VERSION, "repository": self.repository, "commit": self.commit, "files": files}
        unfinished = self.beside(f"{MANIFEST}.new")
        with unfinished.open("w") as file:
            file.write(json.dumps(document, indent=1))
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(self.beside(MANIFEST))
        sync_folder(self.folder.parent)

    @contextlib.contextmanager
    def used(self) -> Iterator[bool]:
        """Hold it for use; False where it is not whole. Waits for one who is just removing it."""
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        with locked(self.beside(USE), fcntl.LOCK_SH):
            whole = self.is_whole()
            if whole:
                self.touch()
            yield whole

    def touch(self) -> None:
        """Say that it is used. By the manifest: a lock file is made by whoever only asks whether it is held."""
        os.utime(self.beside(MANIFEST))

    def remove_unused(self) -> int:
        """Remove it, unless somebody uses or fetches it, or did within the grace. Returns the bytes that this freed."""
        with (
            locked(self.beside(FETCH), fcntl.LOCK_EX | fcntl.LOCK_NB) as fetch,
            locked(self.beside(USE), fcntl.LOCK_EX | fcntl.LOCK_NB) as use,
        ):
            if fetch is None or use is None or self.used_at > time.time() - GRACE_SECONDS:
                return 0
            freed = self.stored_bytes
            # The manifest first: what is left of a removal that was cut short is no whole model.
            self.beside(MANIFEST).unlink(missing_ok=True)
            shutil.rmtree(self.folder, ignore_errors=True)
            self.beside(PROGRESS).unlink(missing_ok=True)
            return freed - self.stored_bytes

    def is_being_fetched(self) -> bool:
        return _is_held(self.beside(FETCH))

    def is_removable(self) -> bool:
        """Nobody uses or fetches it, or did within the grace."""
        held = self.is_being_fetched() or _is_held(self.beside(USE))
        return not held and self.used_at <= time.time() - GRACE_SECONDS


def models_in(root: Path) -> list[StoredModel]:
    """All that are there, whole or not."""
    folders = [folder for folder in (root / "hub").glob("*/*") if folder.is_dir()]
    return [StoredModel(root, folder.parent.name.replace("--", "/", 1), folder.name) for folder in sorted(folders)]


@contextlib.contextmanager
def locked(path: Path, how: int) -> Iterator[IO[bytes] | None]:
    """A lock on a file, which is made where it is not there; None where LOCK_NB is asked for and another has it."""
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o664), "r+b") as file:
        try:
            fcntl.flock(file, how)
        except BlockingIOError:
            yield None
            return
        yield file


def _is_held(path: Path) -> bool:
    with locked(path, fcntl.LOCK_EX | fcntl.LOCK_NB) as lock:
        return lock is None


def sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
