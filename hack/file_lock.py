"""A lock file held by one process. A second process reports that it waits. The kernel releases it with its process."""

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def held(lock: Path, report_wait: Callable[[], None]) -> Iterator[None]:
    """Calls `report_wait` before waiting, if another process holds the lock."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report_wait()
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
