"""Parses the manifest of an image or artifact into the files and layers to download. Pure.

layer                                                       result
----------------------------------------------------------- ----------------------------------------------------------
tar, or tar with gzip: images (KServe's modelcar too),      unpacked over each other, like the root folder of a
KitOps, tars of ModelPack, folders packed by ORAS           container
named files: ORAS, raw layers of ModelPack                  the file
Docker's safetensors and chat template                      the file, named as Docker names it
data sets, and unnamed documents and licences               skipped
GGUF and other engines' formats; zstd, encrypted,           an error that names the layer
kept outside the registry, unknown
"""

import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal, NoReturn

from flash_engine.model_download.failure import DownloadError
from flash_engine.model_download.image_reference import DIGEST
from flash_engine.model_download.source import FileListing, ImageLayer, RemoteFile, is_safe_path

LAYERS = ".flash-layers"
"""Folder within the model's folder, for layers that are not unpacked yet."""

TITLE = "org.opencontainers.image.title"
NAMES = (TITLE, "org.cncf.model.filepath", "org.cnai.model.filepath")
"""Annotations with a layer's file name; the last is ModelPack's from before 2025."""
PACKED = "io.deis.oras.content.unpack"
PATH_IN_LAYER = "olot.layer.content.inlayerpath"
"""Kubeflow's OLOT sets it on the tars that it adds to an image."""
UNNAMED_TAR = "application/vnd.oci.image.layer.v1.tar"
"""ORAS gives plain files this type, and a name."""
EMPTY = "application/vnd.oci.empty.v1+json"
INDEXES = ("application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json")
MANIFESTS = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.oci.artifact.manifest.v1+json",
)
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}

ARCHIVE = re.compile(r"(?:^|.*[^a-z])tar(?:[.+](gzip|gz|zstd|zst))?(\+encrypted)?")
COMPRESSED = re.compile(r".*\+(gzip|zstd)(\+encrypted)?")
OTHER_ENGINES = re.compile(r".*(gguf|ggml|vnd\.ollama\.image\.(?:model|projector|adapter|tensor)|dduf|\.mmproj).*")
NOT_NEEDED = re.compile(r".*[./](?:dataset)[./].*")
NOT_NEEDED_UNNAMED = re.compile(r".*[./](?:docs?|licen[cs]e|readme)(?:[./+].*)?")
OUTSIDE = re.compile(r".*(?:nondistributable|\.foreign\.).*")
SAFETENSORS = re.compile(r".*[./]safetensors(?:[.+].*)?")
CHAT_TEMPLATE = "application/vnd.docker.ai.chat.template.jinja"
ABOUT_AN_IMAGE = re.compile(r".*(?:in-toto|sigstore|cosign|notary|spdx|cyclonedx|signature|sbom).*")
"""Types of artifacts in an index that describe another artifact."""

PUSH_SAFETENSORS = (
    "set model.source to an image, an artifact or an hf:// repository with config.json and safetensors files"
)
PUSH_AGAIN = "push it again"
NO_ZSTD = (
    "push it without compression, which weights do not need, or with gzip (buildah push and skopeo copy: "
    "--compression-format gzip, --dest-compress-format gzip)"
)
"""The engine image has no zstd library, and Python has one only from 3.14 on."""

Document = dict[str, Any]


def is_index(document: Document) -> bool:
    return document.get("mediaType") in INDEXES or "manifests" in document


def choose_manifest(index: Document, image: str) -> str:
    """The digest of the manifest for this machine's architecture. Raises DownloadError if there is none."""
    found = [one for one in _documents(index, "manifests", image) if _is_of_a_model(one)]
    wanted = ARCHITECTURES.get(platform.machine(), platform.machine())
    for one in found:
        if _architecture(one) == wanted and _platform(one).get("os", "linux") == "linux":
            return str(one.get("digest"))
    if len(found) == 1:
        # A model's files do not depend on the architecture, so the only image will do.
        return str(found[0].get("digest"))
    if len(found) > 1 and all(_architecture(one) == ANY for one in found):
        digests = ", ".join(str(one.get("digest")) for one in found)
        raise DownloadError(f"{image} has {len(found)} models", f"name the one to serve by its digest: {digests}")
    held = ", ".join(sorted(_architecture(one) for one in found)) or "an empty index"
    raise DownloadError(f"{image} has no image for linux/{wanted}, only {held}", "push it for that platform")


