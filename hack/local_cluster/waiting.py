"""Waiting for something to come true, with an error that says what did not."""

import time
from collections.abc import Callable
from pathlib import Path


class NotReadyError(RuntimeError):
    """Something did not come up in time; the message ends with the last lines of its log."""


def wait_until(
    look: Callable[[], bool],
    what: str,
    *,
    seconds: float,
    log: Path | None = None,
    alive: Callable[[], bool] = lambda: True,
) -> None:
    """Look every 50 ms until it is true; give up early where what should bring it about is not `alive`."""
    deadline = time.monotonic() + seconds
    while not look():
        ended = not alive()
        if ended or time.monotonic() > deadline:
            lines = log.read_text(errors="replace").splitlines()[-15:] if log and log.exists() else []
            raise NotReadyError(
                "\n".join([f"{what}: {'its process ended' if ended else f'not within {seconds:.0f} s'}", *lines])
            )
        time.sleep(0.05)
