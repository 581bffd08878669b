"""What the manifest of an image or of an artifact says is to be fetched. Pure.

layer                                              what becomes of it
-------------------------------------------------- --------------------------------------------------------
with a file's name (ORAS, ModelPack's raw layers)  that file
a tar, or a tar with gzip                          unpacked, as a container's root folder would be
ORAS' packed folder, ModelPack's tars              the same
any other: zstd, encrypted, of an unknown form     refused by name
"""

import platform
from typing import Any, Literal

from flash_engine.model_download.failure import DownloadError
from flash_engine.model_download.image_reference import DIGEST
from flash_engine.model_download.source import Layer, Listing, RemoteFile, is_safe

LAYERS = ".flash-layers"
"""Folder of the layers that are not unpacked yet, within that of the model."""

NAMES = ("org.opencontainers.image.title", "org.cncf.model.filepath")
PACKED = "io.deis.oras.content.unpack"
PACKED_BY_ORAS = "application/vnd.oci.image.layer.v1.tar+gzip"
"""What ORAS' client for Python gives to a folder, without saying more; a file it calls a tar without gzip."""
EMPTY = "application/vnd.oci.empty.v1+json"
INDEXES = ("application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json")
MANIFESTS = ("application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json")
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}

Document = dict[str, Any]


def is_index(document: Document) -> bool:
    return document.get("mediaType") in INDEXES or "manifests" in document


def manifest_of(index: Document, image: str) -> str:
    """Digest of the manifest for this machine. Raises DownloadError."""
    found = [one for one in index.get("manifests") or () if _architecture(one) != "unknown"]
    wanted = ARCHITECTURES.get(platform.machine(), platform.machine())
    for one in found:
        if _architecture(one) == wanted and one["platform"].get("os", "linux") == "linux":
            return str(one["digest"])
    if len(found) == 1:
        # A model is the same for every machine, whatever it was built on.
        return str(found[0]["digest"])
    held = ", ".join(sorted(_architecture(one) for one in found)) or "nothing"
    raise DownloadError(f"{image} holds {held}, and nothing for linux/{wanted}", "push it for that platform")


def _architecture(manifest: Document) -> str:
    """Attestations beside an image have the platform unknown."""
    return str((manifest.get("platform") or {}).get("architecture", "any"))


def listing_of(manifest: Document, revision: str, image: str) -> Listing:
    """Raises DownloadError for what cannot be made a folder of."""
    described = [layer for layer in manifest.get("layers") or () if layer.get("mediaType") != EMPTY]
    if not described:
        raise DownloadError(f"{image} holds no layer", "point model.source at an image or artifact with a model")
    files: dict[str, RemoteFile] = {}
    layers: dict[str, Layer] = {}
    for number, layer in enumerate(described, 1):
        told = f"layer {number} of {image}"
        digest = _digest(layer, told)
        compression, name = _compression(layer), _name(layer, told)
        if name is not None:
            if name in files:
                raise DownloadError(f"{image} names the file {name!r} twice", "push it anew, each file once")
            files[name] = RemoteFile(name, int(layer["size"]), digest)
        elif compression is not None:
            layers.pop(digest, None)  # the same layer once more: only its last place counts
            layers[digest] = Layer(RemoteFile(f"{LAYERS}/{digest}", int(layer["size"]), digest), compression)
        else:
            raise DownloadError(
                f"{told} is {layer.get('mediaType')}, which is neither a tar (with gzip or without) nor a named file",
                "push the model as an image whose layers are tar or tar+gzip, or with ORAS",
            )
    return Listing(revision, tuple(files.values()), tuple(layers.values()))


def _digest(layer: Document, told: str) -> str:
    digest = str(layer.get("digest"))
    if not DIGEST.fullmatch(digest):
        raise DownloadError(f"{told} has the digest {digest!r}, which is no SHA-256", "push it anew with SHA-256")
    return digest.removeprefix("sha256:")


def _name(layer: Document, told: str) -> str | None:
    """The file that a layer is, None where it is an archive. ORAS calls a plain file a tar, too, but names it."""
    annotations = layer.get("annotations") or {}
    name = next((annotations[key] for key in NAMES if annotations.get(key)), None)
    if name is None or annotations.get(PACKED) == "true" or layer.get("mediaType") == PACKED_BY_ORAS:
        return None
    if NAMES[0] not in annotations and _compression(layer) is not None:
        return None  # ModelPack names what is in a tar, too
    if not is_safe(name) or name.split("/")[0] == LAYERS:
        raise DownloadError(f"{told} is a file {name!r}, which would be written elsewhere", "do not use this image")
    return str(name)


def _compression(layer: Document) -> Literal["none", "gzip"] | None:
    """None where it is no tar that we can read."""
    kind = str(layer.get("mediaType"))
    if kind.endswith("tar"):
        return "none"
    return "gzip" if kind.endswith(("tar+gzip", "tar.gzip")) else None
