"""Turns Ctrl-C and the kubelet's SIGTERM into KeyboardInterrupt."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
"""The kernel drops SIGTERM for a container's PID 1 unless it has a handler."""

IGNORED: Final = signal.SIG_IGN
"""Kept if set: a background shell ignores SIGINT on purpose."""


@contextmanager
def interruptible() -> Iterator[None]:
    """Raise KeyboardInterrupt inside the block on a signal, even if the block turns it into another exception.

    Torch reads tensors through callbacks into Python. A KeyboardInterrupt raised in one of them becomes a ValueError
    about the shape of a storage: seen in 3 of 400 restores interrupted at a random moment.
    """
    interrupted = False

    def on_signal(_signal: int, _frame: Any) -> None:
        nonlocal interrupted
        interrupted = True
        raise KeyboardInterrupt

    before = {number: signal.signal(number, on_signal) for number in SIGNALS if signal.getsignal(number) is not IGNORED}
    try:
        yield
    except Exception as error:
        if interrupted:
            raise KeyboardInterrupt from error
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
