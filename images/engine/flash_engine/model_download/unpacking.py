"""The layers of an image, unpacked one over the other into the model's folder, as container runtimes do.

A layer's tar is removed once what was in it is on the disk, and a ledger says which were: an attempt that is killed
goes on with the layer that it was at. No layer can make us write, or lead a reader, out of the folder: every part of a
path is a real folder, and every link ends within. (tarfile's own filter, `data`, is missing in Debian 12's Python, and
lets a link through that another one, written after it, leads out.)
"""

import gzip
import json
import os
import shutil
import tarfile
import zlib
from collections.abc import Callable
from io import BufferedIOBase
from pathlib import Path, PurePosixPath

from flash_contracts.document import VERSION, read_json
from flash_contracts.download_record import size_told
from flash_engine.log import Logger
from flash_engine.model_cache import StoredModel, sync_folder
from flash_engine.model_download.failure import DownloadError
from flash_engine.model_download.image_content import LAYERS
from flash_engine.model_download.source import Layer, RemoteFile

log = Logger("flash.fetch")

CHUNK = 8 << 20
WHITEOUT, OPAQUE, META = ".wh.", ".wh..wh..opq", ".wh..wh."
DO_NOT = "do not use this image"


class Unpacking:
    """Of one image's layers."""

    def __init__(self, model: StoredModel, layers: tuple[Layer, ...]) -> None:
        self._model = model
        self._layers = layers
        self._ledger = model.folder / LAYERS / "unpacked.json"

    @property
    def pending(self) -> list[Layer]:
        done = self._done()
        return [layer for layer in self._layers if layer.file.sha256 not in done]

    def _done(self) -> list[str | None]:
        return (read_json(self._ledger) or {}).get("layers") or []

    def begin(self) -> None:
        """What an image left whose ledger is gone is no beginning of anything."""
        if self._layers and not self._ledger.parent.is_dir():
            for path in self._model.folder.iterdir():
                _remove(path)
            self._ledger.parent.mkdir()

    def run(self, room: Callable[[], int], tell: Callable[[str], None]) -> None:
        """`room` is how much more fits. Raises DownloadError, and OSError for a volume that fails."""
        for layer in self.pending:
            tell(f"layer {self._layers.index(layer) + 1} of {len(self._layers)}")
            tar = self._model.folder / layer.file.name
            _LayerWriter(self._model.folder, layer, room()).write(tar)
            _sync_folders(self._model.folder)
            self._note(layer)
            tar.unlink()

    def contents(self) -> list[RemoteFile]:
        """All that the layers came to."""
        found = [path for path in sorted(self._model.folder.rglob("*")) if path.is_file()]
        named = [(path.relative_to(self._model.folder), path.stat().st_size) for path in found]
        return [RemoteFile(str(name), size, None) for name, size in named if name.parts[0] != LAYERS]

    def end(self) -> None:
        """The ledger goes once the manifest is there: until then it is worth a download."""
        shutil.rmtree(self._ledger.parent, ignore_errors=True)

    def _note(self, layer: Layer) -> None:
        """Lasting, for the tar goes next."""
        done = [*self._done(), layer.file.sha256]
        unfinished = self._ledger.with_suffix(".new")
        with unfinished.open("w") as file:
            json.dump({"version": VERSION, "layers": done}, file)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(self._ledger)
        sync_folder(self._ledger.parent)


