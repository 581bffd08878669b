"""The name of an image, read as container runtimes read it."""

import ipaddress
import re
from dataclasses import dataclass

PATH = re.compile(r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*")
TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")

DOCKER_HUB = "docker.io"
DOCKER_HUB_NAMES = (DOCKER_HUB, "index.docker.io", "registry-1.docker.io")


@dataclass(frozen=True)
class ImageReference:
    """`REGISTRY/PATH[:TAG][@DIGEST]`."""

    registry: str
    path: str
    tag: str
    digest: str | None

    @classmethod
    def parse(cls, text: str) -> "ImageReference":
        """Raises ValueError for what is no name of an image."""
        name, _, digest = text.partition("@")
        registry, path = _split(name)
        path, colon, tag = path.partition(":")
        if "@" in text and not DIGEST.fullmatch(digest):
            raise ValueError(f"{text!r}: {digest!r} is no digest of the form sha256:64 hexadecimal digits")
        if not PATH.fullmatch(path) or (colon and not TAG.fullmatch(tag)):
            raise ValueError(
                f"{text!r} is not REGISTRY/NAME:TAG or REGISTRY/NAME@DIGEST, in lower case but for the tag"
            )
        return cls(registry, path, tag or "latest", digest or None)

    @property
    def repository(self) -> str:
        return f"{self.registry}/{self.path}"

    @property
    def host(self) -> str:
        """Where it is asked for."""
        return "registry-1.docker.io" if self.registry == DOCKER_HUB else self.registry

    @property
    def is_local(self) -> bool:
        """On this very machine, where container runtimes take plain HTTP too."""
        name = re.sub(r":\d+$", "", self.registry)
        try:
            return ipaddress.ip_address(name.strip("[]")).is_loopback
        except ValueError:
            return name == "localhost"

    def __str__(self) -> str:
        return f"{self.repository}@{self.digest}" if self.digest else f"{self.repository}:{self.tag}"


def _split(name: str) -> tuple[str, str]:
    """The first part is a registry where it could be no folder: with a dot, a port, or as localhost."""
    first, slash, rest = name.partition("/")
    if not slash or not ("." in first or ":" in first or first == "localhost"):
        return DOCKER_HUB, name if slash else f"library/{name}"
    if first in DOCKER_HUB_NAMES:
        return DOCKER_HUB, rest if "/" in rest else f"library/{rest}"
    return first, rest
