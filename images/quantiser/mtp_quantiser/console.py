"""Progress output: lines on stderr, and a progress bar on a terminal."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

CONSOLE: Final = Console(stderr=True)

LINE_SECONDS: Final = 2.0

Item = TypeVar("Item")


def print_line(line: str) -> None:
    CONSOLE.print(line, highlight=False, markup=False, soft_wrap=True)


@contextmanager
def step(what: str) -> Iterator[None]:
    began = time.monotonic()
    yield
    print_line(f"{what}: {time.monotonic() - began:.1f} s")


def progress(items: Iterable[Item], what: str, total: int, unit: str) -> Iterator[Item]:
    """Show a progress bar on a terminal, and lines otherwise."""
    if not CONSOLE.is_terminal:
        yield from logged(items, what, total, unit)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=CONSOLE) as bar:
        task = bar.add_task(what, total=total)
        for item in items:
            bar.advance(task)
            yield item


def logged(items: Iterable[Item], what: str, total: int, unit: str) -> Iterator[Item]:
    """Print a line at most every LINE_SECONDS, with an estimate of the time left."""
    began = printed = time.monotonic()
    for done, item in enumerate(items, 1):
        now = time.monotonic()
        if done == total or now - printed >= LINE_SECONDS:
            printed = now
            left = f", about {(now - began) / done * (total - done):.0f} s left" if done < total else ""
            print_line(f"{what}: {done} of {total} {unit}{left}")
        yield item