ANY = "any"


def _platform(manifest: Document) -> Document:
    found = manifest.get("platform")
    return found if isinstance(found, dict) else {}


def _architecture(manifest: Document) -> str:
    """The architecture, "unknown" for attestations."""
    return str(_platform(manifest).get("architecture") or ANY)


def _is_of_a_model(manifest: Document) -> bool:
    annotations = manifest.get("annotations")
    described = isinstance(annotations, dict) and "vnd.docker.reference.type" in annotations
    about = ABOUT_AN_IMAGE.fullmatch(str(manifest.get("artifactType") or ""))
    return not described and not about and _architecture(manifest) != "unknown"


@dataclass(frozen=True)
class _Layer:
    """A validated layer of a manifest."""

    label: str
    kind: str
    """Its media type."""
    digest: str
    size: int
    annotations: Mapping[str, str]
    is_outside: bool
    """Whether the registry may lack it."""

    @classmethod
    def of(cls, described: Document, label: str) -> "_Layer":
        """Raises DownloadError."""
        digest, size, kind = described.get("digest"), described.get("size"), str(described.get("mediaType"))
        if not isinstance(digest, str) or not DIGEST.fullmatch(digest):
            raise DownloadError(
                f"{label} has the digest {digest!r}, which is not SHA-256", f"{PUSH_AGAIN} with SHA-256"
            )
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise DownloadError(f"{label} has the size {size!r}", PUSH_AGAIN)
        annotations = described.get("annotations") or {}
        if not isinstance(annotations, dict):
            raise DownloadError(f"{label} has annotations that are not an object", PUSH_AGAIN)
        texts = {key: value for key, value in annotations.items() if isinstance(value, str)}
        is_outside = bool(described.get("urls")) and OUTSIDE.fullmatch(kind) is not None
        return cls(label, kind, digest.removeprefix("sha256:"), size, texts, is_outside)

    @property
    def archive(self) -> re.Match[str] | None:
        """Its compression, and whether it is encrypted. None if it is not a tar."""
        return ARCHIVE.fullmatch(self.kind)

    @property
    def name(self) -> str | None:
        """The file name in its annotations."""
        return next((self.annotations[key] for key in NAMES if self.annotations.get(key)), None)

    @property
    def is_plain_file(self) -> bool:
        """Whether to store it under its name instead of unpacking it."""
        if self.name is None or self.annotations.get(PACKED) == "true" or PATH_IN_LAYER in self.annotations:
            return False
        # ModelPack names its tars after their content. ORAS' client for Python names packed folders.
        return not self.archive or (self.kind == UNNAMED_TAR and TITLE in self.annotations)

    @property
    def is_needed(self) -> bool:
        if self.kind == EMPTY or NOT_NEEDED.fullmatch(self.kind):
            return False
        return bool(self.name or self.archive or not NOT_NEEDED_UNNAMED.fullmatch(self.kind))

    @property
    def compression(self) -> Literal["none", "gzip"]:
        """The compression of a tar. Raises DownloadError if it cannot be unpacked here."""
        archive = self.archive
        if archive is None:
            self.refuse("is neither tar, tar+gzip nor a named file", "push the model as an image, or with ORAS")
        if archive[2]:
            self.refuse("is encrypted", "push it unencrypted, and protect the repository with credentials")
        if archive[1] in ("zstd", "zst"):
            self.refuse(
                "is neither tar nor tar+gzip: zstd cannot be unpacked here",
                NO_ZSTD,
            )
        return "gzip" if archive[1] else "none"

    def check(self) -> None:
        """Raises DownloadError if this layer can never become part of a model here."""
        if self.is_outside:
            self.refuse(
                "is kept outside the registry, at addresses that its manifest names; these are not followed",
                "push it with all of its layers",
            )
        if OTHER_ENGINES.fullmatch(self.kind):
            what = (
                "a GGUF model"
                if "gguf" in self.kind or "ollama.image.model" in self.kind
                else "a model of another format"
            )
            self.refuse(f"is {what}, for llama.cpp, Ollama or similar; vLLM loads safetensors here", PUSH_SAFETENSORS)
        if self.is_plain_file and not self.archive and COMPRESSED.fullmatch(self.kind):
            self.refuse("is a file that is compressed or encrypted", "push the file as it is")

    def refuse(self, problem: str, remedy: str) -> NoReturn:
        raise DownloadError(f"{self.label} has media type {self.kind}, which {problem}", remedy)


