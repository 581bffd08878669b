"""Model source: one commit of a repository on a model hub."""

import fnmatch
from pathlib import PurePosixPath

from huggingface_hub import HfApi, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.hf_api import RepoSibling
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

from flash_engine.checkpoint.finding import CheckpointError
from flash_engine.checkpoint.hub import TIMEOUT_SECONDS, translated_errors
from flash_engine.model_download.failure import DownloadError, ThrottledError
from flash_engine.model_download.source import FileListing, FileRequest, RemoteFile, is_safe_path
from flash_engine.throttling import is_throttled

IGNORED_PATTERNS = (
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
"""Files to skip if the repository has safetensors: the same weights in other formats, and pictures."""


class HubSource:
    """Uses huggingface_hub. A branch is resolved once, so that all files come from the same commit."""

    server = "the hub"
    where_to_look = "model.hubEndpoint"

    def __init__(self, repository: str, revision: str | None, token: str | None) -> None:
        self.repository = repository
        self._revision = revision
        self._token = token
        self._headers = {**build_hf_headers(token=token), "Accept-Encoding": "identity"}

    @property
    def has_credentials(self) -> bool:
        """Includes a token from HF_TOKEN, which the library finds itself."""
        return any(name.lower() == "authorization" for name in self._headers)

    def list(self) -> FileListing:
        try:
            with translated_errors(self.repository, self._revision):
                info = HfApi(token=self._token).model_info(
                    self.repository, revision=self._revision, files_metadata=True, timeout=TIMEOUT_SECONDS
                )
        except CheckpointError as error:
            raise self._of_listing(error) from error
        files = _needed([_file(sibling, self.repository) for sibling in info.siblings or ()])
        if not files:
            raise DownloadError(f"{self.repository} has no files", "point model.source at a repository with a model")
        return FileListing(str(info.sha), tuple(files))

    def _of_listing(self, error: CheckpointError) -> DownloadError:
        cause = error.__cause__
        if isinstance(cause, HfHubHTTPError) and is_throttled(cause.response.status_code, cause.response.headers):
            return ThrottledError.of_response(self.server, cause.response.status_code, cause.response.headers)
        return DownloadError(error.message, error.remedy, retryable=error.code == "Unreachable")

    def request(self, file: RemoteFile, listing: FileListing) -> FileRequest:
        url = hf_hub_url(self.repository, file.name, revision=listing.revision)
        return FileRequest(url, self._headers, expected_size=file.size)

    def describe_error(self, error: HfHubHTTPError, file: RemoteFile) -> DownloadError | None:
        try:
            with translated_errors(self.repository, self._revision):
                raise error
        except CheckpointError as found:
            return DownloadError(f"{file.name}: {found.message}", found.remedy)

    def unpinned_warning(self, listing: FileListing) -> str | None:
        if self._revision == listing.revision:
            return None
        named = f"{self._revision} is a branch or tag" if self._revision else "model.revision is not set"
        return f"{named}, so replicas may serve different commits: set model.revision to {listing.revision}"


def _needed(files: list[RemoteFile]) -> list[RemoteFile]:
    if not any(file.name.endswith(".safetensors") for file in files):
        return files
    return [
        file
        for file in files
        if not any(fnmatch.fnmatch(PurePosixPath(file.name).name, pattern) for pattern in IGNORED_PATTERNS)
    ]


def _file(sibling: RepoSibling, repository: str) -> RemoteFile:
    """Raises DownloadError for a path outside the model's folder, and for a file without a size."""
    name, lfs = sibling.rfilename, sibling.lfs
    if not is_safe_path(name):
        raise DownloadError(
            f"{repository} has a file {name!r}, which would be written outside the model's folder",
            "do not use this repository",
        )
    size = lfs.size if lfs else sibling.size
    if size is None:
        raise DownloadError(
            f"the hub does not give the size of {name} in {repository}", "try again later, or check model.hubEndpoint"
        )
    return RemoteFile(name, size, lfs.sha256 if lfs else None, sibling.blob_id)
