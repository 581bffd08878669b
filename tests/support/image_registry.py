"""Runs a real container registry (github.com/distribution/distribution), and builds images to push to it."""

import gzip
import hashlib
import io
import json
import platform
import subprocess
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import yaml

from local_cluster.binaries import binary
from local_cluster.oci_archive import ARCHITECTURES
from ports import a_free_port
from waiting import eventually

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
CONFIG = "application/vnd.oci.image.config.v1+json"

Document = dict[str, Any]


def tar_of(files: dict[str, bytes | tarfile.TarInfo]) -> bytes:
    """A layer with these files. A TarInfo is added unchanged."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for name, content in files.items():
            if isinstance(content, tarfile.TarInfo):
                tar.addfile(content)
                continue
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return made.getvalue()


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = kind, target
    return entry


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def image_of(layers: Sequence[bytes], *, gzipped: bool = False) -> tuple[Document, list[bytes]]:
    """The manifest of an image with these layers, and the blobs that it names."""
    rootfs = {"type": "layers", "diff_ids": [digest_of(layer) for layer in layers]}
    architecture = ARCHITECTURES[platform.machine()]
    config = json.dumps({"architecture": architecture, "os": "linux", "rootfs": rootfs}).encode()
    blobs = [gzip.compress(layer, compresslevel=1) if gzipped else layer for layer in layers]
    kind = f"{LAYER}+gzip" if gzipped else LAYER
    described = [{"mediaType": kind, "digest": digest_of(blob), "size": len(blob)} for blob in blobs]
    named = {"mediaType": CONFIG, "digest": digest_of(config), "size": len(config)}
    return {"config": named, "layers": described}, [config, *blobs]


@dataclass
class ImageRegistry:
    """A registry with its storage in `root`. `settings` are added to its configuration."""

    root: Path
    settings: Document = field(default_factory=dict)
    address: str = "127.0.0.1"
    port: int = field(default_factory=a_free_port)

    @property
    def host(self) -> str:
        return f"{self.address}:{self.port}"

    @contextmanager
    def running(self) -> Iterator["ImageRegistry"]:
        config = {
            "version": 0.1,
            "log": {"level": "error", "accesslog": {"disabled": True}},
            "storage": {"filesystem": {"rootdirectory": str(self.root)}, "delete": {"enabled": True}},
            "http": {"addr": self.host, "secret": "of-a-test"},
            **self.settings,
        }
        self.root.mkdir(exist_ok=True)
        file = self.root / "config.yaml"
        file.write_text(yaml.safe_dump(config))
        with subprocess.Popen([binary("registry"), "serve", file], stderr=subprocess.PIPE, text=True) as process:
            try:
                self._wait(process)
                yield self
            finally:
                process.terminate()

    def _wait(self, process: "subprocess.Popen[str]") -> None:
        def answers() -> bool:
            try:
                httpx.get(f"http://{self.host}/v2/", timeout=2, trust_env=False)
            except httpx.HTTPError:
                return False
            return True

        def output() -> str:
            return process.stderr.read() if process.stderr and process.poll() is not None else "it runs without output"

        eventually(answers, "the registry answers", seen=output, alive=lambda: process.poll() is None)

    def push_blob(self, repository: str, content: bytes) -> None:
        digest = digest_of(content)
        begun = httpx.post(f"http://{self.host}/v2/{repository}/blobs/uploads/", trust_env=False)
        address = httpx.URL(begun.headers["Location"]).copy_merge_params({"digest": digest})
        httpx.put(address, content=content, timeout=60, trust_env=False).raise_for_status()

    def push_manifest(self, repository: str, tag: str, manifest: Document, kind: str = MANIFEST) -> str:
        """Returns the digest."""
        content = json.dumps({"schemaVersion": 2, "mediaType": kind, **manifest}).encode()
        address = f"http://{self.host}/v2/{repository}/manifests/{tag}"
        httpx.put(address, content=content, headers={"Content-Type": kind}, trust_env=False).raise_for_status()
        return digest_of(content)

    def push_image(self, repository: str, layers: Sequence[bytes], tag: str = "1", *, gzipped: bool = False) -> str:
        """Pushes an image with these layers. Returns its digest."""
        manifest, blobs = image_of(layers, gzipped=gzipped)
        for blob in blobs:
            self.push_blob(repository, blob)
        return self.push_manifest(repository, tag, manifest)

    def blob_file(self, digest: str) -> str:
        """The path of a blob, relative to the storage's root."""
        name = digest.removeprefix("sha256:")
        return f"docker/registry/v2/blobs/sha256/{name[:2]}/{name}/data"
