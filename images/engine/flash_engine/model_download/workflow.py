"""From a repository's name to a folder that an engine can load, in this order:

    a pinned commit or digest that is whole in the cache     nobody is asked
    ask hub or registry for the commit or digest, and its files
    hold it for use, if it is whole by now
    else wait for whoever fetches it already, and look again
    else make room, fetch, compare, unpack an image's layers, write the manifest

The engine is told of the folder by a link in the run folder, for what a branch or tag stands for is known only here.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flash_contracts.download_record import DownloadRecord, size_told
from flash_engine.log import Logger
from flash_engine.model_cache import FETCH, PROGRESS, StoredModel, locked
from flash_engine.model_download.disk_space import make_room, room_left
from flash_engine.model_download.docker_config import credentials_in
from flash_engine.model_download.failure import DownloadError
from flash_engine.model_download.hub import HubSource
from flash_engine.model_download.image_reference import ImageReference
from flash_engine.model_download.registry import RegistrySource
from flash_engine.model_download.reporter import Reporter
from flash_engine.model_download.settings import Settings
from flash_engine.model_download.source import Listing, RemoteFile, Source
from flash_engine.model_download.transfer import Transfer
from flash_engine.model_download.unpacking import Unpacking

log = Logger("flash.fetch")

LINK = "model"
TURN_SECONDS = 1.0
ASK_SECONDS = 30.0
ENGINE_USER = 65532


def deliver(settings: Settings, reporter: Reporter) -> None:
    """Raises DownloadError, and OSError for a volume that fails."""
    prepare(settings)
    if settings.pinned:
        model = StoredModel(settings.cache, settings.repository, settings.pinned)
        if _take(model, settings, reporter, found=f"in the cache already; {settings.server} was not asked"):
            return
    source = source_of(settings)
    listing = _ask(source, settings, reporter)
    model = StoredModel(settings.cache, settings.repository, listing.revision)
    reporter.publish(
        commit=listing.revision, total_bytes=listing.total, needed_bytes=listing.peak, warning=source.warning(listing)
    )
    if _take(model, settings, reporter, found="in the cache already"):
        return
    with _turn(model, reporter):
        if _take(model, settings, reporter, found="fetched by another replica meanwhile"):
            return
        _fetch(model, listing, source, settings, reporter)


def source_of(settings: Settings) -> Source:
    """Raises DownloadError for a Secret that is meant to be there and is not."""
    if settings.image is None:
        return HubSource(settings.repository, settings.revision, _token(settings))
    folder, required = settings.registry_secrets, settings.registry_secret
    credentials = credentials_in(folder, required, settings.image) if folder else None
    return RegistrySource(settings.image, credentials, plain=_is_plain(settings.image, settings))


def _is_plain(image: ImageReference, settings: Settings) -> bool:
    """As container runtimes have it: TLS, but on this very machine, and where somebody said otherwise."""
    return image.is_local or image.registry in settings.plain_http


def _ask(source: Source, settings: Settings, reporter: Reporter) -> Listing:
    """A pod's network may come a moment after its first container, so one failure is none. Raises DownloadError."""
    deadline, pause = time.monotonic() + min(ASK_SECONDS, settings.stall_seconds), 1.0
    while True:
        try:
            return source.list()
        except DownloadError as error:
            if not error.passes or time.monotonic() + pause > deadline:
                raise
            reporter.publish("Resolving", message=f"{error.message}; asking again in {pause:g} s")
            log.warning("not reached", error=error.message, again_in_seconds=pause)
        time.sleep(pause)
        pause *= 2


def prepare(settings: Settings) -> None:
    """Raises DownloadError for a cache that cannot be written, which is how a folder of the node's usually is."""
    try:
        (settings.cache / "hub").mkdir(parents=True, exist_ok=True)
        with locked(settings.cache / "space.lock", fcntl.LOCK_SH):
            pass
    except OSError as error:
        told = f"{settings.place} cannot be written by user {os.getuid()}: {error.strerror}"
        raise DownloadError(told, _remedy(settings)) from error


def _remedy(settings: Settings) -> str:
    if settings.cache_kind == "Node":
        return f"make it on the node, as root: install -d -o {ENGINE_USER} -g {ENGINE_USER} {settings.cache_name}"
    return f"its root must be writable for group {ENGINE_USER}, which the pod's fsGroup asks the volume's driver for"


