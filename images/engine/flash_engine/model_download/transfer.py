"""Downloads the files of a model: several at once, resumed where they stopped, verified by checksum.

It manages partial files itself, because huggingface_hub's download cannot resume in another process: since 2.4, the
names of its partial files differ from process to process.
"""

import contextlib
import errno
import hashlib
import os
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path

import httpx2
from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError

from flash_contracts.download_record import format_size
from flash_engine.log import Logger
from flash_engine.model_cache import PARTIAL_SUFFIX, ModelSnapshot
from flash_engine.model_download.failure import DownloadError, ThrottledError
from flash_engine.model_download.http_stream import InterruptedTransferError, RangeError, receive
from flash_engine.model_download.receive_rate import ReceiveRate
from flash_engine.model_download.settings import LEAST_BYTES_PER_SECOND
from flash_engine.model_download.source import DownloadSource, FileListing, RemoteFile
from flash_engine.throttling import is_throttled

log = Logger("flash.fetch")

LONGEST_PAUSE_SECONDS = 30.0
CONNECTIONS_PER_STALL = 4
"""A connection that is too slow is replaced after this fraction of `stall_seconds`: the next may reach a better
server."""
CHUNK = 8 << 20
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
REQUEST_TIMEOUT = 408


class _CancelledError(Exception):
    """Another file has failed, so this transfer is abandoned."""


class _RetryNowError(InterruptedTransferError):
    """The transfer can be resumed at once: an expired token was renewed."""


