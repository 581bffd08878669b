"""Runs the steps of a download, from a repository's name to a folder that an engine can load.

    if the revision is pinned and complete in the cache, use it without asking the hub or registry
    list the files of the revision
    if it is complete in the cache, use it
    wait while another process downloads it, then look again
    free disk space, download and verify the files, unpack an image's layers, write the manifest

The engine finds the folder through a link in the run folder, because only this process knows which commit a branch or
tag stands for.
"""

import fcntl
import os
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager

from flash_contracts.download_record import DownloadRecord, format_size
from flash_engine.log import Logger
from flash_engine.model_cache import DOWNLOAD_LOCK, PROGRESS_SUFFIX, ModelSnapshot, file_lock
from flash_engine.model_download.disk_space import bytes_left, free_disk_space
from flash_engine.model_download.docker_config import load_credentials
from flash_engine.model_download.failure import DownloadError, ThrottledError
from flash_engine.model_download.hub import HubSource
from flash_engine.model_download.image_reference import ImageReference
from flash_engine.model_download.model_folder import model_folder
from flash_engine.model_download.registry import RegistrySource
from flash_engine.model_download.reporter import ProgressReporter
from flash_engine.model_download.settings import DownloadSettings
from flash_engine.model_download.source import DownloadSource, FileListing, RemoteFile
from flash_engine.model_download.transfer import Transfer
from flash_engine.model_download.unpacking import LayerUnpacker

log = Logger("flash.fetch")

LINK = "model"
LOCK_POLL_SECONDS = 1.0
LIST_RETRY_SECONDS = 30.0
LIST_SECONDS = 120.0
"""Time limit for one list of files. The hub's list of 100 files has 50 kB."""
ENGINE_USER = 65532
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


