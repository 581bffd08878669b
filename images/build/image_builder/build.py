"""Make what is missing: base, then the kept stages of each image, then its archive."""

import fcntl
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from image_builder import debian
from image_builder.archive import write_oci_archive
from image_builder.buildah import Base, Buildah
from image_builder.layout import ROOT, Image, Step, archive_of, base_reference, files_below, steps_of
from image_builder.progress import step

ARCHIVES_KEPT: Final = 2
"""Per image: of this content and of the one before, so that going back and forth between two branches costs nothing."""


def ensure_image(image: Image, cache: Path, root: Path = ROOT) -> Path:
    """The image's archive; at once when there is one of the same content, without buildah or root."""
    steps = steps_of(image, root)
    archive = archive_of(image.name, steps[-1].key, cache)
    if not archive.exists():
        with locked(cache), ready(cache) as buildah:
            ensure_base_image(buildah, root)
            for one in steps:
                ensure_step(buildah, one, root)
            write_archive(buildah, steps[-1].reference, image.tag, archive)
            remove_old_archives(image.name, archive)
    return archive


def ensure_base(cache: Path, root: Path = ROOT) -> Path:
    reference = base_reference(root)
    archive = archive_of("base", reference.rpartition(":")[2], cache)
    if not archive.exists():
        with locked(cache), ready(cache) as buildah:
            ensure_base_image(buildah, root)
            write_archive(buildah, reference, reference, archive)
            remove_old_archives("base", archive)
    return archive


@contextmanager
def ready(cache: Path) -> Iterator[Buildah]:
    debian.ensure_tools()
    (cache / "images").mkdir(parents=True, exist_ok=True)
    with Buildah.below(cache).session() as buildah:
        yield buildah


@contextmanager
def locked(cache: Path) -> Iterator[None]:
    """Two builds at once would share buildah's storage, and the second would do the first one's work again."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / ".images.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def ensure_base_image(buildah: Buildah, root: Path) -> None:
    reference = base_reference(root)
    if buildah.has(reference):
        return
    with step("base: debootstrap and commit"), scratch(buildah) as context:
        debian.make_root_file_system(root / "images/base/rootfs.sh", context / "rootfs.tar")
        buildah.build(context, root / "images/base/Dockerfile", reference)
    buildah.remove_others(reference)


def ensure_step(buildah: Buildah, one: Step, root: Path) -> None:
    if buildah.has(one.reference):
        return
    with step(f"{one.stage}: build"), scratch(buildah) as context:
        for file in files_below(root, one.context_paths):
            copy = context / file.relative_to(root)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, copy)
        dockerfile = context / "Dockerfile.cut"
        dockerfile.write_text(one.text)
        buildah.build(context, dockerfile, one.reference, base_of(buildah, root))
    buildah.remove_others(one.reference)


def base_of(buildah: Buildah, root: Path) -> Base:
    """No part of a key: the base's own key is in every text that is built on it, and its digest differs wherever it was
    made."""
    reference = base_reference(root)
    return Base(reference, buildah.digest(reference))


def write_archive(buildah: Buildah, reference: str, tag: str, archive: Path) -> None:
    with step(f"{archive.name}: write"), scratch(buildah) as directory:
        buildah.export(reference, directory)
        write_oci_archive(directory, tag, archive)


@contextmanager
def scratch(buildah: Buildah) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=buildah.folder / "tmp") as name:
        yield Path(name)


def remove_old_archives(name: str, newest: Path) -> None:
    """By time of writing. The pattern has the key's sixteen digits: `engine` must not match `engine-cpu`."""
    archives = newest.parent.glob(f"{name}-{'[0-9a-f]' * 16}.tar")
    for old in sorted(archives, key=lambda path: path.stat().st_mtime, reverse=True)[ARCHIVES_KEPT:]:
        old.unlink()
