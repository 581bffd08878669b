"""Who we are to a registry, as the Secrets say that kubelets pull images with: `.dockerconfigjson`.

An entry is found as kubelets find it (kubernetes.io/docs/concepts/containers/images, "Interpretation of config.json"):
by host, whose parts may hold a `*`, and by the beginning of the path. Of several the longest name counts.
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
    """A name and a password, or a token in its place."""

    username: str
    password: str = field(repr=False)


def credentials_in(folder: Path, required: str | None, reference: ImageReference) -> Credentials | None:
    """Of the files SECRET.json in a folder. Raises DownloadError for one that is required and not there."""
    files = sorted(folder.glob("*.json")) if folder.is_dir() else []
    if required and required not in [file.stem for file in files]:
        raise DownloadError(
            f"the Secret {required} has no key .dockerconfigjson, or is not there",
            f"kubectl create secret docker-registry {required} --docker-server={reference.registry} ... in the pod's "
            "namespace",
        )
    return credentials_for(reference, [_read(file) for file in files])


def credentials_for(reference: ImageReference, configs: Iterable[dict[str, Any]]) -> Credentials | None:
    """The entry that fits best."""
    entries = [entry for config in configs for entry in (config.get("auths") or {}).items()]
    fitting = [(name, entry) for name, entry in entries if _fits(name, reference)]
    for _, entry in sorted(fitting, key=lambda item: -len(_bare(item[0]))):
        if found := _credentials(entry):
            return found
    return None


def _read(file: Path) -> dict[str, Any]:
    try:
        document: dict[str, Any] = json.loads(file.read_text())
    except ValueError as error:
        told = f"the Secret {file.stem} holds no JSON under .dockerconfigjson ({error})"
        raise DownloadError(told, "make it with kubectl create secret docker-registry") from error
    return document


def _fits(name: str, reference: ImageReference) -> bool:
    host, _, path = _bare(name).partition("/")
    if host in DOCKER_HUB_NAMES:
        host = DOCKER_HUB
    wanted, given = reference.registry.split("."), host.split(".")
    same_host = len(wanted) == len(given) and all(map(fnmatch.fnmatchcase, wanted, given))
    return same_host and f"{reference.path}/".startswith(f"{path}/" if path else "")


def _bare(name: str) -> str:
    """Without scheme and version, which Docker once wrote."""
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
