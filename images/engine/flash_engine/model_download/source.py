"""What a model is fetched from, as the rest of flash-fetch sees it: a list of files, and how each is asked for."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Literal, Protocol

from flash_engine.model_download.failure import DownloadError

if TYPE_CHECKING:  # it reads its settings when it is imported, which is not before they are known
    from huggingface_hub.errors import HfHubHTTPError


@dataclass(frozen=True)
class RemoteFile:
    """One file. `sha256` is of all but a hub's small ones, of which it knows git's own checksum alone, `git_sha1`."""

    name: str
    size: int
    sha256: str | None
    git_sha1: str | None = None


@dataclass(frozen=True)
class Layer:
    """A tar, which is unpacked once it is here."""

    file: RemoteFile
    compression: Literal["none", "gzip"]


@dataclass(frozen=True)
class Listing:
    """What is to be fetched."""

    revision: str
    """The commit, or the digest, that all of it is of."""
    files: tuple[RemoteFile, ...]
    layers: tuple[Layer, ...] = ()
    """Unpacked in this order, each over those before."""

    @property
    def all_files(self) -> tuple[RemoteFile, ...]:
        return (*self.files, *(layer.file for layer in self.layers))

    @property
    def total(self) -> int:
        """Bytes that come over the network."""
        return sum(file.size for file in self.all_files)

    @property
    def peak(self) -> int:
        """Bytes that the volume must hold at once: the last layer to be unpacked is there twice for a while.

        A compressed layer unpacks to more than its size, which nobody knows before; that is looked at while it does.
        """
        return self.total + max((layer.file.size for layer in self.layers), default=0)


@dataclass(frozen=True)
class Request:
    """How to ask for a file."""

    url: str
    headers: Mapping[str, str]
    expected_size: int | None
    """For who moves the bytes; None where its limit on the size of one file is none of the source's."""


class Source(Protocol):
    """A repository of a model hub, or of a container registry."""

    server: str
    """Such as "the hub", for messages."""
    advice: str
    """Where to look when what it sends is not what it lists, or nothing comes."""

    @property
    def repository(self) -> str: ...

    def list(self) -> Listing:
        """What there is. Raises DownloadError."""

    def request(self, file: RemoteFile, listing: Listing) -> Request: ...

    def refusal(self, error: "HfHubHTTPError", file: RemoteFile) -> DownloadError | None:
        """What a refusal of a file means; None where another try may be answered differently."""

    def warning(self, listing: Listing) -> str | None:
        """What is to be said of a revision that may move."""


def is_safe(name: str) -> bool:
    """A relative path that stays below where it begins."""
    parts = PurePosixPath(name).parts
    return bool(parts) and not name.startswith("/") and ".." not in parts and "\0" not in name


def is_commit(revision: str | None) -> bool:
    return bool(revision and re.fullmatch(r"[0-9a-f]{40}", revision))
