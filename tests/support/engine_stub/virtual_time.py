"""An event loop whose clock jumps to the next timer when nobody has anything to do.

Gate and engine stub share it: both wait by its timers and read its clock, and what one sends over the loopback the
other can read at once. So minutes pass in milliseconds, and the order of events is that of real time. What it leaves
out is the time that computing takes; `make bench-gate` runs the same scenarios by the real clock.
"""

import asyncio
import selectors
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

SETTLE_SECONDS = 0.0001
"""Bytes on the loopback are on their way for a moment; the clock must not jump past them."""


class _JumpingSelector(selectors.DefaultSelector):
    """Waits for no timer: where no bytes come, the clock is moved by as much as the loop would have waited."""

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
    """See the module."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now


def run_in_virtual_time(work: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run` by the jumping clock."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(work)
