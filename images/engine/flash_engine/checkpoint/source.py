"""Opens a checkpoint in a folder or on a hub."""

from pathlib import Path

from flash_engine.checkpoint import origin as origins
from flash_engine.checkpoint.checkpoint_files import CheckpointFiles, LocalFolder
from flash_engine.checkpoint.finding import CheckpointError
from flash_engine.checkpoint.origin import VOLUME, Origin

HUB = "hf://"


def open_files(location: str, revision: str | None = None) -> CheckpointFiles:
    """Open a folder or hf://OWNER/NAME. Raises CheckpointError."""
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


def open_model(model: str, revision: str | None = None, *, origin: Origin = VOLUME) -> CheckpointFiles:
    """Open vLLM's model argument: a folder, a file or OWNER/NAME. Raises CheckpointError.

    Like vLLM, it reads a repository from huggingface_hub's cache if it was downloaded before, and otherwise from the
    hub. `origin`: where the contents of a folder come from.
    """
    if model.startswith(("/", ".")) or _is_folder(model):
        return LocalFolder(Path(model), origin)
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - as above
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError  # noqa: PLC0415

    try:
        return LocalFolder(Path(snapshot_download(model, revision=revision, local_files_only=True)), origins.HUB)
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
