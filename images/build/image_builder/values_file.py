"""The values with which the chart installs the pushed images."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml


@dataclass(frozen=True)
class PushedImage:
    repository: str
    tag: str
    digest: str
    """sha256:..., which decides what is pulled. The tag is for people."""

    @property
    def reference(self) -> str:
        return f"{self.repository}:{self.tag}@{self.digest}"

    def values(self) -> dict[str, str]:
        return {"repository": self.repository, "tag": self.tag, "digest": self.digest}


def values_of(images: Mapping[str, PushedImage]) -> dict[str, Any]:
    """`images`: by the names of `image_builder.product`. The test of links runs in the engine's image."""
    return {
        "image": images["operator"].values(),
        "engineImage": images["engine"].reference,
        "quantiserImage": images["quantiser"].reference,
        "labeller": {"image": images["node"].values()},
    }


def write_values(images: Mapping[str, PushedImage], file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(values_of(images), sort_keys=False, width=200)
    file.write_text(f"# The images that `make images PUSH=` pushed last. Overwritten by the next push.\n{text}")
