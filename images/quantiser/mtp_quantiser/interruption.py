"""What a user's Ctrl-C and the kubelet's SIGTERM come to."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
"""A container's PID 1 would not hear SIGTERM at all if it did not say what is to happen then."""

IGNORED: Final = signal.SIG_IGN
"""What a shell in the background sets for SIGINT stays so."""


@contextmanager
def interruptible() -> Iterator[None]:
    """Raises KeyboardInterrupt in the midst of the block where a signal comes, and out of it whatever became of that.

    Torch reads a file's tensors by calls back into Python, and a KeyboardInterrupt that comes up there leaves it as
    a ValueError about the shape of a storage: 3 of 400 restores that were interrupted at a random moment.
    """
    heard = False

    def hear(_signal: int, _frame: Any) -> None:
        nonlocal heard
        heard = True
        raise KeyboardInterrupt

    before = {number: signal.signal(number, hear) for number in SIGNALS if signal.getsignal(number) is not IGNORED}
    try:
        yield
    except Exception as error:
        if heard:
            raise KeyboardInterrupt from error
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