def parse_manifest(manifest: Document, revision: str, image: str) -> FileListing:
    """Raises DownloadError if the image cannot be turned into a model folder."""
    if "fsLayers" in manifest:
        raise DownloadError(f"{image} has a manifest of the obsolete schema 1", f"{PUSH_AGAIN} with a current client")
    key = "blobs" if "blobs" in manifest and "layers" not in manifest else "layers"
    described = _documents(manifest, key, image)
    all_layers = [_Layer.of(one, f"layer {number} of {image}") for number, one in enumerate(described, 1)]
    wanted = [layer for layer in all_layers if layer.is_needed]
    if not wanted:
        raise DownloadError(f"{image} has no layers", "point model.source at an image or artifact with a model")
    for layer in wanted:
        layer.check()
    files: dict[str, RemoteFile] = {}
    layers: dict[str, ImageLayer] = {}
    for layer, name in _named(wanted):
        if name is not None:
            _add_file(files, RemoteFile(name, layer.size, layer.digest), image)
        else:
            layers.pop(layer.digest, None)  # the same layer again: only its last position counts
            unpacked = RemoteFile(f"{LAYERS}/{layer.digest}", layer.size, layer.digest)
            layers[layer.digest] = ImageLayer(unpacked, layer.compression)
    _check_format(files, layers, image)
    return FileListing(revision, tuple(files.values()), tuple(layers.values()))


def _documents(document: Document, key: str, image: str) -> list[Document]:
    found = document.get(key) or []
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise DownloadError(f"{image} has a manifest whose {key} are not a list of objects", PUSH_AGAIN)
    return found


def _named(layers: Sequence[_Layer]) -> Iterator[tuple[_Layer, str | None]]:
    """Each layer with its file name, None for a tar. Docker's safetensors are named by their order."""
    unnamed = [layer for layer in layers if not layer.name and not layer.archive and SAFETENSORS.fullmatch(layer.kind)]
    for layer in layers:
        if layer in unnamed:
            at, count = unnamed.index(layer) + 1, len(unnamed)
            yield layer, "model.safetensors" if count == 1 else f"model-{at:05}-of-{count:05}.safetensors"
        elif layer.kind == CHAT_TEMPLATE and not layer.name:
            yield layer, "chat_template.jinja"
        else:
            yield layer, _safe_name(layer) if layer.is_plain_file else None


def _safe_name(layer: _Layer) -> str:
    name = str(layer.name)
    if not is_safe_path(name) or PurePosixPath(name).parts[0] == LAYERS:
        raise DownloadError(
            f"{layer.label} is a file {name!r}, which would be written outside the model's folder",
            "do not use this image",
        )
    return str(PurePosixPath(name))


def _add_file(files: dict[str, RemoteFile], file: RemoteFile, image: str) -> None:
    if file.name in files and files[file.name] != file:
        raise DownloadError(f"{image} contains the file {file.name!r} twice", f"{PUSH_AGAIN}, with each file once")
    clash = next((name for name in files if name.startswith(f"{file.name}/") or file.name.startswith(f"{name}/")), None)
    if clash is not None:
        raise DownloadError(f"{image} contains {file.name!r} and {clash!r}: one is a file and a folder", PUSH_AGAIN)
    files[file.name] = file


def _check_format(files: Mapping[str, RemoteFile], layers: Mapping[str, ImageLayer], image: str) -> None:
    """Refuse an artifact with GGUF weights before they are downloaded. The contents of a tar are seen only later."""
    suffixes = {PurePosixPath(name).suffix.lower() for name in files}
    if ".gguf" in suffixes and ".safetensors" not in suffixes and not layers:
        name = next(name for name in files if name.lower().endswith(".gguf"))
        raise DownloadError(f"{image} has its weights in GGUF ({name}); vLLM loads safetensors here", PUSH_SAFETENSORS)
