"""Being asked to stop: a probe gives the GPUs up as soon as somebody wants them."""

import signal
from types import FrameType


class StopSignal:
    """Takes SIGTERM and SIGINT from now on. A first process of a container has no handler but its own."""

    def __init__(self) -> None:
        self._came = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._take)

    def __call__(self) -> bool:
        return self._came

    def _take(self, _number: int, _frame: FrameType | None) -> None:
        self._came = True