def _token(settings: Settings) -> str | None:
    """Raises DownloadError where one is meant to be there and is not."""
    if settings.token_file is None:
        return None
    try:
        token = settings.token_file.read_text().strip()
    except OSError:
        token = ""
    if not token:
        remedy = f"kubectl create secret generic {settings.secret} --from-literal=token=... in the pod's namespace"
        raise DownloadError(f"the Secret {settings.secret} has no key token, or is not there", remedy)
    return token


def _take(model: StoredModel, settings: Settings, reporter: Reporter, *, found: str) -> bool:
    """Where it is whole: say that it is used from now on, and lead the engine to it."""
    with model.used() as whole:
        if whole:
            _link(model, settings)
            size = model.stored_bytes
            told = f"{size_told(size)} at {model.told}, {found}"
            reporter.publish(
                "Complete", commit=model.commit, bytes=size, total_bytes=size, message=told, failure=None,
                bytes_per_second=None,
            )  # fmt: skip
            log.info("model complete", folder=str(model.folder), commit=model.commit, found=found)
    return whole


def _link(model: StoredModel, settings: Settings) -> None:
    link = settings.run_dir / LINK
    unfinished = settings.run_dir / f".{LINK}"
    unfinished.unlink(missing_ok=True)
    unfinished.symlink_to(model.folder)
    unfinished.replace(link)


@contextmanager
def _turn(model: StoredModel, reporter: Reporter) -> Iterator[None]:
    """The right to fetch it. While another one has it, what that one says of itself is shown."""
    while True:
        with locked(model.beside(FETCH), fcntl.LOCK_EX | fcntl.LOCK_NB) as lock:
            if lock is not None:
                yield
                return
        _show_other(model, reporter)
        time.sleep(TURN_SECONDS)


def _show_other(model: StoredModel, reporter: Reporter) -> None:
    other = DownloadRecord.read(model.beside(PROGRESS))
    told = other.told if other else "nothing is known of it yet"
    changes = {"bytes": other.bytes, "bytes_per_second": other.bytes_per_second} if other else {}
    reporter.publish("Waiting", message=f"waiting for another replica that fetches it: {told}", **changes)


def _fetch(model: StoredModel, listing: Listing, source: Source, settings: Settings, reporter: Reporter) -> None:
    model.folder.mkdir(parents=True, exist_ok=True)
    unpacking = Unpacking(model, listing.layers)
    unpacking.begin()
    reporter.share(model)
    reporter.publish("Resolving", message="looking for room in the cache")
    for removed in make_room(model, listing, settings):
        log.info("removed from the cache", repository=removed.repository, commit=removed.commit)
    wanted = (*listing.files, *(layer.file for layer in unpacking.pending))
    log.info("fetching", commit=listing.revision, files=len(wanted), bytes=listing.total, stored=model.stored_bytes)
    transfer = Transfer(model, listing, wanted, source, streams=settings.streams, stall_seconds=settings.stall_seconds)
    with reporter.counting(lambda: _arrived(model, listing, unpacking)):
        transfer.run()
        unpacking.run(lambda: room_left(model, settings), lambda layer: reporter.publish("Unpacking", message=layer))
    files = unpacking.contents() if listing.layers else listing.files
    model.write_manifest([_entry(file) for file in files])
    unpacking.end()
    _take(model, settings, reporter, found=f"fetched into {settings.place}")


def _arrived(model: StoredModel, listing: Listing, unpacking: Unpacking) -> int:
    """Bytes that came over the network, those of layers that are unpacked and gone included."""
    pending = unpacking.pending
    unpacked = sum(layer.file.size for layer in listing.layers if layer not in pending)
    coming = (*listing.files, *(layer.file for layer in pending))
    return unpacked + sum(model.stored_of(file.name) for file in coming)


def _entry(file: RemoteFile) -> dict[str, object]:
    return {"name": file.name, "size": file.size, "sha256": file.sha256, "gitSha1": file.git_sha1}


def run_folder_link(run_dir: Path) -> Path:
    """Where the engine finds the model."""
    return run_dir / LINK
