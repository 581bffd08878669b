"""Reads flash-fetch's settings from the environment."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, get_args

from flash_contracts.download_record import GIB
from flash_contracts.environment import Environment, SettingError
from flash_engine.model_download.image_reference import ImageReference
from flash_engine.model_download.source import is_commit

CacheKind = Literal["Pod", "Node", "Claim"]
CACHE_KINDS: tuple[CacheKind, ...] = get_args(CacheKind)

LEAST_BYTES_PER_SECOND = 64 << 10
"""For each file. With eight at a time, a model of 149 GiB would take three and a half days."""


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
    """Limit for all models in the cache together."""
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
    """For each file, on average over `stall_seconds`."""

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
        """The commit or digest, if it is known without asking the hub or registry."""
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
    def from_environment(cls, variables: Mapping[str, str]) -> "DownloadSettings":
        """Raises SettingError if a setting is missing or invalid, and ValueError for an invalid name of an image."""
        environment = Environment(variables)
        cache = environment.path("FLASH_MODEL_CACHE")
        return cls(
            source=_source(environment),
            revision=environment.optional_text("FLASH_MODEL_REVISION"),
            cache=cache,
            cache_kind=environment.choice("FLASH_MODEL_CACHE_KIND", CACHE_KINDS),
            cache_name=environment.text("FLASH_MODEL_CACHE_NAME", str(cache)),
            limit_bytes=_limit_bytes(environment),
            run_dir=environment.path("FLASH_RUN_DIR"),
            token_file=environment.optional_path("FLASH_HUB_TOKEN_FILE"),
            registry_secrets=environment.optional_path("FLASH_REGISTRY_SECRETS"),
            registry_secret=environment.optional_text("FLASH_REGISTRY_SECRET"),
            plain_http=tuple(filter(None, environment.text("FLASH_REGISTRY_PLAIN_HTTP", "").split(","))),
            hub_secret=environment.text("FLASH_HUB_SECRET", "of model.credentialsSecret"),
            stall_seconds=environment.positive("FLASH_FETCH_STALL_SECONDS", 300.0),
            streams=math.ceil(environment.positive("FLASH_FETCH_STREAMS", 8)),
            least_bytes_per_second=environment.positive("FLASH_FETCH_LEAST_BYTES_PER_SECOND", LEAST_BYTES_PER_SECOND),
        )


def _source(environment: Environment) -> str:
    expected = "hf://OWNER/NAME or oci://IMAGE"
    source = environment.text("FLASH_MODEL_SOURCE", expected=expected)
    if not source.startswith(("hf://", "oci://")):
        raise SettingError("FLASH_MODEL_SOURCE", source, expected)
    if source.startswith("oci://"):
        ImageReference.parse(source.removeprefix("oci://"))
    return source


def _limit_bytes(environment: Environment) -> int | None:
    name = "FLASH_MODEL_CACHE_GIBIBYTES"
    return round(environment.positive(name, 0.0) * GIB) if environment.optional_text(name) else None
