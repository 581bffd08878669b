"""Reads the files of an image from its OCI archive, with later layers replacing earlier ones as in a container."""

import json
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class ImageArchive:
    def __init__(self, archive: Path) -> None:
        self.archive = archive
        with tarfile.open(archive) as tar:
            (described,) = self._json(tar, "index.json")["manifests"]
            self.manifest = self._blob(tar, described["digest"])
            self.labels: dict[str, str] = self._blob(tar, self.manifest["config"]["digest"])["config"]["Labels"]

    def files(self, wanted: str) -> dict[str, bytes]:
        """The regular files whose whole path, without a leading slash, matches the expression."""
        pattern, found = re.compile(wanted), dict[str, bytes]()
        for layer in self._layers():
            for entry in layer:
                name = entry.name.removeprefix("./")
                folder, _, last = name.rpartition("/")
                if last.startswith(".wh."):
                    removed = f"{folder}/{last.removeprefix('.wh.')}" if last != ".wh..wh..opq" else folder
                    kept = [path for path in found if not f"{path}/".startswith(f"{removed}/")]
                    found = {path: found[path] for path in kept}
                elif entry.isfile() and pattern.fullmatch(name):
                    file = layer.extractfile(entry)
                    found[name] = file.read() if file else b""
        return found

    def _layers(self) -> Iterator[tarfile.TarFile]:
        with tarfile.open(self.archive) as tar:
            for layer in self.manifest["layers"]:
                blob = tar.extractfile(path_of(layer["digest"]))
                with tarfile.open(fileobj=blob) as opened:
                    yield opened

    def _blob(self, tar: tarfile.TarFile, digest: str) -> Any:
        return self._json(tar, path_of(digest))

    def _json(self, tar: tarfile.TarFile, name: str) -> Any:
        file = tar.extractfile(name)
        return json.load(file) if file else None


def path_of(digest: str) -> str:
    return "blobs/" + digest.replace(":", "/")
