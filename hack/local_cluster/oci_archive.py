"""A one-file image as an OCI archive, without a builder: for the pause image and for test images."""

import hashlib
import io
import json
import platform
import tarfile
from collections.abc import Mapping
from pathlib import Path

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
LAYOUT = {"imageLayoutVersion": "1.0.0"}


def write_archive(
    target: Path, name: str, program: Path, *, called: str | None = None, environment: Mapping[str, str] | None = None
) -> None:
    """An image `name` whose only file and entry point is the static `program`, under its own name or `called`."""
    file = called or program.name
    layer = _tar({file: program.read_bytes()}, mode=0o755)
    variables = [f"{key}={value}" for key, value in (environment or {}).items()]
    config = _json(
        {
            "architecture": ARCHITECTURES.get(platform.machine(), platform.machine()),
            "os": "linux",
            "config": {"Entrypoint": [f"/{file}"], "User": "65535:65535", "Env": ["PATH=/", *variables]},
            "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]},
        }
    )
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": _descriptor("application/vnd.oci.image.config.v1+json", config),
            "layers": [_descriptor("application/vnd.oci.image.layer.v1.tar", layer)],
        }
    )
    entry = _descriptor("application/vnd.oci.image.manifest.v1+json", manifest)
    entry["annotations"] = {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name}
    index = _json({"schemaVersion": 2, "manifests": [entry]})
    blobs = {f"blobs/sha256/{_digest(blob)[7:]}": blob for blob in (layer, config, manifest)}
    unfinished = target.with_suffix(".unfinished")
    unfinished.write_bytes(_tar({"oci-layout": _json(LAYOUT), "index.json": index, **blobs}, mode=0o644))
    unfinished.rename(target)


def images_in(archive: Path) -> dict[str, str]:
    """The names in an OCI archive, each with the digest of what it names; empty for archives of another kind."""
    with tarfile.open(archive) as files:
        member = next((member for member in files if member.name.removeprefix("./") == "index.json"), None)
        content = files.extractfile(member) if member else None
        index = json.loads(content.read()) if content else {}
    found: dict[str, str] = {}
    for manifest in index.get("manifests", []):
        notes = manifest.get("annotations", {})
        name = notes.get("io.containerd.image.name") or notes.get("org.opencontainers.image.ref.name")
        if name:
            found[name] = manifest["digest"]
    return found


def _tar(files: dict[str, bytes], *, mode: int) -> bytes:
    """Always the same bytes for the same files: no times, no owners."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), mode
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def _json(document: object) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def _digest(blob: bytes) -> str:
    return f"sha256:{hashlib.sha256(blob).hexdigest()}"


def _descriptor(media_type: str, blob: bytes) -> dict[str, object]:
    return {"mediaType": media_type, "digest": _digest(blob), "size": len(blob)}
