"""Downloads the files of a model: several at once, resumed where they stopped, verified by checksum.

The partial files are managed here, and huggingface_hub's `http_get` does the transfer from a given offset. Its own
download cannot resume in another process: since 2.4 the names of its partial files differ from process to process.
"""

import contextlib
import errno
import hashlib
import io
import os
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path

import httpx2
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.file_download import http_get

from flash_contracts.download_record import format_size
from flash_engine.log import Logger
from flash_engine.model_cache import PARTIAL_SUFFIX, ModelSnapshot
from flash_engine.model_download.failure import DownloadError
from flash_engine.model_download.source import Listing, ModelSource, RemoteFile

log = Logger("flash.fetch")

LONGEST_PAUSE_SECONDS = 30.0
CHUNK = 8 << 20
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


class _CancelledError(Exception):
    """Another file has failed, so this transfer is abandoned."""


class _TransientError(Exception):
    """The transfer broke, and can be resumed."""


class _RetryNowError(_TransientError):
    """The transfer can be resumed at once: an expired token was renewed."""


class _PartialFile(io.BufferedWriter):
    """A partial file, opened for appending. Writing fails once `cancelled` is set, the only way to cancel http_get."""

    def __init__(self, path: Path, cancelled: threading.Event) -> None:
        path.touch()
        super().__init__(io.FileIO(path, "r+"))
        self.seek(0, os.SEEK_END)
        self._cancelled = cancelled

    def write(self, content: bytes, /) -> int:  # type: ignore[override]
        if self._cancelled.is_set():
            raise _CancelledError
        return super().write(content)


class Transfer:
    """Downloads the files of one model."""

    def __init__(
        self,
        model: ModelSnapshot,
        listing: Listing,
        files: Sequence[RemoteFile],
        source: ModelSource,
        *,
        streams: int,
        stall_seconds: float,
    ) -> None:
        """`files` are those of the listing that are still needed."""
        self._model = model
        self._listing = listing
        self._files = files
        self._source = source
        self._streams = streams
        self._stall_seconds = stall_seconds
        self._cancelled = threading.Event()

    def run(self) -> None:
        """Returns when all files are complete and verified. Raises DownloadError.

        Starts with the largest files, so that no large one runs alone at the end.
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
        """Downloads and verifies one file. Tries twice, because a proxy may have corrupted it."""
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
            f"check proxies and mirrors in between ({self._source.where_to_look}); the file was removed and not served",
        )

    def _download_partial(self, file: RemoteFile, partial: Path) -> None:
        """Retries until the file is complete. Raises DownloadError if no data arrives for `stall_seconds`."""
        grown_at, known, pause = time.monotonic(), _size(partial), 1.0
        while True:
            failure = self._attempt(file, partial)
            stored = _size(partial)
            if failure is None and stored == file.size:
                return
            if stored > known:
                grown_at, known, pause = time.monotonic(), stored, 1.0
            if time.monotonic() - grown_at >= self._stall_seconds:
                raise self._stalled(file, stored, failure)
            log.warning(
                "transfer interrupted", file=file.name, at=stored, of=file.size, error=failure, again_in_seconds=pause
            )
            if self._cancelled.wait(pause):
                raise _CancelledError
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS, self._stall_seconds)

    def _attempt(self, file: RemoteFile, partial: Path) -> str | None:
        """Makes one transfer. Returns what broke it, if it can be resumed. Raises DownloadError if it cannot."""
        try:
            try:
                self._transfer(file, partial)
            except _RetryNowError:
                self._transfer(file, partial)
        except _TransientError as error:
            return str(error)
        return None

    def _transfer(self, file: RemoteFile, partial: Path) -> None:
        if _size(partial) > file.size:
            partial.unlink()
        request = self._source.request(file, self._listing)
        with self._translated_errors(file), _PartialFile(partial, self._cancelled) as opened:
            if opened.tell() == file.size:
                return
            http_get(
                request.url,
                opened,
                resume_size=opened.tell(),
                headers=dict(request.headers),
                expected_size=request.expected_size,
                displayed_filename=file.name,
            )

    @contextlib.contextmanager
    def _translated_errors(self, file: RemoteFile) -> Iterator[None]:
        """Turns the errors of a transfer into _TransientError or DownloadError."""
        try:
            yield
        except HfHubHTTPError as error:
            if error.response.status_code >= 500 or error.response.status_code in (408, 416, 429):  # noqa: PLR2004
                raise _TransientError(f"{self._source.server} answered {error.response.status_code}") from error
            described = self._source.describe_error(error, file)
            if described is None:
                raise _RetryNowError(f"{self._source.server} answered {error.response.status_code}") from error
            raise described from error
        except httpx2.HTTPError as error:
            raise _TransientError(str(error) or type(error).__name__) from error
        except OSError as error:
            if error.errno in NO_SPACE:
                raise DownloadError(
                    f"the volume is full at {file.name}, although there was enough space at the start",
                    "something else writes to the volume: free space there, or choose another model.cache",
                ) from error
            if error.errno is not None:
                raise DownloadError(f"{file.name}: {error.strerror}", "check the volume of model.cache") from error
            raise _TransientError(str(error)) from error
        except ValueError as error:  # huggingface_hub: the file is too large for plain HTTP
            raise DownloadError(f"{file.name}: {error}", "use a repository with smaller shards") from error

    def _stalled(self, file: RemoteFile, stored: int, failure: str | None) -> DownloadError:
        progress = f"{format_size(stored)} of {format_size(file.size)}"
        message = (
            f"no data of {file.name} arrived for {self._stall_seconds:g} s, at {progress} ({failure or 'no error'})"
        )
        return DownloadError(
            f"{message}; the next attempt resumes there",
            f"check DNS, egress and the state of {self._source.server} ({self._source.where_to_look})",
        )


def checksum(path: Path, file: RemoteFile) -> str:
    """SHA-256, or git's SHA-1 of the length and the contents if the source has no SHA-256 of the file."""
    digest = hashlib.sha256() if file.sha256 else hashlib.sha1(f"blob {file.size}\0".encode(), usedforsecurity=False)
    with path.open("rb", buffering=0) as opened:
        while chunk := opened.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _checksum_name(file: RemoteFile) -> str:
    return "SHA-256" if file.sha256 else "git's SHA-1"


def _move_into_place(partial: Path, path: Path) -> None:
    """Gives a verified file its final name, after syncing it to disk. Read-only, because engines share it."""
    with partial.open("rb") as opened:
        os.fsync(opened.fileno())
    partial.chmod(0o444)
    partial.replace(path)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
