"""Parses the manifest of an image or artifact into the files and layers to download. Pure.

layer                                              result
-------------------------------------------------- -----------------------------------------------
with a file name (ORAS, raw layers of ModelPack)   the file
tar, or tar with gzip                              unpacked, like the root folder of a container
folder packed by ORAS, tar of ModelPack            unpacked
others: zstd, encrypted, unknown media types       an error that names the layer
"""

import platform
from typing import Any, Literal

from flash_engine.model_download.failure import DownloadError
from flash_engine.model_download.image_reference import DIGEST
from flash_engine.model_download.source import ImageLayer, Listing, RemoteFile, is_safe_path

LAYERS = ".flash-layers"
"""Folder within the model's folder, for layers that are not unpacked yet."""

NAMES = ("org.opencontainers.image.title", "org.cncf.model.filepath")
PACKED = "io.deis.oras.content.unpack"
PACKED_BY_ORAS = "application/vnd.oci.image.layer.v1.tar+gzip"
"""The media type that ORAS' Python client gives packed folders, without the annotation. Its plain files have the type
of a tar without gzip."""
EMPTY = "application/vnd.oci.empty.v1+json"
INDEXES = ("application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json")
MANIFESTS = ("application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json")
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}

Document = dict[str, Any]


def is_index(document: Document) -> bool:
    return document.get("mediaType") in INDEXES or "manifests" in document


def choose_manifest(index: Document, image: str) -> str:
    """The digest of the manifest for this machine's architecture. Raises DownloadError if there is none."""
    found = [one for one in index.get("manifests") or () if _architecture(one) != "unknown"]
    wanted = ARCHITECTURES.get(platform.machine(), platform.machine())
    for one in found:
        if _architecture(one) == wanted and one["platform"].get("os", "linux") == "linux":
            return str(one["digest"])
    if len(found) == 1:
        # The files of a model do not depend on the architecture, so the only image will do.
        return str(found[0]["digest"])
    held = ", ".join(sorted(_architecture(one) for one in found)) or "an empty index"
    raise DownloadError(f"{image} has no image for linux/{wanted}, only {held}", "push it for that platform")


def _architecture(manifest: Document) -> str:
    """The architecture, "unknown" for attestations."""
    return str((manifest.get("platform") or {}).get("architecture", "any"))


def parse_manifest(manifest: Document, revision: str, image: str) -> Listing:
    """Raises DownloadError if the image cannot be turned into a model folder."""
    described = [layer for layer in manifest.get("layers") or () if layer.get("mediaType") != EMPTY]
    if not described:
        raise DownloadError(f"{image} has no layers", "point model.source at an image or artifact with a model")
    files: dict[str, RemoteFile] = {}
    layers: dict[str, ImageLayer] = {}
    for number, layer in enumerate(described, 1):
        label = f"layer {number} of {image}"
        digest = _digest(layer, label)
        compression, name = _compression(layer), _name(layer, label)
        if name is not None:
            if name in files:
                raise DownloadError(f"{image} contains the file {name!r} twice", "push it again, with each file once")
            files[name] = RemoteFile(name, int(layer["size"]), digest)
        elif compression is not None:
            layers.pop(digest, None)  # the same layer again: only its last position counts
            layers[digest] = ImageLayer(RemoteFile(f"{LAYERS}/{digest}", int(layer["size"]), digest), compression)
        else:
            raise DownloadError(
                f"{label} has media type {layer.get('mediaType')}, which is neither tar, tar+gzip nor a named file",
                "push the model as an image with tar or tar+gzip layers, or with ORAS",
            )
    return Listing(revision, tuple(files.values()), tuple(layers.values()))


def _digest(layer: Document, label: str) -> str:
    digest = str(layer.get("digest"))
    if not DIGEST.fullmatch(digest):
        raise DownloadError(f"{label} has the digest {digest!r}, which is not SHA-256", "push it again with SHA-256")
    return digest.removeprefix("sha256:")


def _name(layer: Document, label: str) -> str | None:
    """The file name of a layer, None for an archive. ORAS gives plain files the type of a tar, but names them."""
    annotations = layer.get("annotations") or {}
    name = next((annotations[key] for key in NAMES if annotations.get(key)), None)
    if name is None or annotations.get(PACKED) == "true" or layer.get("mediaType") == PACKED_BY_ORAS:
        return None
    if NAMES[0] not in annotations and _compression(layer) is not None:
        return None  # ModelPack names its tars after their content
    if not is_safe_path(name) or name.split("/")[0] == LAYERS:
        raise DownloadError(
            f"{label} is a file {name!r}, which would be written outside the model's folder", "do not use this image"
        )
    return str(name)


def _compression(layer: Document) -> Literal["none", "gzip"] | None:
    """None if it is not a tar that can be unpacked here."""
    kind = str(layer.get("mediaType"))
    if kind.endswith("tar"):
        return "none"
    return "gzip" if kind.endswith(("tar+gzip", "tar.gzip")) else None
