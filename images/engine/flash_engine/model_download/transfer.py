"""The bytes of a model: several files at once, each resumed where it stopped, and compared with its checksum.

huggingface_hub 2.4 begins a file anew in another process (its unfinished files have names of their own), so the
unfinished files are ours and its `http_get`, which does the transfer, is told where to go on.
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

from flash_contracts.download_record import size_told
from flash_engine.log import Logger
from flash_engine.model_cache import PART, StoredModel
from flash_engine.model_download.failure import DownloadError
from flash_engine.model_download.source import Listing, RemoteFile, Source

log = Logger("flash.fetch")

LONGEST_PAUSE_SECONDS = 30.0
CHUNK = 8 << 20
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


class _EndedError(Exception):
    """Another file has failed, so this one need not go on."""


class _TransientError(Exception):
    """Another transfer may go on where this one stopped."""


class _AskAnewError(_TransientError):
    """So may one that asks anew at once: a token had run out, and there is another."""


class _PartFile(io.BufferedWriter):
    """An unfinished file; its next write fails once `ended` is set, for nothing else can end a transfer."""

    def __init__(self, path: Path, ended: threading.Event) -> None:
        path.touch()
        super().__init__(io.FileIO(path, "r+"))
        self.seek(0, os.SEEK_END)
        self._ended = ended

    def write(self, content: bytes, /) -> int:  # type: ignore[override]
        if self._ended.is_set():
            raise _EndedError
        return super().write(content)


class Transfer:
    """Of one model. `run` returns when every file is there and right."""

    def __init__(
        self,
        model: StoredModel,
        listing: Listing,
        files: Sequence[RemoteFile],
        source: Source,
        *,
        streams: int,
        stall_seconds: float,
    ) -> None:
        """`files` are those of the listing that are wanted still."""
        self._model = model
        self._listing = listing
        self._files = files
        self._source = source
        self._streams = streams
        self._stall_seconds = stall_seconds
        self._ended = threading.Event()

    def run(self) -> None:
        """Raises DownloadError. The largest files first, so that no long one is left for the end."""
        files = sorted(self._files, key=lambda file: -file.size)
        with ThreadPoolExecutor(self._streams, "file") as pool:
            running = [pool.submit(self._fetch, file) for file in files]
            try:
                wait(running, return_when=FIRST_EXCEPTION)
            finally:
                if any(one.done() and one.exception() for one in running):
                    self._ended.set()
                    pool.shutdown(cancel_futures=True)
        failures = [one.exception() for one in running if not one.cancelled()]
        for failure in failures:
            if failure is not None and not isinstance(failure, _EndedError):
                raise failure

    def _fetch(self, file: RemoteFile) -> None:
        """A file that is wrong is fetched once more, for a proxy may have spoilt it on its way."""
        path = self._model.folder / file.name
        if path.is_file() and path.stat().st_size == file.size:
            return  # it got its name after it was found right
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(path.name + PART)
        for is_last in (False, True):
            self._fetch_part(file, part)
            found = checksum(part, file)
            if found == (file.sha256 or file.git_sha1):
                _keep(part, path)
                return
            part.unlink()
            log.warning(
                "wrong checksum", file=file.name, expected=file.sha256 or file.git_sha1, found=found, again=not is_last
            )
        raise DownloadError(
            f"{file.name} of {self._model.repository} is not what {self._source.server} lists: expected {_kind(file)} "
            f"{file.sha256 or file.git_sha1}, found {found}, twice; it was removed",
            f"look at the proxy or mirror in between ({self._source.advice}); nothing was served from it",
        )

    def _fetch_part(self, file: RemoteFile, part: Path) -> None:
        """Go on until the part is whole. Raises DownloadError where no byte came for `stall_seconds`."""
        grown_at, known, pause = time.monotonic(), _size(part), 1.0
        while True:
            trouble = self._try(file, part)
            stored = _size(part)
            if trouble is None and stored == file.size:
                return
            if stored > known:
                grown_at, known, pause = time.monotonic(), stored, 1.0
            if time.monotonic() - grown_at >= self._stall_seconds:
                raise self._stalled(file, stored, trouble)
            log.warning(
                "transfer broke", file=file.name, at=stored, of=file.size, error=trouble, again_in_seconds=pause
            )
            if self._ended.wait(pause):
                raise _EndedError
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS, self._stall_seconds)

    def _try(self, file: RemoteFile, part: Path) -> str | None:
        """One transfer; what broke it, where another one may go on. Raises DownloadError for what will not pass."""
        try:
            try:
                self._transfer(file, part)
            except _AskAnewError:
                self._transfer(file, part)
        except _TransientError as error:
            return str(error)
        return None

    def _transfer(self, file: RemoteFile, part: Path) -> None:
        if _size(part) > file.size:
            part.unlink()
        request = self._source.request(file, self._listing)
        with self._told(file), _PartFile(part, self._ended) as opened:
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
    def _told(self, file: RemoteFile) -> Iterator[None]:
        """Sort what a transfer can raise: _TransientError, DownloadError, or _EndedError."""
        try:
            yield
        except HfHubHTTPError as error:
            if error.response.status_code >= 500 or error.response.status_code in (408, 416, 429):  # noqa: PLR2004
                raise _TransientError(f"{self._source.server} answered {error.response.status_code}") from error
            refusal = self._source.refusal(error, file)
            if refusal is None:
                raise _AskAnewError(f"{self._source.server} answered {error.response.status_code}") from error
            raise refusal from error
        except httpx2.HTTPError as error:
            raise _TransientError(str(error) or type(error).__name__) from error
        except OSError as error:
            if error.errno in NO_SPACE:
                raise DownloadError(
                    f"the volume was full at {file.name}, though there was room at the start",
                    "something else writes to it: free space there, or choose another model.cache",
                ) from error
            if error.errno is not None:
                raise DownloadError(f"{file.name}: {error.strerror}", "look at the volume of model.cache") from error
            raise _TransientError(str(error)) from error
        except ValueError as error:  # what huggingface_hub says of a file that is too large for plain HTTP
            raise DownloadError(f"{file.name}: {error}", "use a repository with smaller shards") from error

    def _stalled(self, file: RemoteFile, stored: int, trouble: str | None) -> DownloadError:
        told = f"no byte of {file.name} came for {self._stall_seconds:g} s, at {size_told(stored)} of "
        told += f"{size_told(file.size)} ({trouble or 'no error'}); what is here stays, and another try goes on from it"
        return DownloadError(
            told, f"check DNS, egress and whether {self._source.server} is well ({self._source.advice})"
        )


def checksum(path: Path, file: RemoteFile) -> str:
    """As the hub has it: SHA-256 of a large file, and of a small one git's SHA-1, which its length stands before."""
    digest = hashlib.sha256() if file.sha256 else hashlib.sha1(f"blob {file.size}\0".encode(), usedforsecurity=False)
    with path.open("rb", buffering=0) as opened:
        while chunk := opened.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _kind(file: RemoteFile) -> str:
    return "SHA-256" if file.sha256 else "git's SHA-1"


def _keep(part: Path, path: Path) -> None:
    """On the disk before it gets its name, for the name says that it is right. Read-only: engines share it."""
    with part.open("rb") as opened:
        os.fsync(opened.fileno())
    part.chmod(0o444)
    part.replace(path)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
