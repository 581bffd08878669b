"""Write an OCI archive whose layers are not compressed.

`buildah push` to an archive always compresses, which takes 20 s for an archive that is read once on the same machine.
Its `dir:` transport leaves layers as they are, and only two files are missing for an OCI archive
(https://github.com/opencontainers/image-spec, image-layout.md).
"""

import hashlib
import io
import json
import tarfile
from pathlib import Path

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
REF_NAME = "org.opencontainers.image.ref.name"


def write_oci_archive(blobs: Path, tag: str, archive: Path) -> None:
    """`blobs` is what the `dir:` transport wrote: manifest.json, and the other blobs named by their SHA-256."""
    manifest = (blobs / "manifest.json").read_bytes()
    digest = hashlib.sha256(manifest).hexdigest()
    described = {
        "mediaType": MANIFEST_TYPE,
        "digest": f"sha256:{digest}",
        "size": len(manifest),
        "annotations": {REF_NAME: tag, "io.containerd.image.name": tag},
    }
    part = archive.with_suffix(".part")
    with tarfile.open(part, "w") as tar:
        add(tar, "oci-layout", json.dumps({"imageLayoutVersion": "1.0.0"}).encode())
        add(tar, "index.json", json.dumps({"schemaVersion": 2, "manifests": [described]}).encode())
        add(tar, f"blobs/sha256/{digest}", manifest)
        for blob in blob_names(manifest):
            tar.add(blobs / blob, f"blobs/sha256/{blob}")
    part.rename(archive)


def blob_names(manifest: bytes) -> list[str]:
    """Config and layers; two layers can be the same one."""
    read = json.loads(manifest)
    digests = [read["config"]["digest"], *(layer["digest"] for layer in read["layers"])]
    return [digest.removeprefix("sha256:") for digest in dict.fromkeys(digests)]


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    tar.addfile(entry, io.BytesIO(content))
