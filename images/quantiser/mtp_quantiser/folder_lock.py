"""Locks the output folder by a file beside it, so that pods that share a volume restore it one at a time."""

import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from mtp_quantiser.errors import QuantiserError

POLL_SECONDS: Final = 2.0
PROGRESS_SECONDS: Final = 30.0


def lock_of(out: Path) -> Path:
    return out.with_name(f".{out.name}.lock")


@contextmanager
def exclusive(out: Path, waiting: Callable[[], str], print_line: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock of `out`. While another process holds it, print `waiting()` every PROGRESS_SECONDS.

    The kernel releases the lock when its holder exits for any reason. Raises QuantiserError if the lock file cannot be
    created.
    """
    with _opened(out) as file:
        reported_at = float("-inf")
        while not _try_lock(file.fileno()):
            if time.monotonic() - reported_at > PROGRESS_SECONDS:
                reported_at = time.monotonic()
                print_line(waiting())
            time.sleep(POLL_SECONDS)
        yield


@contextmanager
def exclusive_or_refused(out: Path) -> Iterator[None]:
    """Hold the lock of `out`. Raises QuantiserError if another process holds it."""
    with _opened(out) as file:
        if not _try_lock(file.fileno()):
            raise QuantiserError(f"another process is writing {out}; wait for it, or give another --out")
        yield


def _opened(out: Path) -> IO[str]:
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        return lock_of(out).open("a")
    except OSError as error:
        raise QuantiserError(
            f"{out.parent} cannot be written ({error}), but the restored checkpoint belongs there. Mount the volume "
            "read-write, and make the folder writable for the user or group of this process"
        ) from error


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
