"""Layers, one over the other: what a container would see, and nothing that leads out of the model's folder."""

import gzip
import tarfile
from pathlib import Path
from typing import Literal

import pytest

from flash_engine.model_cache import StoredModel
from flash_engine.model_download.failure import DownloadError
from flash_engine.model_download.image_content import LAYERS
from flash_engine.model_download.source import Layer, RemoteFile
from flash_engine.model_download.unpacking import Unpacking
from image_registry import link, tar_of

PLENTY = 1 << 40
Tar = dict[str, bytes | tarfile.TarInfo]


def layers_of(*contents: bytes, compression: Literal["none", "gzip"] = "none") -> tuple[Layer, ...]:
    names = [f"{number:064}" for number in range(len(contents))]
    return tuple(
        Layer(RemoteFile(f"{LAYERS}/{name}", len(content), name), compression)
        for name, content in zip(names, contents, strict=True)
    )


def stacked(root: Path, *contents: bytes, compression: Literal["none", "gzip"] = "none") -> Unpacking:
    """The layers as they lie there once they are fetched."""
    model = StoredModel(root, "registry/model", "sha256:0")
    layers = layers_of(*contents, compression=compression)
    model.folder.mkdir(parents=True)
    made = Unpacking(model, layers)
    made.begin()
    for layer, content in zip(layers, contents, strict=True):
        (model.folder / layer.file.name).write_bytes(content)
    return made


