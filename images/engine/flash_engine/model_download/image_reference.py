"""Parses image names as container runtimes do."""

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
        """Raises ValueError if `text` is not a valid image name."""
        name, _, digest = text.partition("@")
        registry, path = _split(name)
        path, colon, tag = path.partition(":")
        if "@" in text and not DIGEST.fullmatch(digest):
            raise ValueError(f"{text!r}: {digest!r} is not a digest; expected sha256: and 64 hexadecimal digits")
        if not PATH.fullmatch(path) or (colon and not TAG.fullmatch(tag)):
            expected = "REGISTRY/NAME:TAG or REGISTRY/NAME@DIGEST, in lower case except for the tag"
            raise ValueError(f"{text!r} is not an image name; expected {expected}")
        return cls(registry, path, tag or "latest", digest or None)

    @property
    def repository(self) -> str:
        return f"{self.registry}/{self.path}"

    @property
    def host(self) -> str:
        """The host to send requests to."""
        return "registry-1.docker.io" if self.registry == DOCKER_HUB else self.registry

    @property
    def is_local(self) -> bool:
        """Whether the registry is on this machine. Container runtimes allow plain HTTP there too."""
        name = re.sub(r":\d+$", "", self.registry)
        try:
            return ipaddress.ip_address(name.strip("[]")).is_loopback
        except ValueError:
            return name == "localhost"

    def __str__(self) -> str:
        return f"{self.repository}@{self.digest}" if self.digest else f"{self.repository}:{self.tag}"


def _split(name: str) -> tuple[str, str]:
    """Registry and path. The first part is a registry if it has a dot or a port or is localhost."""
    first, slash, rest = name.partition("/")
    if not slash or not ("." in first or ":" in first or first == "localhost"):
        return DOCKER_HUB, name if slash else f"library/{name}"
    if first in DOCKER_HUB_NAMES:
        return DOCKER_HUB, rest if "/" in rest else f"library/{rest}"
    return first, rest
