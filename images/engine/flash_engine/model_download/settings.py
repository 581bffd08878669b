"""Reads flash-fetch's settings from the environment."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, cast, get_args

from flash_contracts.download_record import GIB
from flash_engine.model_download.image_reference import ImageReference
from flash_engine.model_download.source import is_commit

CacheKind = Literal["Pod", "Node", "Claim"]

LEAST_BYTES_PER_SECOND = 64 << 10
"""Of each file. With eight at a time, a model of 149 GiB would take three and a half days."""


@dataclass(frozen=True)
class DownloadSettings:
    """The settings that `flash-fetch --help` describes."""

    source: str
    revision: str | None
    cache: Path
    cache_kind: CacheKind
    cache_name: str
    """The path on the node, or the claim's name."""
    limit_bytes: int | None
    """The most bytes that all models in the cache may take together."""
    run_dir: Path
    token_file: Path | None
    registry_secrets: Path | None
    """A folder with docker configs, one SECRET.json for each Secret."""
    registry_secret: str | None
    """The Secret that must exist."""
    plain_http: tuple[str, ...]
    """Registries to contact without TLS."""
    hub_secret: str
    """The Secret behind `token_file`, for messages."""
    stall_seconds: float
    streams: int
    least_bytes_per_second: float = LEAST_BYTES_PER_SECOND
    """Of each file, on average over `stall_seconds`."""

    @cached_property
    def image(self) -> ImageReference | None:
        """The image to download; None for a hub repository."""
        scheme, _, location = self.source.partition("://")
        return ImageReference.parse(location) if scheme == "oci" else None

    @property
    def repository(self) -> str:
        return self.image.repository if self.image else self.source.removeprefix("hf://")

    @property
    def pinned(self) -> str | None:
        """The commit or digest, if it is known without asking hub or registry."""
        if self.image:
            return self.image.digest
        return self.revision if is_commit(self.revision) else None

    @property
    def server(self) -> str:
        return "the registry" if self.image else "the hub"

    @property
    def place(self) -> str:
        """The cache, for messages."""
        places = {"Pod": "the pod's own volume", "Node": f"the node's folder {self.cache_name}"}
        return places.get(self.cache_kind, f"the claim {self.cache_name}")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "DownloadSettings":
        """Raises KeyError if a setting is missing and ValueError if one is invalid."""
        source = environment["FLASH_MODEL_SOURCE"]
        if not source.startswith(("hf://", "oci://")):
            raise ValueError(f"FLASH_MODEL_SOURCE={source!r} is neither hf://OWNER/NAME nor oci://IMAGE")
        if source.startswith("oci://"):
            ImageReference.parse(source.removeprefix("oci://"))
        limit_bytes = environment.get("FLASH_MODEL_CACHE_GIBIBYTES")
        token_file = environment.get("FLASH_HUB_TOKEN_FILE")
        registry_secrets = environment.get("FLASH_REGISTRY_SECRETS")
        cache = Path(environment["FLASH_MODEL_CACHE"])
        return cls(
            source=source,
            revision=environment.get("FLASH_MODEL_REVISION") or None,
            cache=cache,
            cache_kind=_kind(environment.get("FLASH_MODEL_CACHE_KIND", "Pod")),
            cache_name=environment.get("FLASH_MODEL_CACHE_NAME", str(cache)),
            limit_bytes=round(_positive("FLASH_MODEL_CACHE_GIBIBYTES", limit_bytes) * GIB) if limit_bytes else None,
            run_dir=Path(environment["FLASH_RUN_DIR"]),
            token_file=Path(token_file) if token_file else None,
            registry_secrets=Path(registry_secrets) if registry_secrets else None,
            registry_secret=environment.get("FLASH_REGISTRY_SECRET") or None,
            plain_http=tuple(filter(None, environment.get("FLASH_REGISTRY_PLAIN_HTTP", "").split(","))),
            hub_secret=environment.get("FLASH_HUB_SECRET", "of model.credentialsSecret"),
            stall_seconds=_positive("FLASH_FETCH_STALL_SECONDS", environment.get("FLASH_FETCH_STALL_SECONDS", "300")),
            streams=math.ceil(_positive("FLASH_FETCH_STREAMS", environment.get("FLASH_FETCH_STREAMS", "8"))),
            least_bytes_per_second=_positive(
                "FLASH_FETCH_LEAST_BYTES_PER_SECOND",
                environment.get("FLASH_FETCH_LEAST_BYTES_PER_SECOND", str(LEAST_BYTES_PER_SECOND)),
            ),
        )


def _kind(value: str) -> CacheKind:
    if value not in get_args(CacheKind):
        raise ValueError(f"FLASH_MODEL_CACHE_KIND={value!r} is not one of {', '.join(get_args(CacheKind))}")
    return cast("CacheKind", value)


def _positive(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise ValueError(f"{name}={text!r} is not a positive number")
    return value
