"""What a person sees while images are built: a line per step, with its seconds. On stderr: stdout is for paths."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def step(name: str) -> Iterator[None]:
    print(f"  {name} ...", file=sys.stderr, flush=True)
    started = time.monotonic()
    try:
        yield
    except BaseException:
        print(f"  {name}: failed after {time.monotonic() - started:.1f} s", file=sys.stderr, flush=True)
        raise
    print(f"  {name}: {time.monotonic() - started:.1f} s", file=sys.stderr, flush=True)
