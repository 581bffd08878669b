"""Where a checkpoint's files are, and how ranges of them are read."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from flash_engine.checkpoint.finding import CheckpointError

HUB = "hf://"
PAGE_LIMIT = 64 << 20
"""No file that is read whole is larger: config.json and the index."""


class Files(Protocol):
    """The files of one checkpoint."""

    @property
    def place(self) -> str:
        """For people."""

    @property
    def sizes(self) -> Mapping[str, int]:
        """Bytes of each file, by its name within the checkpoint."""

    def read(self, name: str, start: int, length: int) -> bytes:
        """A range; shorter where the file ends before. Raises CheckpointError."""

    def read_json(self, name: str) -> Any:
        """Raises CheckpointError, and ValueError where the file is no JSON."""


class LocalFolder:
    """A folder, or a volume mounted as one."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            self._sizes = {path.name: path.stat().st_size for path in folder.iterdir() if path.is_file()}
        except (FileNotFoundError, NotADirectoryError) as error:
            raise CheckpointError(
                "NotFound", f"there is no folder {folder}", "look at model.source, and at the volume behind it"
            ) from error
        except OSError as error:
            raise CheckpointError(
                "NotFound", f"{folder} cannot be read: {error.strerror}", "look at the volume behind it, and its owner"
            ) from error

    @property
    def place(self) -> str:
        return str(self._folder)

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
                "NotFound", f"{self._folder / name} cannot be read: {error.strerror}", "look at the volume behind it"
            ) from error

    def read_json(self, name: str) -> Any:
        return json.loads(self.read(name, 0, PAGE_LIMIT))


def open_files(location: str, revision: str | None = None) -> Files:
    """A folder, or hf://OWNER/NAME. Raises CheckpointError."""
    if not location.startswith(HUB):
        if "://" in location:
            raise CheckpointError(
                "NotFound",
                f"{location} can only be read where it is mounted",
                "name the folder (in an engine pod /models), or hf://OWNER/NAME",
            )
        return LocalFolder(Path(location))
    from flash_engine.checkpoint.hub import HubRepository  # noqa: PLC0415 - what it imports takes half a second

    return HubRepository(location.removeprefix(HUB), revision)


def open_model(model: str, revision: str | None = None) -> Files:
    """A checkpoint as vLLM is told of it: a folder or OWNER/NAME. Raises CheckpointError.

    Of a repository what was downloaded before is taken, as vLLM will, and the hub is only asked where nothing was.
    """
    if model.startswith(("/", ".")) or _is_folder(model):
        return LocalFolder(Path(model))
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - as above
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError  # noqa: PLC0415

    try:
        return LocalFolder(Path(snapshot_download(model, revision=revision, local_files_only=True)))
    except LocalEntryNotFoundError:
        return open_files(f"{HUB}{model}", revision)
    except HFValidationError as error:
        raise CheckpointError(
            "NotFound", f"{model} is neither a folder nor OWNER/NAME of a hub", "look at model.source"
        ) from error


def _is_folder(model: str) -> bool:
    try:
        return Path(model).is_dir()
    except OSError:  # a name that no file can have
        return False


def config_of(files: Files) -> dict[str, Any]:
    """config.json. Raises CheckpointError."""
    remedy = "point model.source at the folder that has config.json beside the safetensors files"
    if "config.json" not in files.sizes:
        raise CheckpointError("NoConfig", f"no config.json is in {files.place}", remedy)
    try:
        raw = files.read_json("config.json")
    except ValueError as error:
        raise CheckpointError("NoConfig", f"config.json of {files.place} is no JSON: {error}", remedy) from error
    if not isinstance(raw, dict):
        raise CheckpointError("NoConfig", f"config.json of {files.place} is no JSON object", remedy)
    return raw
