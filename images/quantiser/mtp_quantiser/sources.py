"""Finds a checkpoint in a folder, or fetches it from the Hugging Face Hub."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from huggingface_hub.hf_api import RepoFile

from mtp_quantiser.checkpoint import CONFIG, INDEX, read_json
from mtp_quantiser.errors import QuantiserError, UnavailableError

HUB: Final = "hf://"
ASK_LATER: Final = 429
SERVERS_FAULT: Final = 500


def folder_of(source: str, cache: Path | None = None, require_space: Callable[[int], None] = lambda _: None) -> Path:
    """The folder of `source`. For a repository, only the shards with mtp.* tensors are fetched, into `cache` if given.

    `require_space` is called with the bytes of those shards before they are fetched, and may raise.
    Raises UnavailableError (a QuantiserError) if the hub may answer later, QuantiserError otherwise.
    """
    if not source.startswith(HUB):
        if not Path(source).is_dir():
            raise QuantiserError(f"{source} is not a folder; give a checkpoint's folder, or hf://owner/name@revision")
        return Path(source)
    name, _, revision = source.removeprefix(HUB).partition("@")

    def fetched(*files: str) -> Path:
        return Path(snapshot_download(name, revision=revision or None, cache_dir=cache, allow_patterns=[*files]))

    try:
        folder = fetched(CONFIG, INDEX)
        shards = {
            shard for tensor, shard in read_json(folder / INDEX)["weight_map"].items() if tensor.startswith("mtp.")
        }
        require_space(sum(info.size for info in _infos(name, revision, sorted(shards))))
        return fetched(CONFIG, INDEX, *sorted(shards))
    except (HfHubHTTPError, OSError) as error:
        kind = UnavailableError if may_work_later(error) else QuantiserError
        raise kind(f"{source} cannot be fetched ({error}); download it yourself, then give the folder") from error


def _infos(name: str, revision: str, shards: list[str]) -> list[RepoFile]:
    found = HfApi().get_paths_info(name, shards, revision=revision or None)
    return [info for info in found if isinstance(info, RepoFile)]


def may_work_later(error: Exception) -> bool:
    """Whether a retry may help: after no answer, throttling or a server error, but not for a missing repository."""
    if isinstance(error, LocalEntryNotFoundError):
        return True
    response = getattr(error, "response", None)
    return response is not None and (response.status_code == ASK_LATER or response.status_code >= SERVERS_FAULT)
