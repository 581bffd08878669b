"""The model cache: one snapshot folder for each commit of a repository, with lock files that protect it.

    hub/OWNER--NAME/COMMIT/                the snapshot's files; for an image REGISTRY--NAME/DIGEST/
    hub/OWNER--NAME/COMMIT.manifest.json   the list of files, written last: the snapshot is complete
    hub/OWNER--NAME/COMMIT.progress.json   the progress of the process that downloads it
    hub/OWNER--NAME/COMMIT.fetch.lock      held exclusively while downloading
    hub/OWNER--NAME/COMMIT.use.lock        held shared by every engine that serves it, exclusively while removing it
    space.lock                             held exclusively while deciding whether a download fits

These names and the documents in them are stored state: later releases read the cache of earlier ones.

Locks are flock(2), so the kernel releases them however their owner dies. An engine's container holds no lock while it
restarts, so a snapshot that was used within the last GRACE_SECONDS is not removed either: the kubelet waits 5 minutes
at most between two starts.
"""

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from flash_contracts.document import VERSION, fsync_folder, read_json, write_json

GRACE_SECONDS = 900.0
PARTIAL_SUFFIX = ".flash-part"
"""The suffix of a partial download, which is in the same folder as the final file."""

MANIFEST_SUFFIX, PROGRESS_SUFFIX, DOWNLOAD_LOCK, USE_LOCK = (
    ".manifest.json",
    ".progress.json",
    ".fetch.lock",
    ".use.lock",
)


@dataclass(frozen=True)
class ModelSnapshot:
    """One revision of one repository in one cache, whether it exists there or not."""

    root: Path
    repository: str
    commit: str
    """For an image, its digest."""

    @property
    def folder(self) -> Path:
        return self.root / "hub" / self.repository.replace("/", "--") / self.commit

    @property
    def revision_label(self) -> str:
        """The shortened revision, for messages."""
        kind, _, digest = self.commit.rpartition(":")
        return f"digest {kind}:{digest[:12]}" if kind else f"commit {digest[:12]}"

    def sidecar(self, suffix: str) -> Path:
        """A file next to the snapshot folder: its manifest, progress or one of its locks."""
        return self.folder.with_name(self.folder.name + suffix)

    def is_complete(self) -> bool:
        """Whether the manifest exists and every file has the size that it lists."""
        manifest = read_json(self.sidecar(MANIFEST_SUFFIX)) or {}
        files = manifest.get("files")
        return isinstance(files, list) and bool(files) and all(self._is_stored(file) for file in files)

    def _is_stored(self, file: object) -> bool:
        """Whether a file of the manifest has its size. A user or a bad disk may have changed the entry."""
        if not isinstance(file, dict) or not isinstance(name := file.get("name"), str) or "\0" in name:
            return False
        return (size := _size(self.folder / name)) is not None and size == file.get("size")

    @property
    def stored_bytes(self) -> int:
        return sum(_size(path) or 0 for path in self.folder.rglob("*") if path.is_file())

    def stored_size_of(self, name: str) -> int:
        """Bytes on disk of one file, finished or partial."""
        path = self.folder / name
        return _size(path) or _size(path.with_name(path.name + PARTIAL_SUFFIX)) or 0

    @property
    def last_used_at(self) -> float:
        """When it was last marked as used, or its download last reported progress."""
        return max(_modified(self.sidecar(suffix)) for suffix in (PROGRESS_SUFFIX, MANIFEST_SUFFIX))

    def write_manifest(self, files: list[dict[str, Any]]) -> None:
        """Write the manifest and sync it to disk, after the folders. The files' contents must already be synced.

        After a power cut, there must be no manifest without its files.
        """
        fsync_folders(self.folder)
        for folder in self.folder.relative_to(self.root).parents:
            fsync_folder(self.root / folder)
        document = {"version": VERSION, "repository": self.repository, "commit": self.commit, "files": files}
        write_json(self.sidecar(MANIFEST_SUFFIX), document, flush=True)

    @contextlib.contextmanager
    def in_use(self) -> Iterator[bool]:
        """Hold the use lock. Yields False if the snapshot is incomplete. Waits for a process that is removing it."""
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        with file_lock(self.sidecar(USE_LOCK), fcntl.LOCK_SH):
            complete = self.is_complete()
            if complete:
                self.mark_used()
            yield complete

    def mark_used(self) -> None:
        """Set the manifest's modification time. A lock file's would not do, because checking a lock creates it."""
        os.utime(self.sidecar(MANIFEST_SUFFIX))

    def remove_if_unused(self) -> int:
        """Remove it, unless it is or was within GRACE_SECONDS in use or downloading. Returns the bytes freed."""
        with (
            file_lock(self.sidecar(DOWNLOAD_LOCK), fcntl.LOCK_EX | fcntl.LOCK_NB) as fetch,
            file_lock(self.sidecar(USE_LOCK), fcntl.LOCK_EX | fcntl.LOCK_NB) as use,
        ):
            if fetch is None or use is None or self.last_used_at > time.time() - GRACE_SECONDS:
                return 0
            freed = self.stored_bytes
            # The manifest goes first, so that an interrupted removal does not leave a snapshot that looks complete.
            self.sidecar(MANIFEST_SUFFIX).unlink(missing_ok=True)
            shutil.rmtree(self.folder, ignore_errors=True)
            self.sidecar(PROGRESS_SUFFIX).unlink(missing_ok=True)
            return freed - self.stored_bytes

    def is_downloading(self) -> bool:
        return _is_held(self.sidecar(DOWNLOAD_LOCK))

    def is_evictable(self) -> bool:
        """Whether it is neither in use nor downloading, and has not been within GRACE_SECONDS."""
        held = self.is_downloading() or _is_held(self.sidecar(USE_LOCK))
        return not held and self.last_used_at <= time.time() - GRACE_SECONDS


def snapshots_in(root: Path) -> list[ModelSnapshot]:
    """All snapshots in the cache, complete or not."""
    folders = [folder for folder in (root / "hub").glob("*/*") if folder.is_dir()]
    return [ModelSnapshot(root, folder.parent.name.replace("--", "/", 1), folder.name) for folder in sorted(folders)]


@contextlib.contextmanager
def file_lock(path: Path, how: int) -> Iterator[IO[bytes] | None]:
    """Lock a file, creating it if necessary. With LOCK_NB, yields None if another process holds the lock."""
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o664), "r+b") as file:
        try:
            fcntl.flock(file, how)
        except BlockingIOError:
            yield None
            return
        yield file


def _is_held(path: Path) -> bool:
    with file_lock(path, fcntl.LOCK_EX | fcntl.LOCK_NB) as lock:
        return lock is None


def fsync_folders(root: Path) -> None:
    """Sync a folder and all folders in it: a new file survives a power cut only if its folder is synced too."""
    for folder, _, _ in os.walk(root):
        fsync_folder(Path(folder))


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
