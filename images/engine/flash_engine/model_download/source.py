"""The interface of a model source: the list of files, and how to request each one."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Literal, Protocol

from flash_engine.model_download.failure import DownloadError

if TYPE_CHECKING:  # huggingface_hub reads its settings when it is imported, so it must not be imported too early
    from huggingface_hub.errors import HfHubHTTPError


@dataclass(frozen=True)
class RemoteFile:
    """One file. A hub has no SHA-256 for small files, only git's SHA-1."""

    name: str
    size: int
    sha256: str | None
    git_sha1: str | None = None


@dataclass(frozen=True)
class ImageLayer:
    """A tar that is unpacked after its download."""

    file: RemoteFile
    compression: Literal["none", "gzip"]


@dataclass(frozen=True)
class FileListing:
    """The files and layers of one revision."""

    revision: str
    """Commit or digest."""
    files: tuple[RemoteFile, ...]
    layers: tuple[ImageLayer, ...] = ()
    """In the order of unpacking; each replaces files of those before it."""

    @property
    def all_files(self) -> tuple[RemoteFile, ...]:
        return (*self.files, *(layer.file for layer in self.layers))

    @property
    def total_bytes(self) -> int:
        """Bytes to download."""
        return sum(file.size for file in self.all_files)

    @property
    def peak_bytes(self) -> int:
        """The most bytes on the volume at once: while a layer is unpacked, its tar and its files both exist.

        The size of a compressed layer's files is unknown, so unpacking checks the space that is left.
        """
        return self.total_bytes + max((layer.file.size for layer in self.layers), default=0)


@dataclass(frozen=True)
class FileRequest:
    """The HTTP request for a file."""

    url: str
    headers: Mapping[str, str]
    expected_size: int | None
    """The file's size if the server limits it, as a hub does; None for other sources."""


class DownloadSource(Protocol):
    """A repository on a model hub or in a container registry."""

    server: str
    """For messages, such as "the hub"."""
    where_to_look: str
    """Settings to check if a transfer stalls or has the wrong checksum."""

    @property
    def has_credentials(self) -> bool:
        """Whether requests are authenticated."""

    @property
    def repository(self) -> str: ...

    def list(self) -> FileListing:
        """Resolve the revision and list its files. Raises DownloadError."""

    def request(self, file: RemoteFile, listing: FileListing) -> FileRequest: ...

    def describe_error(self, error: "HfHubHTTPError", file: RemoteFile) -> DownloadError | None:
        """The error to report for a failed request; None if it should be retried at once."""

    def unpinned_warning(self, listing: FileListing) -> str | None:
        """A warning if the revision is a branch or tag, which can move."""


def is_safe_path(name: str) -> bool:
    """Whether it is a relative path that stays inside its folder."""
    parts = PurePosixPath(name).parts
    return bool(parts) and not name.startswith("/") and ".." not in parts and "\0" not in name


def is_commit(revision: str | None) -> bool:
    return bool(revision and re.fullmatch(r"[0-9a-f]{40}", revision))
