"""Waiting for something to come true, with an error that says what was waited for, and what was seen last."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

PAUSE_SECONDS = 0.05
LOG_LINES = 15


class NotReadyError(TimeoutError):
    """It did not happen in time, or cannot happen any more. The message has the last observed state."""


def eventually(
    look: Callable[[], T | None],
    what: str,
    *,
    seconds: float = 30,
    pause: float = PAUSE_SECONDS,
    seen: Callable[[], object] | None = None,
    alive: Callable[[], bool] = lambda: True,
    log: Path | None = None,
) -> T:
    """Polls until there is a result, and returns it.

    The error has the state as described by `seen` (or the last result), and the last lines of `log`. If the process
    that should produce the result is not `alive`, it stops waiting.
    """
    deadline = time.monotonic() + seconds
    while True:
        is_alive = alive()  # checked before polling, because a process may end after it has succeeded
        found = look()
        if found:
            return found
        if not is_alive or time.monotonic() > deadline:
            raise NotReadyError(_story(what, seconds, seen() if seen else found, log, is_alive=is_alive))
        time.sleep(pause)


async def eventually_async(
    look: Callable[[], T | None],
    what: str,
    *,
    seconds: float = 30,
    pause: float = PAUSE_SECONDS,
    seen: Callable[[], object] | None = None,
    alive: Callable[[], bool] = lambda: True,
) -> T:
    """The same with the clock of the running loop, which may be virtual."""
    clock = asyncio.get_running_loop().time
    deadline = clock() + seconds
    while True:
        is_alive = alive()
        found = look()
        if found:
            return found
        if not is_alive or clock() > deadline:
            raise NotReadyError(_story(what, seconds, seen() if seen else found, None, is_alive=is_alive))
        await asyncio.sleep(pause)


def _story(what: str, seconds: float, seen: object, log: Path | None, *, is_alive: bool) -> str:
    why = f"not within {seconds:g} s" if is_alive else "its process ended"
    last = "" if seen is None or seen is False else f"; seen last: {seen if isinstance(seen, str) else repr(seen)}"
    lines = log.read_text(errors="replace").splitlines()[-LOG_LINES:] if log and log.exists() else []
    return "\n".join([f"{what}: {why}{last}", *lines])