class _PartialFile:
    """A partial file, opened for appending without a buffer, so that what has arrived survives a killed process."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)
        self.size = self._file.seek(0, os.SEEK_END)

    def append(self, content: bytes) -> None:
        left = memoryview(content)
        while left:
            written = self._file.write(left) or 0
            self.size += written
            left = left[written:]

    def close(self) -> None:
        self._file.close()


class _SharedPause:
    """A wait that the server asked one transfer for, and that the others respect too."""

    def __init__(self) -> None:
        self._until = 0.0

    def begin(self, seconds: float) -> None:
        self._until = max(self._until, time.monotonic() + seconds)

    @property
    def seconds_left(self) -> float:
        return max(self._until - time.monotonic(), 0.0)


class Transfer:
    """Downloads the files of one model."""

    def __init__(
        self,
        model: ModelSnapshot,
        listing: FileListing,
        files: Sequence[RemoteFile],
        source: DownloadSource,
        *,
        streams: int,
        stall_seconds: float,
        least_bytes_per_second: float = LEAST_BYTES_PER_SECOND,
    ) -> None:
        """`files` are those of the listing that are still needed. The minimum rate applies to each file."""
        self._model = model
        self._listing = listing
        self._files = files
        self._source = source
        self._streams = streams
        self._stall_seconds = stall_seconds
        self._least_bytes_per_second = least_bytes_per_second
        self._pause = _SharedPause()
        self._cancelled = threading.Event()

    def run(self) -> None:
        """Download all files and return when they are complete and verified. Raises DownloadError.

        The largest come first, so that no large file runs alone at the end.
        """
        files = sorted(self._files, key=lambda file: -file.size)
        with ThreadPoolExecutor(self._streams, "file") as pool:
            running = [pool.submit(self._download, file) for file in files]
            try:
                wait(running, return_when=FIRST_EXCEPTION)
            finally:
                if any(one.done() and one.exception() for one in running):
                    self._cancelled.set()
                    pool.shutdown(cancel_futures=True)
        failures = [one.exception() for one in running if not one.cancelled()]
        for failure in failures:
            if failure is not None and not isinstance(failure, _CancelledError):
                raise failure

    def _download(self, file: RemoteFile) -> None:
        """Download and verify one file. Tries twice, because a proxy may have corrupted it."""
        path = self._model.folder / file.name
        if path.is_file() and path.stat().st_size == file.size:
            return  # files get their final name only after verification
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + PARTIAL_SUFFIX)
        for is_last in (False, True):
            self._download_partial(file, partial)
            found = checksum(partial, file)
            if found == (file.sha256 or file.git_sha1):
                _move_into_place(partial, path)
                return
            partial.unlink()
            log.warning(
                "wrong checksum", file=file.name, expected=file.sha256 or file.git_sha1, found=found, again=not is_last
            )
        raise DownloadError(
            f"{file.name} of {self._model.repository} has the wrong checksum, twice: expected {_checksum_name(file)} "
            f"{file.sha256 or file.git_sha1}, found {found}",
            f"check the proxies and mirrors in between ({self._source.where_to_look}); the file was removed and not "
            "served",
        )

    def _download_partial(self, file: RemoteFile, partial: Path) -> None:
        """Retry until the file is complete. Raises DownloadError if too little arrives in `stall_seconds`."""
        rate = ReceiveRate(time.monotonic(), self._stall_seconds, self._least_bytes_per_second)
        known, pause, as_range = _size(partial), 1.0, True
        while True:
            self._wait_for_others(rate)
            failure = self._attempt(file, partial, as_range=as_range)
            now, stored = time.monotonic(), _size(partial)
            if stored == file.size:
                return
            if stored > known:
                rate.add(now, stored - known)
                known, pause = stored, 1.0
            self._give_up_if_stalled(file, stored, rate, failure)
            as_range = not isinstance(failure, RangeError)
            seconds = self._pause_after(failure, pause)
            log.warning(
                "transfer interrupted",
                file=file.name, at=stored, of=file.size, error=str(failure), again_in_seconds=round(seconds, 1),
            )  # fmt: skip
            self._sleep(seconds)
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS, self._stall_seconds)

    def _give_up_if_stalled(
        self,
        file: RemoteFile,
        stored: int,
        rate: ReceiveRate,
        failure: InterruptedTransferError | ThrottledError | None,
    ) -> None:
        """Raises DownloadError if too little arrived, or the server asks for a longer wait than the time left."""
        now = time.monotonic()
        if isinstance(failure, ThrottledError):
            if rate.would_be_too_low_after(now, failure.wait_seconds or 0.0):
                kept = f"{format_size(stored)} of {format_size(file.size)} of {file.name} are kept"
                raise ThrottledError(f"{failure.message}; {kept}", failure.remedy, failure.wait_seconds) from failure
        elif rate.is_too_low(now):
            raise self._stalled(file, stored, rate, failure)

    def _pause_after(self, failure: InterruptedTransferError | ThrottledError | None, pause: float) -> float:
        if isinstance(failure, ThrottledError) and failure.wait_seconds is not None:
            pause = max(failure.wait_seconds, pause)
            self._pause.begin(pause)
        return pause

    def _wait_for_others(self, rate: ReceiveRate) -> None:
        """Wait if the server throttled another file's transfer. The wait does not count against this file."""
        while (seconds := self._pause.seconds_left) > 0:
            rate.exclude(seconds)
            self._sleep(seconds)

    def _sleep(self, seconds: float) -> None:
        if self._cancelled.wait(seconds):
            raise _CancelledError

    def _attempt(
        self, file: RemoteFile, partial: Path, *, as_range: bool
    ) -> InterruptedTransferError | ThrottledError | None:
        """Make one transfer. Returns what interrupted it if it can be resumed. Raises DownloadError if it cannot."""
        try:
            try:
                self._transfer(file, partial, as_range=as_range)
            except _RetryNowError:
                self._transfer(file, partial, as_range=as_range)
        except (InterruptedTransferError, ThrottledError) as error:
            return error
        return None

    def _transfer(self, file: RemoteFile, partial: Path, *, as_range: bool) -> None:
        """Request the rest until the file is complete, because a server may send smaller ranges than requested."""
        if _size(partial) > file.size:
            partial.unlink()
        seconds = max(self._stall_seconds / CONNECTIONS_PER_STALL, 1.0)
        rate = ReceiveRate(time.monotonic(), seconds, self._least_bytes_per_second)
        with self._translated_errors(file), contextlib.closing(_PartialFile(partial)) as opened:
            while opened.size < file.size:
                before = opened.size
                self._receive(file, opened, rate, as_range=as_range)
                if opened.size == before:
                    raise InterruptedTransferError(f"{self._source.server} sent no data")

    def _receive(self, file: RemoteFile, partial: _PartialFile, rate: ReceiveRate, *, as_range: bool) -> None:
        request = self._source.request(file, self._listing)
        limit = constants.MAX_HTTP_DOWNLOAD_SIZE
        if request.expected_size is not None and request.expected_size > limit:
            message = (
                f"{file.name} has {format_size(file.size)}, but the hub sends at most {format_size(limit)} of a file"
            )
            raise DownloadError(message, "use a repository with smaller shards")

        def note_received(count: int) -> None:
            if self._cancelled.is_set():
                raise _CancelledError
            now = time.monotonic()
            rate.add(now, count)
            if rate.is_too_low(now):
                raise InterruptedTransferError(f"too slow: {format_size(rate.received)} in {now - rate.began:.0f} s")

        receive(
            request.url, request.headers, partial, file.size,
            as_range=as_range, timeout=self._stall_seconds, note_received=note_received,
        )  # fmt: skip

    @contextlib.contextmanager
    def _translated_errors(self, file: RemoteFile) -> Iterator[None]:
        """Turn the errors of a transfer into InterruptedTransferError or DownloadError."""
        try:
            yield
        except HfHubHTTPError as error:
            raise self._of_answer(error, file) from error
        except httpx2.TooManyRedirects as error:
            raise DownloadError(
                f"{file.name}: {self._source.server} redirects in a loop", f"check {self._source.where_to_look}"
            ) from error
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise InterruptedTransferError(str(error) or type(error).__name__) from error
        except OSError as error:
            if error.errno in NO_SPACE:
                raise DownloadError(
                    f"the volume is full at {file.name}, although there was enough space at the start",
                    "something else is writing to the volume: free space there, or choose another model.cache",
                ) from error
            raise DownloadError(f"{file.name}: {error.strerror or error}", "check the volume of model.cache") from error

    def _of_answer(self, error: HfHubHTTPError, file: RemoteFile) -> Exception:
        """The error to raise for an HTTP error: one that is retried, or a DownloadError."""
        response, server = error.response, self._source.server
        status = response.status_code
        if is_throttled(status, response.headers):
            return ThrottledError.of_response(server, status, response.headers)
        if status >= httpx2.codes.INTERNAL_SERVER_ERROR or status == REQUEST_TIMEOUT:
            return InterruptedTransferError(f"{server} answered {status}")
        try:
            described = self._source.describe_error(error, file)
        except DownloadError as failed:  # the access could not be renewed
            described = failed
        if described is None:
            return _RetryNowError(f"{server} answered {status}")
        if described.retryable and not isinstance(described, ThrottledError):
            return InterruptedTransferError(described.message)
        return described

    def _stalled(self, file: RemoteFile, stored: int, rate: ReceiveRate, failure: Exception | None) -> DownloadError:
        seconds = time.monotonic() - rate.began
        progress = f"{format_size(stored)} of {format_size(file.size)}"
        if rate.received:
            message = (
                f"only {format_size(rate.received)} of {file.name} arrived in {seconds:.0f} s, less than "
                f"{format_size(self._least_bytes_per_second)}/s, at {progress} ({failure or 'no error'})"
            )
        else:
            message = (
                f"no data of {file.name} arrived for {self._stall_seconds:g} s, at {progress} ({failure or 'no error'})"
            )
        return DownloadError(
            f"{message}; the next attempt resumes there",
            f"check DNS, egress and the state of {self._source.server} ({self._source.where_to_look})",
        )


def checksum(path: Path, file: RemoteFile) -> str:
    """The SHA-256, or git's SHA-1 of length and contents if the source has no SHA-256 of the file."""
    digest = hashlib.sha256() if file.sha256 else hashlib.sha1(f"blob {file.size}\0".encode(), usedforsecurity=False)
    with path.open("rb", buffering=0) as opened:
        while chunk := opened.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _checksum_name(file: RemoteFile) -> str:
    return "SHA-256" if file.sha256 else "git's SHA-1"


def _move_into_place(partial: Path, path: Path) -> None:
    """Sync a verified file to disk and give it its final name. It is read-only, because engines share it."""
    with partial.open("rb") as opened:
        os.fsync(opened.fileno())
    partial.chmod(0o444)
    partial.replace(path)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
