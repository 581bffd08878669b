"""An event loop whose clock jumps to the next timer when all tasks are idle.

Gate and engine stub share it: both use its timers and clock, and data on the loopback arrives immediately. So minutes
pass in milliseconds, and events keep their real order. Computing takes no time by this clock; `make bench-gate` runs
the same scenarios by the real clock.
"""

import asyncio
import selectors
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

SETTLE_SECONDS = 0.0001
"""Bytes need a moment on the loopback, and the clock must not jump past them."""


class _JumpingSelector(selectors.DefaultSelector):
    """Never waits for a timer: if no bytes arrive, it advances the clock by the time the loop would have waited."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None or timeout <= 0:
            return super().select(timeout)
        ready = super().select(0)
        if not ready:
            time.sleep(SETTLE_SECONDS)
            ready = super().select(0)
        if not ready:
            self.now += timeout
        return ready


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """The event loop with the jumping clock."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now


def run_in_virtual_time(work: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run` with the jumping clock."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(work)
