"""Unpacking layers over each other: the result is what a container would see, and nothing leads outside the folder."""

import gzip
import tarfile
import tempfile
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flash_engine.model_cache import ModelSnapshot
from flash_engine.model_download.failure import DownloadError
from flash_engine.model_download.image_content import LAYERS
from flash_engine.model_download.source import ImageLayer, RemoteFile
from flash_engine.model_download.unpacking import OPAQUE, LayerUnpacker
from image_registry import link, tar_of

PLENTY = 1 << 40
Tar = dict[str, bytes | tarfile.TarInfo]


def layers_of(*contents: bytes, compression: Literal["none", "gzip"] = "none") -> tuple[ImageLayer, ...]:
    names = [f"{number:064}" for number in range(len(contents))]
    return tuple(
        ImageLayer(RemoteFile(f"{LAYERS}/{name}", len(content), name), compression)
        for name, content in zip(names, contents, strict=True)
    )


def stacked(root: Path, *contents: bytes, compression: Literal["none", "gzip"] = "none") -> LayerUnpacker:
    """An unpacker whose layers are downloaded."""
    model = ModelSnapshot(root, "registry/model", "sha256:0")
    layers = layers_of(*contents, compression=compression)
    model.folder.mkdir(parents=True)
    made = LayerUnpacker(model, layers)
    made.prepare()
    for layer, content in zip(layers, contents, strict=True):
        (model.folder / layer.file.name).write_bytes(content)
    return made


