"""Builds missing images: the base, then the kept stages of each image, then its archive."""

import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from functools import partial
from itertools import chain, zip_longest
from pathlib import Path
from typing import Final

from file_lock import held
from image_builder import debian
from image_builder.archive import write_oci_archive
from image_builder.buildah import Base, Buildah
from image_builder.layout import ROOT, Image, Step, archive_of, base_reference, files_below, steps_of
from image_builder.progress import print_line, step

AT_ONCE: Final = 2
"""Concurrent steps. They mostly wait for the network and the disk; more would not help their computation."""

LEAST_ROOM: Final = 2e9
"""Disk space that the base and one small image need while they are built."""

ARCHIVES_KEPT: Final = 2
"""Archives kept per image: the current and the previous one, so that switching between two branches is free."""


def ensure_image(image: Image, cache: Path, root: Path = ROOT) -> Path:
    return ensure_images([image], cache, root)[0]


def ensure_images(images: Sequence[Image], cache: Path, root: Path = ROOT) -> list[Path]:
    """Returns each image's archive; without buildah or root if it is in the cache."""
    archives = [archive_of(image.name, steps_of(image, root)[-1].key, cache) for image in images]
    if not all(archive.exists() for archive in archives):
        with locked(cache), ready(cache) as buildah:
            ensure_base_image(buildah, root)
            missing = [
                (image, archive) for image, archive in zip(images, archives, strict=True) if not archive.exists()
            ]
            make(buildah, missing, root)
    return archives


def make(buildah: Buildah, missing: Sequence[tuple[Image, Path]], root: Path) -> None:
    """Builds in waves: the first stage of every image, then the second of every image, and so on.

    So a stage that several share is built once, and those that none waits for are built beside each other: one unpacks
    while the other waits for the network.
    """
    # Looked at once: sources that are edited meanwhile have other keys, under which nothing was built.
    chains = [steps_of(image, root) for image, _ in missing]
    for wave in waves(chains):
        beside_each_other(buildah, [partial(ensure_step, buildah, one, root) for one in wave])
    for one in chain.from_iterable(chains):
        buildah.remove_others(one.reference)
    writing = [
        partial(write_archive, buildah, steps[-1].reference, image.tag, archive)
        for steps, (image, archive) in zip(chains, missing, strict=True)
    ]
    beside_each_other(buildah, writing)
    for image, archive in missing:
        remove_old_archives(image.name, archive)


def waves(chains: Iterable[Sequence[Step]]) -> list[list[Step]]:
    """The steps of each wave, without duplicates."""
    return [list(dict.fromkeys(step for step in wave if step)) for wave in zip_longest(*chains)]


def beside_each_other(buildah: Buildah, tasks: Sequence[Callable[[], None]]) -> None:
    """Runs some steps concurrently. If one fails, or on a signal, the others are ended."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        running = [pool.submit(task) for task in tasks]
        try:
            for one in as_completed(running):
                one.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            while not all(one.done() for one in running):
                buildah.stop()
                time.sleep(0.1)
            raise


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
    refuse_without_room(shutil.disk_usage(cache).free, cache)
    with Buildah.below(cache).session() as buildah:
        yield buildah


def refuse_without_room(free: float, cache: Path) -> None:
    """debootstrap reports a full disk as a failed download, and cleans up before anybody can look."""
    if free < LEAST_ROOM:
        raise debian.SetupError(
            f"images need {LEAST_ROOM / 1e9:.0f} GB at least (all of them: 12), and {cache} has {free / 1e9:.1f} left; "
            "FLASH_CACHE moves the cache to another disk"
        )


@contextmanager
def locked(cache: Path) -> Iterator[None]:
    """Two builds would share buildah's storage, and the second would repeat the first one's work."""
    lock = cache / ".images.lock"
    with held(lock, lambda: print_line(f"waiting for another run that builds images (it holds {lock})")):
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


def base_of(buildah: Buildah, root: Path) -> Base:
    """Not part of a key: the base's own key is in every text built on it, and its digest differs wherever it was
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
    """By mtime. The pattern has the key's sixteen digits, so that `engine` does not match `engine-cpu`."""
    archives = newest.parent.glob(f"{name}-{'[0-9a-f]' * 16}.tar")
    for old in sorted(archives, key=lambda path: path.stat().st_mtime, reverse=True)[ARCHIVES_KEPT:]:
        old.unlink()