def unpacked(root: Path, *tars: Tar) -> dict[str, str]:
    """Everything that is there afterwards: text of files, targets of links."""
    made = stacked(root, *(tar_of(tar) for tar in tars))
    made.run(lambda: PLENTY, lambda _: None)
    made.end()
    folder = StoredModel(root, "registry/model", "sha256:0").folder
    return {
        str(path.relative_to(folder)): str(path.readlink()) if path.is_symlink() else path.read_text()
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


STACKS: dict[str, tuple[tuple[Tar, ...], dict[str, str]]] = {
    "files of all layers": (({"a": b"1"}, {"d/b": b"2"}), {"a": "1", "d/b": "2"}),
    "names from the root, or with a dot before": (({"./a": b"1", "/d/b": b"2"},), {"a": "1", "d/b": "2"}),
    "a later layer's file in place of an earlier one": (({"a": b"1"}, {"a": b"2"}), {"a": "2"}),
    "a file in place of a folder": (({"a/b": b"1"}, {"a": b"2"}), {"a": "2"}),
    "a folder in place of a file": (
        ({"a": b"1"}, {"a": link("a", "", tarfile.DIRTYPE), "a/b": b"2"}), {"a/b": "2"}),
    "a file that a later layer takes away": (({"a": b"1", "b": b"1"}, {".wh.a": b""}), {"b": "1"}),
    "a folder that a later layer takes away": (({"d/a": b"1", "b": b"1"}, {".wh.d": b""}), {"b": "1"}),
    "a folder that a later layer empties and fills": (
        ({"d/a": b"1", "d/e/f": b"1"}, {"d/b": b"2", "d/e/g": b"2", "d/.wh..wh..opq": b""}),
        {"d/b": "2", "d/e/g": "2"}),
    "what takes away in the same layer takes nothing of it": (({"a": b"1", ".wh.a": b""},), {"a": "1"}),
    "notes of another file system": (({"a": b"1", ".wh..wh.plnk": b""},), {"a": "1"}),
    "links within": (
        ({"d/a": b"1", "l": link("l", "d/a"), "d/u": link("d/u", "../l")},), {"d/a": "1", "l": "d/a", "d/u": "../l"}),
    "one file by two names": (({"a": b"1"}, {"b": link("b", "a", tarfile.LNKTYPE)}), {"a": "1", "b": "1"}),
    "a file in place of a link, and not where that leads": (
        ({"a": b"1", "l": link("l", "a")}, {"l": b"2"}), {"a": "1", "l": "2"}),
    "nothing in place of what such a link replaces": (
        ({"a": b"1", "l": b"1"}, {"l": link("l", "/etc/passwd")}), {"a": "1"}),
    "no device and no pipe, which base systems have": (
        ({"a": b"1", "dev/d": link("dev/d", "", tarfile.CHRTYPE), "p": link("p", "", tarfile.FIFOTYPE)},), {"a": "1"}),
    "no link to a place of the image's root, as there would be none in a mounted image": (
        ({"a": b"1", "l": link("l", "/etc/passwd")},), {"a": "1"}),
}  # fmt: skip


@pytest.mark.parametrize(("tars", "expected"), STACKS.values(), ids=STACKS.keys())
def test_it_is_as_a_container_would_see_it(empty: Path, tars: tuple[Tar, ...], expected: dict[str, str]) -> None:
    assert unpacked(empty, *tars) == expected


UNSAFE: dict[str, tuple[tuple[Tar, ...], str]] = {
    "a name that climbs": (({"../../outside": b"x"},), "leads out of the model's folder"),
    "a name that climbs from within": (({"a/../../../outside": b"x"},), "leads out of the model's folder"),
    "a name that climbs to the root": (({"/../outside": b"x"},), "leads out of the model's folder"),
    "a link that climbs": (({"l": link("l", "../../outside")},), "out of the model's folder"),
    "a link that climbs by another": (
        ({"d/x": link("d/x", ".."), "y": link("y", "d/x/../outside")},), "out of the model's folder"),
    "a link that climbs by another, which comes after it": (
        ({"y": link("y", "d/x/../outside"), "d/x": link("d/x", "..")},), "out of the model's folder"),
    "a link that climbs by another, from a depth that would allow it": (
        ({"d/e/x": link("d/e/x", "../.."), "d/e/y": link("d/e/y", "x/../outside")},), "out of the model's folder"),
    "a link that climbs further than its depth": (({"d/l": link("d/l", "../..")},), "out of the model's folder"),
    "a file through a link": (({"l": link("l", "d"), "d/a": b"1", "l/b": b"x"},), "leads through l"),
    "a file through a link of an earlier layer": (
        ({"d/a": b"1", "l": link("l", "d")}, {"l/b": b"x"}), "leads through l"),
    "what is taken away through a link": (({"d/a": b"1", "l": link("l", "d")}, {"l/.wh.a": b""}), "leads through l"),
    "a second name of a file outside": (
        ({"h": link("h", "../../outside", tarfile.LNKTYPE)},), "which no layer brought"),
    "a second name of a link": (
        ({"a": b"1", "l": link("l", "a"), "h": link("h", "l", tarfile.LNKTYPE)},), "which no layer brought"),
    "a second name of nothing": (({"h": link("h", "none", tarfile.LNKTYPE)},), "which no layer brought"),
    "a file with holes, which may be far larger than the tar": (
        ({"s": link("s", "", tarfile.GNUTYPE_SPARSE)},), "is neither file, folder nor link"),
    "our own folder": (({f"{LAYERS}/unpacked.json": b"{}"},), "leads out of the model's folder"),
}  # fmt: skip


@pytest.mark.parametrize(("tars", "told"), UNSAFE.values(), ids=UNSAFE.keys())
def test_what_leads_out_is_refused_by_name(empty: Path, tars: tuple[Tar, ...], told: str) -> None:
    made = stacked(empty, *(tar_of(tar) for tar in tars))
    with pytest.raises(DownloadError) as refused:
        made.run(lambda: PLENTY, lambda _: None)
    assert told in str(refused.value)
    assert "do not use this image" in str(refused.value)
    assert [path.name for path in empty.iterdir()] == ["hub"]


def test_the_ledger_cannot_be_taken_away(empty: Path) -> None:
    assert unpacked(empty, {"a": b"1"}, {f".wh.{LAYERS}": b"", ".wh..wh..opq": b"", "b": b"2"}) == {"b": "2"}


def test_a_layer_of_several_gzip_members_is_read_to_its_end(empty: Path) -> None:
    """As parallel compressors write them."""
    tar = tar_of({"a": b"1" * 5000, "b": b"2" * 5000})
    content = b"".join(gzip.compress(tar[start : start + 3000]) for start in range(0, len(tar), 3000))
    made = stacked(empty, content, compression="gzip")
    made.run(lambda: PLENTY, lambda _: None)
    assert [(file.name, file.size) for file in made.contents()] == [("a", 5000), ("b", 5000)]


def test_an_attempt_that_is_killed_goes_on_with_its_layer(empty: Path) -> None:
    """The layers before it are unpacked and gone; its own files are written anew."""
    tars = [tar_of({f"file-{number}": b"x"}) for number in range(3)]
    made = stacked(empty, *tars)

    def killed(layer: str) -> None:
        if layer == "layer 2 of 3":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        made.run(lambda: PLENTY, killed)
    model = StoredModel(empty, "registry/model", "sha256:0")
    assert [layer.file.sha256 for layer in made.pending] == [f"{1:064}", f"{2:064}"]
    assert not (model.folder / LAYERS / f"{0:064}").exists(), "its room is needed for the next"

    again = Unpacking(model, layers_of(*tars))
    again.begin()
    again.run(lambda: PLENTY, lambda _: None)
    assert [file.name for file in again.contents()] == ["file-0", "file-1", "file-2"]


def test_a_layer_that_was_half_written_is_written_again_over_itself(empty: Path) -> None:
    """Files that are there already are read-only."""
    tar = tar_of({"a": b"1", "l": link("l", "a"), "h": link("h", "a", tarfile.LNKTYPE), "d/b": b"2"})
    made = stacked(empty, tar)
    model = StoredModel(empty, "registry/model", "sha256:0")
    made.run(lambda: PLENTY, lambda _: None)
    (model.folder / LAYERS / "unpacked.json").unlink()
    (model.folder / LAYERS / f"{0:064}").write_bytes(tar)

    made.run(lambda: PLENTY, lambda _: None)
    assert [file.name for file in made.contents()] == ["a", "d/b", "h", "l"]


def test_files_without_a_ledger_are_no_beginning(empty: Path) -> None:
    model = StoredModel(empty, "registry/model", "sha256:0")
    model.folder.mkdir(parents=True)
    (model.folder / "of another time").write_text("")
    Unpacking(model, (Layer(RemoteFile(f"{LAYERS}/0", 1, "0"), "none"),)).begin()
    assert [path.name for path in model.folder.iterdir()] == [LAYERS]


def test_a_compressed_layer_that_unpacks_to_more_than_fits_is_stopped_before_it_fills_the_volume(empty: Path) -> None:
    made = stacked(empty, gzip.compress(tar_of({"small": b"1", "zeroes": bytes(1 << 20)})), compression="gzip")
    with pytest.raises(DownloadError, match=r"unpacks to more than there is room for, at zeroes of 1\.0 MiB"):
        made.run(lambda: 1 << 19, lambda _: None)
    assert [file.name for file in made.contents()] == ["small"]


NO_TARS: dict[str, tuple[bytes, Literal["none", "gzip"]]] = {
    "a tar that is none": (b"no tar at all" * 100, "none"),
    "a tar that ends too soon": (tar_of({"a": bytes(4096)})[:2048], "none"),
    "gzip that is none": (tar_of({"a": b"1"}), "gzip"),
    "gzip that ends too soon": (gzip.compress(tar_of({"a": bytes(range(256)) * 64}))[:-20], "gzip"),
}


@pytest.mark.parametrize(("content", "compression"), NO_TARS.values(), ids=NO_TARS.keys())
def test_what_is_no_tar_is_told_of(empty: Path, content: bytes, compression: Literal["none", "gzip"]) -> None:
    made = stacked(empty, content, compression=compression)
    with pytest.raises(DownloadError, match="is not what its media type says"):
        made.run(lambda: PLENTY, lambda _: None)
