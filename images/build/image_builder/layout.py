"""Defines the images, how each is built, and where it is cached."""

import hashlib
import os
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from image_builder.dockerfile import Dockerfile

ROOT: Final = Path(__file__).resolve().parents[3]
BASE_FILES: Final = ("images/base/Dockerfile", "images/base/rootfs.sh")
BASE_STAGE: Final = "base"
"""The stage that a Dockerfile pulls from a registry; replaced by the image of that name."""

GENERATED: Final = ("__pycache__",)


@dataclass(frozen=True)
class Image:
    name: str
    dockerfile: str
    kept: tuple[str, ...]
    """Stages to keep as separate images, in order; the last one is the image."""

    tag: str
    """The name under which a cluster finds it. With a host: what has none is listed by containerd, but never found."""


@dataclass(frozen=True)
class Step:
    """One image to build: a cut Dockerfile, the files it copies, and the name that both determine."""

    stage: str
    text: str
    context_paths: tuple[str, ...]
    reference: str

    @property
    def key(self) -> str:
        return self.reference.rpartition(":")[2]


IMAGES: Final = (
    Image(
        "engine-cpu",
        "images/engine/Dockerfile",
        ("tools", "sbom-tools", "cpu-deps", "cpu"),
        "localhost/flash/engine:cpu",
    ),
    Image(
        "operator",
        "images/operator/Dockerfile",
        ("tools", "sbom-tools", "operator-deps", "operator"),
        "localhost/flash/operator:dev",
    ),
    Image(
        "node",
        "images/node/Dockerfile",
        ("tools", "sbom-tools", "node-deps", "node"),
        "localhost/flash/node:dev",
    ),
    Image(
        "quantiser-cpu",
        "images/quantiser/Dockerfile",
        ("tools", "sbom-tools", "cpu-deps", "quantiser-cpu"),
        "localhost/flash/quantiser:cpu",
    ),
)

CUDA_IMAGE: Final = Image(
    "engine-cuda",
    "images/engine/Dockerfile",
    ("tools", "sbom-tools", "cuda-deps", "cuda"),
    "localhost/flash/engine:cuda",
)
"""Not one of `IMAGES`: it takes 9 GB and needs a GPU to serve, so no test builds it."""


def image_named(name: str) -> Image:
    return next(image for image in (*IMAGES, CUDA_IMAGE) if image.name == name)


def cache_root(environment: Mapping[str, str] = os.environ) -> Path:
    if own := environment.get("FLASH_CACHE"):
        return Path(own)
    shared = environment.get("XDG_CACHE_HOME") or Path(environment.get("HOME", "/root"), ".cache")
    return Path(shared, "deepseek-flash-operator")


def archive_of(name: str, key: str, cache: Path) -> Path:
    return cache / "images" / f"{name}-{key}.tar"


def base_reference(root: Path = ROOT) -> str:
    return f"localhost/flash/base:{content_key(platform.machine(), root, BASE_FILES)}"


def steps_of(image: Image, root: Path = ROOT) -> list[Step]:
    """What has to be built for `image`, in order. Each key covers the keys before it, since the text names them."""
    source = Dockerfile.parse((root / image.dockerfile).read_text()).resolved({})
    built = {BASE_STAGE: base_reference(root)}
    steps = []
    for stage in image.kept:
        cut = source.cut_to(stage, built)
        text, paths = cut.text(), tuple(cut.context_paths())
        built[stage] = f"localhost/flash/{stage}:{content_key(text, root, paths)}"
        steps.append(Step(stage, text, paths, built[stage]))
    return steps


def content_key(text: str, root: Path, paths: Iterable[str]) -> str:
    digest = hashlib.sha256(text.encode())
    for file in files_below(root, paths):
        executable = os.access(file, os.X_OK)
        digest.update(f"\0{file.relative_to(root)}\0{executable}\0".encode())
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:16]


def files_below(root: Path, paths: Iterable[str]) -> list[Path]:
    """The files of a build context, without Python's caches."""
    found: set[Path] = set()
    for path in paths:
        start = root / path
        if not start.exists():
            raise FileNotFoundError(f"a Dockerfile copies {path}, which is not there")
        found |= {start} if start.is_file() else {file for file in start.rglob("*") if file.is_file()}
    return sorted(file for file in found if not set(GENERATED) & set(file.relative_to(root).parts))
