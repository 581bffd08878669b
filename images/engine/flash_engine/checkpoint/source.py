"""Opens the files of a checkpoint, in a folder or on a hub."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from flash_engine.checkpoint.finding import CheckpointError

HUB = "hf://"
PAGE_LIMIT = 64 << 20
"""The most that is read of a JSON file: config.json and the index are smaller."""


class CheckpointFiles(Protocol):
    """The files of one checkpoint."""

    @property
    def place(self) -> str:
        """The folder or repository, for messages."""

    @property
    def sizes(self) -> Mapping[str, int]:
        """Size in bytes of each file, by its name within the checkpoint."""

    def read(self, name: str, start: int, length: int) -> bytes:
        """A byte range, shorter if the file ends before it does. Raises CheckpointError."""

    def read_json(self, name: str) -> Any:
        """Raises CheckpointError, and ValueError if the file is not JSON."""


class LocalFolder:
    """A folder, or a volume mounted as one."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            self._sizes = {path.name: path.stat().st_size for path in folder.iterdir() if path.is_file()}
        except (FileNotFoundError, NotADirectoryError) as error:
            raise CheckpointError(
                "NotFound",
                f"the folder {folder} does not exist",
                "check model.source and the volume that is mounted there",
            ) from error
        except OSError as error:
            raise CheckpointError(
                "NotFound",
                f"{folder} cannot be read ({error.strerror})",
                "check the volume and the folder's owner and mode",
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
                "NotFound", f"{self._folder / name} cannot be read ({error.strerror})", "check the volume"
            ) from error

    def read_json(self, name: str) -> Any:
        return json.loads(self.read(name, 0, PAGE_LIMIT))


def open_files(location: str, revision: str | None = None) -> CheckpointFiles:
    """Opens a folder or hf://OWNER/NAME. Raises CheckpointError."""
    if not location.startswith(HUB):
        if "://" in location:
            raise CheckpointError(
                "NotFound",
                f"{location} can only be inspected where it is mounted",
                "give the folder (in an engine pod, /models) or hf://OWNER/NAME",
            )
        return LocalFolder(Path(location))
    from flash_engine.checkpoint.hub import HubRepository  # noqa: PLC0415 - importing huggingface_hub takes half a second

    return HubRepository(location.removeprefix(HUB), revision)


def open_model(model: str, revision: str | None = None) -> CheckpointFiles:
    """Opens vLLM's model argument: a folder or OWNER/NAME. Raises CheckpointError.

    A repository that was downloaded before is read from huggingface_hub's cache, as vLLM does; otherwise from the hub.
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
            "NotFound", f"{model} is neither a folder nor OWNER/NAME on a hub", "check model.source"
        ) from error


def _is_folder(model: str) -> bool:
    try:
        return Path(model).is_dir()
    except OSError:  # too long, or with characters that no file name may have
        return False


def read_config(files: CheckpointFiles) -> dict[str, Any]:
    """The contents of config.json. Raises CheckpointError."""
    remedy = "point model.source at the folder with config.json and the safetensors files"
    if "config.json" not in files.sizes:
        raise CheckpointError("NoConfig", f"{files.place} has no config.json", remedy)
    try:
        raw = files.read_json("config.json")
    except ValueError as error:
        raise CheckpointError("NoConfig", f"config.json in {files.place} is not JSON ({error})", remedy) from error
    if not isinstance(raw, dict):
        raise CheckpointError("NoConfig", f"config.json in {files.place} is not a JSON object", remedy)
    return raw