def unpacked(root: Path, *tars: Tar) -> dict[str, str]:
    """Everything that is there afterwards: contents of files, targets of links."""
    made = stacked(root, *(tar_of(tar) for tar in tars))
    made.run(lambda: PLENTY, lambda _: None)
    made.clean_up()
    folder = ModelSnapshot(root, "registry/model", "sha256:0").folder
    return {
        str(path.relative_to(folder)): str(path.readlink()) if path.is_symlink() else path.read_text()
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


STACKS: dict[str, tuple[tuple[Tar, ...], dict[str, str]]] = {
    "files of all layers": (({"a": b"1"}, {"d/b": b"2"}), {"a": "1", "d/b": "2"}),
    "absolute names, and names with a leading dot": (({"./a": b"1", "/d/b": b"2"},), {"a": "1", "d/b": "2"}),
    "a later layer's file replaces an earlier one": (({"a": b"1"}, {"a": b"2"}), {"a": "2"}),
    "a file replaces a folder": (({"a/b": b"1"}, {"a": b"2"}), {"a": "2"}),
    "a folder replaces a file": (
        ({"a": b"1"}, {"a": link("a", "", tarfile.DIRTYPE), "a/b": b"2"}), {"a/b": "2"}),
    "a file that a later layer removes": (({"a": b"1", "b": b"1"}, {".wh.a": b""}), {"b": "1"}),
    "a folder that a later layer removes": (({"d/a": b"1", "b": b"1"}, {".wh.d": b""}), {"b": "1"}),
    "a folder that a later layer empties and fills": (
        ({"d/a": b"1", "d/e/f": b"1"}, {"d/b": b"2", "d/e/g": b"2", "d/.wh..wh..opq": b""}),
        {"d/b": "2", "d/e/g": "2"}),
    "a whiteout removes nothing of its own layer": (({"a": b"1", ".wh.a": b""},), {"a": "1"}),
    "metadata of aufs": (({"a": b"1", ".wh..wh.plnk": b""},), {"a": "1"}),
    "links inside": (
        ({"d/a": b"1", "l": link("l", "d/a"), "d/u": link("d/u", "../l")},), {"d/a": "1", "l": "d/a", "d/u": "../l"}),
    "hard links": (({"a": b"1"}, {"b": link("b", "a", tarfile.LNKTYPE)}), {"a": "1", "b": "1"}),
    "a file replaces a link, not its target": (
        ({"a": b"1", "l": link("l", "a")}, {"l": b"2"}), {"a": "1", "l": "2"}),
    "a skipped link still removes the file it replaces": (
        ({"a": b"1", "l": b"1"}, {"l": link("l", "/etc/passwd")}), {"a": "1"}),
    "devices and pipes are skipped": (
        ({"a": b"1", "dev/d": link("dev/d", "", tarfile.CHRTYPE), "p": link("p", "", tarfile.FIFOTYPE)},), {"a": "1"}),
    "absolute links are skipped": (
        ({"a": b"1", "l": link("l", "/etc/passwd")},), {"a": "1"}),
}  # fmt: skip


@pytest.mark.parametrize(("tars", "expected"), STACKS.values(), ids=STACKS.keys())
def test_layers_are_unpacked_as_in_a_container(empty: Path, tars: tuple[Tar, ...], expected: dict[str, str]) -> None:
    assert unpacked(empty, *tars) == expected


UNSAFE: dict[str, tuple[tuple[Tar, ...], str]] = {
    "a name with dots": (({"../../outside": b"x"},), "leads outside the model's folder"),
    "a name with dots in the middle": (({"a/../../../outside": b"x"},), "leads outside the model's folder"),
    "an absolute name with dots": (({"/../outside": b"x"},), "leads outside the model's folder"),
    "a link outside": (({"l": link("l", "../../outside")},), "outside the model's folder"),
    "a link outside through another": (
        ({"d/x": link("d/x", ".."), "y": link("y", "d/x/../outside")},), "outside the model's folder"),
    "a link outside through another that is written later": (
        ({"y": link("y", "d/x/../outside"), "d/x": link("d/x", "..")},), "outside the model's folder"),
    "a link outside through another, at a depth that would allow its dots": (
        ({"d/e/x": link("d/e/x", "../.."), "d/e/y": link("d/e/y", "x/../outside")},), "outside the model's folder"),
    "a link with more dots than its depth": (({"d/l": link("d/l", "../..")},), "outside the model's folder"),
    "a file through a link": (({"l": link("l", "d"), "d/a": b"1", "l/b": b"x"},), "leads through l"),
    "a file through a link of an earlier layer": (
        ({"d/a": b"1", "l": link("l", "d")}, {"l/b": b"x"}), "leads through l"),
    "a whiteout through a link": (({"d/a": b"1", "l": link("l", "d")}, {"l/.wh.a": b""}), "leads through l"),
    "a whiteout of the folder above": (({"a": b"1"}, {".wh...": b""}), "is a whiteout that names no file"),
    "a whiteout of its own folder": (({"d/a": b"1"}, {"d/.wh..": b""}), "is a whiteout that names no file"),
    "a whiteout of nothing": (({"a": b"1"}, {"d/.wh.": b""}), "is a whiteout that names no file"),
    "a hard link to a file outside": (
        ({"h": link("h", "../../outside", tarfile.LNKTYPE)},), "which is not a file of the image"),
    "a hard link to a link": (
        ({"a": b"1", "l": link("l", "a"), "h": link("h", "l", tarfile.LNKTYPE)},), "which is not a file of the image"),
    "a hard link to nothing": (({"h": link("h", "none", tarfile.LNKTYPE)},), "which is not a file of the image"),
    "a sparse file, which may be far larger than the tar": (
        ({"s": link("s", "", tarfile.GNUTYPE_SPARSE)},), "is neither a file, a folder nor a link"),
    "the layers folder": (({f"{LAYERS}/unpacked.json": b"{}"},), "leads outside the model's folder"),
}  # fmt: skip


@pytest.mark.parametrize(("tars", "message"), UNSAFE.values(), ids=UNSAFE.keys())
def test_paths_outside_the_folder_are_refused_by_name(empty: Path, tars: tuple[Tar, ...], message: str) -> None:
    made = stacked(empty, *(tar_of(tar) for tar in tars))
    with pytest.raises(DownloadError) as refused:
        made.run(lambda: PLENTY, lambda _: None)
    assert message in str(refused.value)
    assert "do not use this image" in str(refused.value)
    assert [path.name for path in empty.iterdir()] == ["hub"]


NAMES = st.sampled_from(["a", "b", "d", ".", "..", "...", ".wh", ".wh.", ".wh.a", ".wh.d", ".wh..", ".wh...", OPAQUE])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
LAYERS_OF_FILES = st.lists(st.lists(PATHS, max_size=5, unique=True), min_size=1, max_size=3)


def reference(layers: list[list[str]]) -> set[str] | None:
    """Paths of the files afterwards, by sets of names alone; None if a layer must be refused."""
    there: set[str] = set()
    for layer in layers:
        ours: set[str] = set()
        for name in layer:
            parts = [part for part in name.split("/") if part != "."]
            if not parts:
                continue
            *folder, last = parts
            if ".." in parts or last in (".wh.", ".wh..", ".wh..."):
                return None
            if any("/".join(folder[: depth + 1]) in there | ours for depth in range(len(folder))):
                return None  # leads through a file
            path = "/".join(parts)
            if last.startswith(".wh."):
                removed = "/".join(folder) if last == OPAQUE else "/".join([*folder, last.removeprefix(".wh.")])
                there = {p for p in there if not f"{p}/".startswith(f"{removed}/" if removed else "") or p in ours}
                continue
            below = {p for p in there | ours if p.startswith(f"{path}/")}
            there, ours = there - below, ours - below
            ours.add(path)
            there.add(path)
    return there


@given(LAYERS_OF_FILES)
def test_whatever_names_a_layer_has_nothing_outside_the_folder_changes(layers: list[list[str]]) -> None:
    """Against a reference that knows names alone."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "cache"
        other = ModelSnapshot(root, "registry/model", "sha256:1").folder
        other.mkdir(parents=True)
        (other / "weights").write_text("149 GiB")
        tars: list[Tar] = [dict.fromkeys(layer, b"1") for layer in layers]
        expected = reference(layers)
        try:
            found = set(unpacked(root, *tars))
        except DownloadError:
            assert expected is None
        else:
            assert found == expected
        assert (other / "weights").read_text() == "149 GiB"


def test_the_layers_folder_cannot_be_removed_by_a_whiteout(empty: Path) -> None:
    assert unpacked(empty, {"a": b"1"}, {f".wh.{LAYERS}": b"", ".wh..wh..opq": b"", "b": b"2"}) == {"b": "2"}


def test_a_layer_of_several_gzip_members_is_read_to_its_end(empty: Path) -> None:
    """Parallel compressors write several members."""
    tar = tar_of({"a": b"1" * 5000, "b": b"2" * 5000})
    content = b"".join(gzip.compress(tar[start : start + 3000]) for start in range(0, len(tar), 3000))
    made = stacked(empty, content, compression="gzip")
    made.run(lambda: PLENTY, lambda _: None)
    assert [(file.name, file.size) for file in made.contents()] == [("a", 5000), ("b", 5000)]


def test_an_attempt_that_was_killed_continues_with_its_layer(empty: Path) -> None:
    """The layers before it are unpacked and their tars removed; its own files are written again."""
    tars = [tar_of({f"file-{number}": b"x"}) for number in range(3)]
    made = stacked(empty, *tars)

    def kill(layer: str) -> None:
        if layer == "layer 2 of 3":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        made.run(lambda: PLENTY, kill)
    model = ModelSnapshot(empty, "registry/model", "sha256:0")
    assert [layer.file.sha256 for layer in made.pending] == [f"{1:064}", f"{2:064}"]
    assert not (model.folder / LAYERS / f"{0:064}").exists(), "the next layer needs its space"

    again = LayerUnpacker(model, layers_of(*tars))
    again.prepare()
    again.run(lambda: PLENTY, lambda _: None)
    assert [file.name for file in again.contents()] == ["file-0", "file-1", "file-2"]


def test_a_layer_that_was_written_partly_is_written_again(empty: Path) -> None:
    """The existing files are read-only."""
    tar = tar_of({"a": b"1", "l": link("l", "a"), "h": link("h", "a", tarfile.LNKTYPE), "d/b": b"2"})
    made = stacked(empty, tar)
    model = ModelSnapshot(empty, "registry/model", "sha256:0")
    made.run(lambda: PLENTY, lambda _: None)
    (model.folder / LAYERS / "unpacked.json").unlink()
    (model.folder / LAYERS / f"{0:064}").write_bytes(tar)

    made.run(lambda: PLENTY, lambda _: None)
    assert [file.name for file in made.contents()] == ["a", "d/b", "h", "l"]


def test_layers_that_an_earlier_release_unpacked_are_not_unpacked_again(empty: Path) -> None:
    """Spells out the names on disk, which must never change."""
    folder = empty / "hub" / "registry--model" / "sha256:0"
    (folder / ".flash-layers").mkdir(parents=True)
    (folder / ".flash-layers" / "unpacked.json").write_text(f'{{"version": 1, "layers": ["{0:064}"]}}')
    (folder / "file").write_text("of the first layer")

    unpacker = LayerUnpacker(ModelSnapshot(empty, "registry/model", "sha256:0"), layers_of(b"first", b"second"))
    unpacker.prepare()

    assert [layer.file.sha256 for layer in unpacker.pending] == [f"{1:064}"]
    assert (folder / "file").exists()


def test_files_of_unknown_origin_are_removed(empty: Path) -> None:
    model = ModelSnapshot(empty, "registry/model", "sha256:0")
    model.folder.mkdir(parents=True)
    (model.folder / "unknown origin").write_text("")
    LayerUnpacker(model, (ImageLayer(RemoteFile(f"{LAYERS}/0", 1, "0"), "none"),)).prepare()
    assert [path.name for path in model.folder.iterdir()] == [LAYERS]


def test_a_compressed_layer_that_does_not_fit_is_stopped_before_it_fills_the_volume(empty: Path) -> None:
    made = stacked(empty, gzip.compress(tar_of({"small": b"1", "zeroes": bytes(1 << 20)})), compression="gzip")
    with pytest.raises(
        DownloadError, match=r"does not fit when unpacked: there is not enough space for zeroes with 1\.0 MiB"
    ):
        made.run(lambda: 1 << 19, lambda _: None)
    assert [file.name for file in made.contents()] == ["small"]


NO_TARS: dict[str, tuple[bytes, Literal["none", "gzip"]]] = {
    "not a tar": (b"no tar at all" * 100, "none"),
    "truncated tar": (tar_of({"a": bytes(4096)})[:2048], "none"),
    "not gzip": (tar_of({"a": b"1"}), "gzip"),
    "truncated gzip": (gzip.compress(tar_of({"a": bytes(range(256)) * 64}))[:-20], "gzip"),
}


@pytest.mark.parametrize(("content", "compression"), NO_TARS.values(), ids=NO_TARS.keys())
def test_an_invalid_tar_is_refused(empty: Path, content: bytes, compression: Literal["none", "gzip"]) -> None:
    made = stacked(empty, content, compression=compression)
    with pytest.raises(DownloadError, match="does not match its media type"):
        made.run(lambda: PLENTY, lambda _: None)


@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_zstd_under_another_media_type_is_named(empty: Path, compression: Literal["none", "gzip"]) -> None:
    made = stacked(empty, b"\x28\xb5\x2f\xfd" + bytes(2000), compression=compression)
    with pytest.raises(DownloadError, match=r"compressed with zstd.*--compression-format gzip"):
        made.run(lambda: PLENTY, lambda _: None)