class DownloadWorkflow:
    """One attempt to download the model into the cache."""

    def __init__(self, settings: DownloadSettings, reporter: ProgressReporter) -> None:
        self._settings = settings
        self._reporter = reporter

    def run(self) -> None:
        """Return when the model is complete and linked. Raises DownloadError, and OSError if the volume fails."""
        settings = self._settings
        check_writable(settings)
        if settings.pinned:
            model = ModelSnapshot(settings.cache, settings.repository, settings.pinned)
            if self._use_if_complete(model, f"already in the cache; {settings.server} was not asked"):
                return
        check_proxies(os.environ)
        source = source_of(settings)
        self._wait_as_asked()
        try:
            self._download_from(source)
        except ThrottledError as error:
            raise error.with_remedy(throttling_remedy(settings, has_credentials=source.has_credentials)) from error

    def _wait_as_asked(self) -> None:
        """Wait if the server asked an earlier attempt to."""
        seconds = self._reporter.seconds_to_wait
        if seconds > 0:
            until = time.strftime("%H:%M:%S", time.gmtime(time.time() + seconds))
            message = f"{self._settings.server} asked to wait; trying again at {until} UTC"
            self._reporter.publish("Resolving", message=message)
            log.info("waiting as the server asked", seconds=round(seconds))
            time.sleep(seconds)
        self._reporter.publish("Resolving", message="listing the model's files", retry_at=None)

    def _download_from(self, source: DownloadSource) -> None:
        settings = self._settings
        listing = self._list(source)
        model = ModelSnapshot(settings.cache, settings.repository, listing.revision)
        self._reporter.publish(
            commit=listing.revision,
            total_bytes=listing.total_bytes,
            needed_bytes=listing.peak_bytes,
            warning=source.unpinned_warning(listing),
        )
        if self._use_if_complete(model, "already in the cache"):
            return
        with self._download_lock(model):
            if not self._use_if_complete(model, "downloaded by another replica meanwhile"):
                self._download(model, listing, source)

    def _list(self, source: DownloadSource) -> FileListing:
        """Retries for a while, because a pod's network may not work yet when its first container starts.

        Raises DownloadError.
        """
        deadline, pause = time.monotonic() + min(LIST_RETRY_SECONDS, self._settings.stall_seconds), 1.0
        while True:
            try:
                return list_in_time(source)
            except DownloadError as error:
                seconds = max(pause, error.wait_seconds or 0.0)
                if not error.retryable or time.monotonic() + seconds > deadline:
                    raise
                self._reporter.publish("Resolving", message=f"{error.message}; retrying in {seconds:.0f} s")
                log.warning("cannot list the files", error=error.message, again_in_seconds=seconds)
            time.sleep(seconds)
            pause *= 2

    def _use_if_complete(self, model: ModelSnapshot, origin: str) -> bool:
        """If the model is complete, mark it as used, link it for the engine and report it."""
        with model.in_use() as complete:
            if complete:
                self._link(model)
                size = model.stored_bytes
                message = f"{format_size(size)} at {model.revision_label}, {origin}"
                self._reporter.publish(
                    "Complete", commit=model.commit, bytes=size, total_bytes=size, message=message, failure=None,
                    bytes_per_second=None,
                )  # fmt: skip
                log.info("model complete", folder=str(model.folder), commit=model.commit, found=origin)
        return complete

    def _link(self, model: ModelSnapshot) -> None:
        link = self._settings.run_dir / LINK
        unfinished = self._settings.run_dir / f".{LINK}"
        unfinished.unlink(missing_ok=True)
        unfinished.symlink_to(model_folder(model.folder) if self._settings.image else model.folder)
        unfinished.replace(link)

    @contextmanager
    def _download_lock(self, model: ModelSnapshot) -> Iterator[None]:
        """Wait for the lock to download the model. Meanwhile, report the progress of the process that holds it."""
        while True:
            with file_lock(model.sidecar(DOWNLOAD_LOCK), fcntl.LOCK_EX | fcntl.LOCK_NB) as lock:
                if lock is not None:
                    yield
                    return
            self._report_waiting(model)
            time.sleep(LOCK_POLL_SECONDS)

    def _report_waiting(self, model: ModelSnapshot) -> None:
        other = DownloadRecord.read(model.sidecar(PROGRESS_SUFFIX))
        progress = other.summary if other else "it has not reported progress yet"
        changes = {"bytes": other.bytes, "bytes_per_second": other.bytes_per_second} if other else {}
        message = f"waiting for another replica that downloads this model: {progress}"
        self._reporter.publish("Waiting", message=message, **changes)

    def _download(self, model: ModelSnapshot, listing: FileListing, source: DownloadSource) -> None:
        settings, reporter = self._settings, self._reporter
        model.folder.mkdir(parents=True, exist_ok=True)
        unpacker = LayerUnpacker(model, listing.layers)
        unpacker.prepare()
        reporter.share_with_waiting(model)
        reporter.publish("Resolving", message="checking disk space in the cache")
        for removed in free_disk_space(model, listing, settings):
            log.info("removed from the cache", repository=removed.repository, commit=removed.commit)
        wanted = (*listing.files, *(layer.file for layer in unpacker.pending))
        stored, total = model.stored_bytes, listing.total_bytes
        log.info("downloading", commit=listing.revision, files=len(wanted), bytes=total, stored=stored)
        streams, stall_seconds = settings.streams, settings.stall_seconds
        transfer = Transfer(
            model, listing, wanted, source,
            streams=streams, stall_seconds=stall_seconds, least_bytes_per_second=settings.least_bytes_per_second,
        )  # fmt: skip
        with reporter.counting(lambda: _downloaded_bytes(model, listing, unpacker)):
            transfer.run()
            unpacker.run(
                lambda: bytes_left(model, settings), lambda layer: reporter.publish("Unpacking", message=layer)
            )
        files = unpacker.contents() if listing.layers else listing.files
        model.write_manifest([_manifest_entry(file) for file in files])
        unpacker.clean_up()
        self._use_if_complete(model, f"downloaded into {settings.place}")


def source_of(settings: DownloadSettings) -> DownloadSource:
    """The source that the settings name. Raises DownloadError if a required Secret does not exist."""
    if settings.image is None:
        return HubSource(settings.repository, settings.revision, _token(settings))
    folder, required = settings.registry_secrets, settings.registry_secret
    credentials = load_credentials(folder, required, settings.image) if folder else None
    return RegistrySource(settings.image, credentials, plain=_is_plain(settings.image, settings))


