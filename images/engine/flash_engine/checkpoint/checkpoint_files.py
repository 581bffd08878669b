"""The files of a checkpoint, and how to read them from a folder."""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from flash_engine.checkpoint.finding import CheckpointError
from flash_engine.checkpoint.origin import VOLUME, Origin

PAGE_LIMIT = 64 << 20
"""At most this much of a JSON file is read: config.json and the index are smaller."""

MOST_PARTS = 4
"""Deep enough for huggingface_hub's cache: models--OWNER--NAME/snapshots/COMMIT/config.json."""

MOST_FILES = 20_000
"""A claim may contain more than models. Listing this many files takes milliseconds, even over NFS."""


class CheckpointFiles(Protocol):
    """The files of one checkpoint."""

    @property
    def place(self) -> str:
        """The folder or repository, for messages."""

    @property
    def origin(self) -> Origin:
        """What its owner can do about a fault."""

    @property
    def sizes(self) -> Mapping[str, int]:
        """Size in bytes of each file by its path within the checkpoint. Only files that `is_listed` accepts."""

    def read(self, name: str, start: int, length: int) -> bytes:
        """A byte range, shorter if the file ends before it does. Raises CheckpointError."""

    def read_json(self, name: str) -> Any:
        """Raises CheckpointError, and ValueError or RecursionError if the file is not JSON."""


def is_listed(path: str) -> bool:
    """Whether a file counts. Folders and hubs share the rule, so that both views of a repository agree.

    Hidden files do not count: vLLM's glob skips them, and they belong to downloads and editors.
    """
    parts = path.split("/")
    return len(parts) <= MOST_PARTS and not any(part.startswith(".") for part in parts)


class LocalFolder:
    """A folder or mounted volume, or a single file, which vLLM may be given instead."""

    def __init__(self, folder: Path, origin: Origin = VOLUME) -> None:
        self._place = str(folder)
        self.origin = origin
        is_file = _is_file(folder)
        if is_file and folder.suffix != ".gguf":
            message, remedy = f"{folder} is a single file, and vLLM loads a folder", "give the folder in model.source"
            raise CheckpointError("NotFound", message, remedy)
        self._folder = folder.parent if is_file else folder
        try:
            self._sizes = {folder.name: folder.stat().st_size} if is_file else dict(_listed(folder))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise CheckpointError(
                "NotFound",
                f"the folder {folder} does not exist",
                "check the folder's name in model.source, and the volume that is mounted there",
            ) from error
        except OSError as error:
            raise CheckpointError(
                "NotFound",
                f"{folder} cannot be read ({error.strerror})",
                "check the volume and the folder's owner and mode",
            ) from error

    @property
    def place(self) -> str:
        return self._place

    @property
    def sizes(self) -> Mapping[str, int]:
        return self._sizes

    def read(self, name: str, start: int, length: int) -> bytes:
        try:
            with (self._folder / name).open("rb") as file:
                file.seek(start)
                return file.read(length)
        except OSError as error:
            raise CheckpointError(
                "NotFound", f"{self._folder / name} cannot be read ({error.strerror})", "check the volume"
            ) from error

    def read_json(self, name: str) -> Any:
        return json.loads(self.read(name, 0, PAGE_LIMIT))


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # the name is too long; listing it reports that
        return False


def _listed(folder: Path) -> Iterator[tuple[str, int]]:
    """Raises OSError if `folder` itself cannot be read; unreadable folders below it are skipped."""
    waiting, count = [(folder, "")], 0
    while waiting and count < MOST_FILES:
        current, prefix = waiting.pop(0)
        for entry in _entries(current, is_root=not prefix):
            name = f"{prefix}{entry.name}"
            if not is_listed(name):
                continue
            if entry.is_dir(follow_symlinks=False):
                waiting.append((Path(entry.path), f"{name}/"))
            elif entry.is_file():
                count += 1
                yield name, entry.stat().st_size


def _entries(folder: Path, *, is_root: bool) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:
        if is_root:
            raise
        return []


def read_config(files: CheckpointFiles) -> dict[str, Any]:
    """The contents of config.json. Raises CheckpointError."""
    remedy = files.origin.change("put config.json of the source checkpoint beside the weights")
    if "config.json" not in files.sizes:
        raise CheckpointError("NoConfig", f"{files.place} has no config.json", remedy)
    try:
        raw = files.read_json("config.json")
    except (ValueError, RecursionError) as error:
        raise CheckpointError("NoConfig", f"config.json in {files.place} is not JSON ({error})", remedy) from error
    if not isinstance(raw, dict):
        raise CheckpointError("NoConfig", f"config.json in {files.place} is not a JSON object", remedy)
    return raw
