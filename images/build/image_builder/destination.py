"""Where images are pushed: a registry with a path, as `make images PUSH=` names it."""

import re
from dataclasses import dataclass
from typing import Final

from flash_operator.api.image_rules import IMAGE_NAME

LONGEST: Final = 255
"""Characters of an image's name without its tag (github.com/distribution/reference)."""

LONGEST_NAME: Final = "flash-quantiser"
ON_THIS_MACHINE: Final = ("localhost", "127.0.0.1")
EXAMPLE: Final = "registry.example.org/team"
FORM: Final = f"HOST[:PORT]/PATH, as in {EXAMPLE}"
DOCKER_HUB: Final = ("docker.io", "index.docker.io")


class BadDestinationError(ValueError):
    """No registry can have this name; the message says what to write instead."""


@dataclass(frozen=True)
class Destination:
    """HOST[:PORT][/PATH], below which each image has a repository of its own."""

    name: str

    @classmethod
    def parse(cls, text: str) -> "Destination":
        """Raises BadDestinationError. Asks no registry."""
        name = text.strip().removesuffix("/")
        if problem := _problem(name):
            raise BadDestinationError(f"PUSH={text}: {problem}")
        return cls(name)

    @property
    def host(self) -> str:
        return self.name.partition("/")[0]

    @property
    def is_on_this_machine(self) -> bool:
        """Where registries speak plain HTTP, as Docker assumes too."""
        return self.host.partition(":")[0] in ON_THIS_MACHINE

    def repository(self, image: str) -> str:
        return f"{self.name}/{image}"


def _problem(name: str) -> str | None:
    host, _, path = name.partition("/")
    whole = f"{name}/{LONGEST_NAME}"
    has_host = re.search(r"[.:]", host) is not None or host == "localhost"
    problems = (
        ("://" in name, f"write it without {name.partition('://')[0]}://, as in {EXAMPLE}"),
        ("@" in name or ":" in path, "write it without a tag or digest: each image gets its version as the tag"),
        (not has_host, f"this names no registry: write {FORM}, or for Docker Hub docker.io/{name or 'NAME'}"),
        (host in DOCKER_HUB and not path, f"images on Docker Hub belong to an account: write {host}/NAME"),
        (path != path.lower(), f"registries have names in lower case only: write {host}/{path.lower()}"),
        (not re.search(IMAGE_NAME, whole), f"no registry can have this name: write {FORM}"),
        (len(whole) > LONGEST, f"the name is too long: with /{LONGEST_NAME}, it may have {LONGEST} characters"),
    )
    return next((sentence for applies, sentence in problems if applies), None)
