"""A repository of a model hub at one commit."""

import fnmatch
from pathlib import PurePosixPath

from huggingface_hub import HfApi, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.hf_api import RepoSibling
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

from flash_engine.checkpoint.finding import CheckpointError
from flash_engine.checkpoint.hub import TIMEOUT_SECONDS, explained
from flash_engine.model_download.failure import DownloadError
from flash_engine.model_download.source import Listing, RemoteFile, Request, is_safe

OTHER_FORMS = (
    "*.bin",
    "*.pt",
    "*.pth",
    "*.gguf",
    "*.onnx",
    "*.h5",
    "*.msgpack",
    "*.pdf",
    "*.png",
    "*.jpg",
    "*.svg",
    ".*",
)
"""What no engine of ours reads, once there are safetensors: the same weights in other forms, and pictures."""


class HubSource:
    """Asked by huggingface_hub. A branch is resolved once, so that all files are of one state."""

    server = "the hub"
    advice = "model.hubEndpoint"

    def __init__(self, repository: str, revision: str | None, token: str | None) -> None:
        self.repository = repository
        self._revision = revision
        self._token = token
        self._headers = {**build_hf_headers(token=token), "Accept-Encoding": "identity"}

    def list(self) -> Listing:
        """Raises DownloadError."""
        try:
            with explained(self.repository, self._revision):
                info = HfApi(token=self._token).model_info(
                    self.repository, revision=self._revision, files_metadata=True, timeout=TIMEOUT_SECONDS
                )
        except CheckpointError as error:
            raise DownloadError(error.message, error.remedy, passes=error.code == "Unreachable") from error
        files = _wanted([_file(sibling, self.repository) for sibling in info.siblings or ()])
        if not files:
            raise DownloadError(f"{self.repository} holds no file", "point model.source at a repository with a model")
        return Listing(str(info.sha), tuple(files))

    def request(self, file: RemoteFile, listing: Listing) -> Request:
        url = hf_hub_url(self.repository, file.name, revision=listing.revision)
        return Request(url, self._headers, expected_size=file.size)

    def refusal(self, error: HfHubHTTPError, file: RemoteFile) -> DownloadError | None:
        try:
            with explained(self.repository, self._revision):
                raise error
        except CheckpointError as found:
            return DownloadError(f"{file.name}: {found.message}", found.remedy)

    def warning(self, listing: Listing) -> str | None:
        if self._revision == listing.revision:
            return None
        named = f"{self._revision} is a branch or tag" if self._revision else "no revision is given"
        return f"{named}, so replicas may come to serve different commits: set model.revision to {listing.revision}"


def _wanted(files: list[RemoteFile]) -> list[RemoteFile]:
    if not any(file.name.endswith(".safetensors") for file in files):
        return files
    return [
        file
        for file in files
        if not any(fnmatch.fnmatch(PurePosixPath(file.name).name, pattern) for pattern in OTHER_FORMS)
    ]


def _file(sibling: RepoSibling, repository: str) -> RemoteFile:
    """Raises DownloadError for a name that would leave the model's folder, and for a size that is not told."""
    name, lfs = sibling.rfilename, sibling.lfs
    if not is_safe(name):
        raise DownloadError(
            f"{repository} names a file {name!r}, which would be written elsewhere", "do not use this repository"
        )
    size = lfs.size if lfs else sibling.size
    if size is None:
        raise DownloadError(
            f"the hub tells no size of {name} in {repository}", "ask it again later, or look at model.hubEndpoint"
        )
    return RemoteFile(name, size, lfs.sha256 if lfs else None, sibling.blob_id)