class _LayerWriter:
    """Writes one layer over those before."""

    def __init__(self, folder: Path, layer: Layer, room: int) -> None:
        self._folder = folder
        self._layer = layer
        self._room = room
        self._written: set[Path] = set()
        """A layer takes away what those before it brought, never what it brings itself."""
        self._left_out: list[str] = []

    def write(self, tar: Path) -> None:
        try:
            # Not as a stream (`r|`), which tarfile reads in pieces of 10 kB, at a third of the speed.
            with self._opened(tar) as opened, tarfile.open(fileobj=opened, mode="r:") as archive:
                for member in archive:
                    self._write(archive, member)
        except (tarfile.ReadError, gzip.BadGzipFile, zlib.error, EOFError) as error:
            told = f"layer sha256:{self._layer.file.sha256} is not what its media type says ({error})"
            raise DownloadError(told, "push the image anew") from error
        if self._left_out:
            log.info(
                "left out devices, and links to places of the image's root",
                layer=self._layer.file.sha256,
                number=len(self._left_out),
                such_as=self._left_out[:3],
            )

    def _opened(self, tar: Path) -> BufferedIOBase:
        if self._layer.compression == "gzip":
            return gzip.open(tar)
        return tar.open("rb")

    def _write(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        name = self._name(member)
        if not name.parts:
            return
        path = self._real_parent(member, name) / name.name
        if name.name.startswith(WHITEOUT):
            self._white_out(path)
            return
        if member.isdev() or (member.issym() and member.linkname.startswith("/")):
            # Layers of a base system have them, and no model does.
            _remove(path)
            self._left_out.append(member.name)
            return
        self._check(member)
        self._written.update((path, *path.parents))
        if member.isdir():
            if path.is_symlink() or not path.is_dir():
                _remove(path)
                path.mkdir()
            return
        _remove(path)
        if member.isreg():
            self._write_file(archive, member, path)
        elif member.issym():
            self._write_link(member, path)
        else:
            self._write_hard_link(member, path)

    def _name(self, member: tarfile.TarInfo) -> PurePosixPath:
        name = PurePosixPath(member.name.lstrip("/"))
        if ".." in name.parts or LAYERS in name.parts[:1]:
            raise self._refusal(member, "leads out of the model's folder")
        return name

    def _real_parent(self, member: tarfile.TarInfo, name: PurePosixPath) -> Path:
        """Made where no layer says so. Through a link it would be another one."""
        parent = self._folder
        for part in name.parts[:-1]:
            parent /= part
            if parent.is_symlink() or (parent.exists() and not parent.is_dir()):
                raise self._refusal(member, f"leads through {part}, which is no folder")
            parent.mkdir(exist_ok=True)
        return parent

    def _check(self, member: tarfile.TarInfo) -> None:
        if not (member.isreg() or member.isdir() or member.issym() or member.islnk()) or member.issparse():
            raise self._refusal(member, "is neither file, folder nor link")

    def _write_file(self, archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
        self._room -= member.size
        if self._room < 0 and self._layer.compression != "none":
            raise DownloadError(
                f"layer sha256:{self._layer.file.sha256} unpacks to more than there is room for, at {member.name} of "
                f"{size_told(member.size)}",
                "free space, raise model.cache.maxGibibytes, or push the image with layers that are not compressed, "
                "whose size is known before",
            )
        content = archive.extractfile(member)
        assert content is not None  # noqa: S101 - it is a regular file
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        with os.fdopen(descriptor, "wb") as file:
            shutil.copyfileobj(content, file, CHUNK)
            file.flush()
            os.fsync(file.fileno())
            os.fchmod(file.fileno(), 0o444)  # engines share it

    def _write_link(self, member: tarfile.TarInfo, path: Path) -> None:
        """With `..` only where it begins: after another link it would lead elsewhere than it seems to."""
        target = PurePosixPath(member.linkname)
        up = sum(part == ".." for part in target.parts)
        depth = len(path.relative_to(self._folder).parts) - 1
        if up > depth or ".." in target.parts[up:]:
            raise self._refusal(member, f"is a link to {member.linkname}, out of the model's folder")
        path.symlink_to(member.linkname)

    def _write_hard_link(self, member: tarfile.TarInfo, path: Path) -> None:
        name = PurePosixPath(member.linkname.lstrip("/"))
        target = self._folder / name
        parts = [self._folder.joinpath(*name.parts[: count + 1]) for count in range(len(name.parts))]
        if ".." in name.parts or any(part.is_symlink() for part in parts) or not target.is_file():
            raise self._refusal(member, f"is a link to {member.linkname}, which no layer brought")
        os.link(target, path, follow_symlinks=False)

    def _white_out(self, path: Path) -> None:
        if path.name == OPAQUE:
            gone = list(path.parent.iterdir())
        elif path.name.startswith(META):
            return
        else:
            gone = [path.with_name(path.name.removeprefix(WHITEOUT))]
        for one in gone:
            if one != self._folder / LAYERS:
                self._take_away(one)

    def _take_away(self, path: Path) -> None:
        if path not in self._written:
            _remove(path)
        elif path.is_dir() and not path.is_symlink():
            for below in list(path.iterdir()):
                self._take_away(below)

    def _refusal(self, member: tarfile.TarInfo, told: str) -> DownloadError:
        return DownloadError(f"layer sha256:{self._layer.file.sha256}: {member.name!r} {told}", DO_NOT)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _sync_folders(root: Path) -> None:
    """A file is on the disk only once its folder is, too."""
    for folder, _, _ in os.walk(root):
        sync_folder(Path(folder))
