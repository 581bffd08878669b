"""The builder without a build: archives, mounts, order and messages."""

import fcntl
import hashlib
import json
import os
import sys
import tarfile
import threading
import time
from pathlib import Path

import pytest

from image_builder.__main__ import main
from image_builder.archive import write_oci_archive
from image_builder.build import (
    beside_each_other,
    ensure_image,
    locked,
    refuse_without_room,
    remove_old_archives,
    waves,
)
from image_builder.buildah import Buildah, BuildError, mounts_below
from image_builder.debian import SetupError, install_command, missing_packages, run
from image_builder.layout import IMAGES, archive_of, image_named, steps_of
from shared_stream import SharedStream
from waiting import eventually


def finished_archive(name: str, cache: Path) -> Path:
    archive = archive_of(name, steps_of(image_named(name))[-1].key, cache)
    archive.parent.mkdir(parents=True)
    archive.write_bytes(b"an archive")
    return archive


def test_an_image_that_is_there_is_returned_without_starting_buildah(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = finished_archive("engine-cpu", tmp_path)
    monkeypatch.setenv("PATH", "")
    assert ensure_image(image_named("engine-cpu"), tmp_path) == archive


def test_the_command_prints_nothing_but_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = finished_archive("operator", tmp_path)
    monkeypatch.setenv("FLASH_CACHE", str(tmp_path))
    main(["operator", "--print-path"])
    assert capsys.readouterr().out == f"{archive}\n"


def test_an_archive_names_its_image_and_holds_every_blob_once_and_uncompressed(tmp_path: Path) -> None:
    layer, config = b"a layer " * 1000, b"{}"
    blobs = {hashlib.sha256(content).hexdigest(): content for content in (layer, config)}
    for digest, content in blobs.items():
        (tmp_path / digest).write_bytes(content)
    layer_digest, config_digest = (f"sha256:{digest}" for digest in blobs)
    layers = [{"digest": layer_digest}, {"digest": layer_digest}]
    manifest = json.dumps({"config": {"digest": config_digest}, "layers": layers}).encode()
    (tmp_path / "manifest.json").write_bytes(manifest)

    write_oci_archive(tmp_path, "localhost/flash/engine:cpu", tmp_path / "image.tar")

    with tarfile.open(tmp_path / "image.tar") as tar:
        contents = {entry.name: read(tar, entry) for entry in tar.getmembers()}
    (described,) = json.loads(contents.pop("index.json"))["manifests"]
    assert described["annotations"]["org.opencontainers.image.ref.name"] == "localhost/flash/engine:cpu"
    assert described["size"] == len(manifest)
    assert json.loads(contents.pop("oci-layout")) == {"imageLayoutVersion": "1.0.0"}
    assert contents.pop("blobs/sha256/" + described["digest"].removeprefix("sha256:")) == manifest
    assert contents == {f"blobs/sha256/{digest}": content for digest, content in blobs.items()}


def read(tar: tarfile.TarFile, entry: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(entry)
    assert file is not None
    return file.read()


def test_two_archives_of_an_image_are_kept_and_other_images_are_left_alone(tmp_path: Path) -> None:
    mine = [tmp_path / f"engine-{digit * 16}.tar" for digit in "abc"]
    for age, archive in enumerate([*mine, tmp_path / f"engine-cpu-{'d' * 16}.tar"]):
        archive.touch()
        os.utime(archive, (age, age))
    remove_old_archives("engine", mine[-1])
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"engine-{'b' * 16}.tar",
        f"engine-{'c' * 16}.tar",
        f"engine-cpu-{'d' * 16}.tar",
    ]


def test_mounts_are_found_below_a_folder_deepest_first() -> None:
    assert mounts_below(Path("/proc"))[-1] == "/proc"
    assert mounts_below(Path("/nowhere")) == []


def test_a_missing_program_is_named_by_its_package_in_one_command() -> None:
    assert missing_packages({"sh": "dash", "no-such-program": "a-package"}) == ["a-package"]
    assert install_command(["a", "b"]) == "sudo apt-get install --yes --no-install-recommends a b"


def test_a_stage_that_images_share_is_built_once_and_the_rest_beside_each_other() -> None:
    order = [[step.stage for step in wave] for wave in waves(steps_of(image) for image in IMAGES)]
    assert order == [
        ["tools"],
        ["sbom-tools"],
        ["cpu-deps", "operator-deps", "node-deps"],
        ["cpu", "operator", "node", "quantiser-cpu"],
    ]


@pytest.fixture
def endless_buildah(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Buildah:
    """Creates the file named by its last argument, and runs until it is terminated."""
    program = tmp_path / "buildah"
    program.write_text('#!/bin/sh\nfor last; do :; done\ntouch "$last"\nexec sleep 1000\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return Buildah(tmp_path, "overlay")


def test_a_step_that_fails_ends_those_beside_it(endless_buildah: Buildah, tmp_path: Path) -> None:
    ended: list[BuildError] = []

    def works() -> None:
        try:
            endless_buildah.run("build", str(tmp_path / "works"))
        except BuildError as error:
            ended.append(error)
            raise

    def fails() -> None:
        while not (tmp_path / "works").exists():
            time.sleep(0.01)
        raise BuildError("no network")

    with pytest.raises(BuildError, match="no network"):
        beside_each_other(endless_buildah, [works, fails, works, works])
    assert ended
    assert not endless_buildah.running


def test_a_second_builder_says_that_it_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = SharedStream()
    monkeypatch.setattr(sys, "stderr", said)

    def enter() -> None:
        with locked(tmp_path):
            pass

    second = threading.Thread(target=enter)
    with (tmp_path / ".images.lock").open("w") as first:
        fcntl.flock(first, fcntl.LOCK_EX)
        second.start()
        eventually(lambda: said.text.endswith("\n"), "it says that it waits")
        assert second.is_alive()
    second.join(timeout=30)
    assert not second.is_alive()
    assert said.text == f"  waiting for another run that builds images (it holds {tmp_path}/.images.lock)\n"


def test_a_program_that_fails_is_quoted_in_one_sentence() -> None:
    words = "echo Reading package lists; echo 'E: Temporary failure resolving mirror'; exit 100"
    with pytest.raises(SetupError) as refused:
        run(["sh", "-c", words], "buildah could not be installed")
    assert str(refused.value) == (
        "buildah could not be installed: nothing could be downloaded (E: Temporary failure resolving mirror)"
    )


def test_a_disk_without_room_is_named_before_anything_is_made() -> None:
    refuse_without_room(2.5e9, Path("/cache"))
    with pytest.raises(SetupError, match=r"images need 2 GB at least .* /cache has 0\.1 left; FLASH_CACHE moves"):
        refuse_without_room(5e7, Path("/cache"))
