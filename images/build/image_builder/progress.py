"""Progress of image builds: a line per step, with its seconds, on stderr. Stdout is for paths."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager


def print_line(text: str) -> None:
    print(f"  {text}", file=sys.stderr, flush=True)


@contextmanager
def step(name: str) -> Iterator[None]:
    print_line(f"{name} ...")
    started = time.monotonic()
    try:
        yield
    except BaseException:
        print_line(f"{name}: failed after {time.monotonic() - started:.1f} s")
        raise
    print_line(f"{name}: {time.monotonic() - started:.1f} s")
