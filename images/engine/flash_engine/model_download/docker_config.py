"""Finds a registry's credentials in pull secrets (`.dockerconfigjson`).

Like the kubelet, it matches entries by host, whose parts may contain `*`, and by path prefix; the longest match wins
(kubernetes.io/docs/concepts/containers/images, "Interpretation of config.json").
"""

import base64
import binascii
import fnmatch
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flash_engine.model_download.failure import DownloadError
from flash_engine.model_download.image_reference import DOCKER_HUB, DOCKER_HUB_NAMES, ImageReference


@dataclass(frozen=True)
class Credentials:
    """A user name, and a password or token."""

    username: str
    password: str = field(repr=False)


def load_credentials(folder: Path, required: str | None, reference: ImageReference) -> Credentials | None:
    """Search the files SECRET.json in a folder. Raises DownloadError if the required one is missing."""
    files = sorted(folder.glob("*.json")) if folder.is_dir() else []
    if required and required not in [file.stem for file in files]:
        raise DownloadError(
            f"the Secret {required} does not exist, or has no key .dockerconfigjson",
            f"kubectl create secret docker-registry {required} --docker-server={reference.registry} ... in the pod's "
            "namespace",
        )
    return find_credentials(reference, [_read(file) for file in files])


def find_credentials(reference: ImageReference, configs: Iterable[dict[str, Any]]) -> Credentials | None:
    """The credentials of the longest matching entry that has any."""
    entries = [entry for config in configs for entry in (config.get("auths") or {}).items()]
    matching = [(name, entry) for name, entry in entries if _matches(name, reference)]
    for _, entry in sorted(matching, key=lambda item: -len(_normalised(item[0]))):
        if found := _credentials(entry):
            return found
    return None


def _read(file: Path) -> dict[str, Any]:
    try:
        document: dict[str, Any] = json.loads(file.read_text())
    except ValueError as error:
        message = f"the key .dockerconfigjson of the Secret {file.stem} is not JSON ({error})"
        raise DownloadError(message, "create it with kubectl create secret docker-registry") from error
    return document


def _matches(name: str, reference: ImageReference) -> bool:
    host, _, path = _normalised(name).partition("/")
    if host in DOCKER_HUB_NAMES:
        host = DOCKER_HUB
    wanted, given = reference.registry.split("."), host.split(".")
    same_host = len(wanted) == len(given) and all(map(fnmatch.fnmatchcase, wanted, given))
    return same_host and f"{reference.path}/".startswith(f"{path}/" if path else "")


def _normalised(name: str) -> str:
    """The name without the scheme and API version that old versions of Docker wrote."""
    bare = name.rpartition("://")[2].rstrip("/")
    return bare.removesuffix("/v1").removesuffix("/v2")


def _credentials(entry: dict[str, Any]) -> Credentials | None:
    if entry.get("username") and entry.get("password"):
        return Credentials(entry["username"], entry["password"])
    try:
        username, colon, password = base64.b64decode(entry.get("auth") or "").decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return None
    return Credentials(username, password.rstrip("\0")) if colon else None
