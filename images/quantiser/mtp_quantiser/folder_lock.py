"""One restoration of a folder at a time, whatever pods want it: a lock beside the folder, on the volume they share."""

import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from mtp_quantiser.errors import QuantiserError

LOOK_SECONDS: Final = 2.0
TELL_SECONDS: Final = 30.0


def lock_of(out: Path) -> Path:
    return out.with_name(f".{out.name}.lock")


@contextmanager
def alone(out: Path, waiting: Callable[[], str], say: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock of `out`. While another holds it, `waiting` is said now and then.

    The kernel lets go of it when its holder ends, however that ends. Raises QuantiserError where no file can be made.
    """
    try:
        file = lock_of(out).open("a")
    except OSError as error:
        raise QuantiserError(
            f"{out.parent} cannot be written ({error}): the restored checkpoint is made there, so the volume must be "
            "mounted for writing, and its folder belong to the user or group of this process"
        ) from error
    with file:
        told = float("-inf")
        while not _taken(file.fileno()):
            if time.monotonic() - told > TELL_SECONDS:
                told = time.monotonic()
                say(waiting())
            time.sleep(LOOK_SECONDS)
        yield


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
