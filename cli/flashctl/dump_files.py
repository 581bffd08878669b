"""The tarball of `dump`: written beside its place and moved there, so that half of one is never taken for whole."""

import io
import os
import tarfile
import tempfile
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from flashctl.errors import CommandError, UsageError


def default_name(namespace: str, name: str, now: datetime) -> str:
    return f"dsf-dump-{namespace}-{name}-{now:%Y%m%d-%H%M%S}.tar.gz"


class DumpFile:
    """A tarball that only its owner may read. Without `finish`, nothing is left of it."""

    def __init__(self, target: Path, now: datetime) -> None:
        """Raises UsageError if the target exists, or its folder does not."""
        if target.exists():
            raise UsageError(f"{target} exists: name another file with --to, or remove it")
        self._target, self._now = target, now
        self._root = target.name.removesuffix(".tar.gz")
        try:
            handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        except OSError as error:
            raise UsageError(f"no file can be written in {target.parent}: {error.strerror}") from error
        self._temporary = Path(name)
        self._stream = os.fdopen(handle, "wb")
        self._tar = tarfile.open(fileobj=self._stream, mode="w:gz")  # noqa: SIM115 - closed by finish and __exit__

    def add(self, path: str, text: str) -> None:
        data = text.encode(errors="replace")
        entry = tarfile.TarInfo(f"{self._root}/{path}")
        entry.size, entry.mode, entry.mtime = len(data), 0o600, int(self._now.timestamp())
        self._tar.addfile(entry, io.BytesIO(data))

    def add_all(self, files: Iterable[tuple[str, str]]) -> None:
        """Raises CommandError, for example on a full disk."""
        try:
            for path, text in files:
                self.add(path, text)
        except OSError as error:
            raise self._failed(error) from error

    def finish(self) -> None:
        try:
            self._tar.close()
            self._stream.flush()
            os.fsync(self._stream.fileno())
            self._stream.close()
            self._temporary.replace(self._target)
        except OSError as error:
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> CommandError:
        return CommandError(f"{self._target} could not be written: {error.strerror or error}; nothing is left of it")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()
        self._temporary.unlink(missing_ok=True)