def list_in_time(source: DownloadSource, seconds: float = LIST_SECONDS) -> FileListing:
    """List the files within a time limit. HTTP clients limit only the silence, so a list could trickle in for ever.

    Raises DownloadError. On a timeout, the thread is left behind, and ends with the process.
    """
    listed: Future[FileListing] = Future()

    def run() -> None:
        try:
            listed.set_result(source.list())
        except BaseException as error:  # noqa: BLE001 - raised in the caller's thread
            listed.set_exception(error)

    threading.Thread(target=run, name="list", daemon=True).start()
    try:
        return listed.result(seconds)
    except TimeoutError as error:
        if listed.done():
            raise
        message = f"{source.server} did not send the list of files within {seconds:g} s"
        remedy = f"check egress, proxies and the state of {source.server} ({source.where_to_look})"
        raise DownloadError(message, remedy, retryable=True) from error


def check_proxies(environment: Mapping[str, str]) -> None:
    """Raises DownloadError for a SOCKS proxy, which the clients here cannot use."""
    for name, value in environment.items():
        if name.upper() in PROXIES and value.lower().startswith("socks"):
            raise DownloadError(
                f"{name} names a SOCKS proxy, but models are downloaded only through HTTP proxies",
                f"set {name} in engine.extraEnv to an http:// address, or remove it",
            )


def throttling_remedy(settings: DownloadSettings, *, has_credentials: bool) -> str:
    """What to do about a server that throttles, without what the deployment already does."""
    account = (
        "of an account with a higher limit" if has_credentials else "because anonymous clients have the lowest limit"
    )
    kind = "pull credentials" if settings.image else "a token"
    advice = [f"set model.credentialsSecret to a Secret with {kind} {account}"]
    if settings.cache_kind == "Pod":
        advice.append("set model.cache.type to Node or Claim, so that replicas download the model once")
    advice.append("name a mirror in model.source" if settings.image else "set model.hubEndpoint to a mirror")
    return f"{', or '.join(advice)}; what has arrived is kept, and the next attempt begins when the server allows it"


def _is_plain(image: ImageReference, settings: DownloadSettings) -> bool:
    """Whether to use HTTP without TLS: for configured registries and, as in container runtimes, for local ones."""
    return image.is_local or image.registry in settings.plain_http


def check_writable(settings: DownloadSettings) -> None:
    """Raises DownloadError if the cache cannot be written. A new folder on a node usually belongs to root."""
    try:
        (settings.cache / "hub").mkdir(parents=True, exist_ok=True)
        with file_lock(settings.cache / "space.lock", fcntl.LOCK_SH):
            pass
    except OSError as error:
        message = f"user {os.getuid()} cannot write to {settings.place} ({error.strerror})"
        raise DownloadError(message, _how_to_make_writable(settings)) from error


def _how_to_make_writable(settings: DownloadSettings) -> str:
    if settings.cache_kind == "Node":
        folder = settings.cache_name
        return f"create it on the node, as root: install -d -o {ENGINE_USER} -g {ENGINE_USER} {folder}"
    return (
        f"make its root folder writable for group {ENGINE_USER}; the volume's driver may have ignored the pod's fsGroup"
    )


def _token(settings: DownloadSettings) -> str | None:
    """The hub's token; None if none is configured. Raises DownloadError if it is configured but missing."""
    if settings.token_file is None:
        return None
    try:
        token = settings.token_file.read_text().strip()
    except OSError:
        token = ""
    if not token:
        secret = settings.hub_secret
        remedy = f"kubectl create secret generic {secret} --from-literal=token=... in the pod's namespace"
        raise DownloadError(f"the Secret {secret} does not exist, or has no key token", remedy)
    return token


def _downloaded_bytes(model: ModelSnapshot, listing: FileListing, unpacker: LayerUnpacker) -> int:
    """Bytes that were downloaded, including layers that are already unpacked and removed."""
    pending = unpacker.pending
    unpacked = sum(layer.file.size for layer in listing.layers if layer not in pending)
    files = (*listing.files, *(layer.file for layer in pending))
    return unpacked + sum(model.stored_size_of(file.name) for file in files)


def _manifest_entry(file: RemoteFile) -> dict[str, object]:
    return {"name": file.name, "size": file.size, "sha256": file.sha256, "gitSha1": file.git_sha1}
