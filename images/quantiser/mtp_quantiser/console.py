"""Progress output: lines on stderr, and a progress bar on a terminal."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
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
    """Report the seconds that the block took, and every LINE_SECONDS that it goes on."""
    began = time.monotonic()
    with reminded(lambda: f"{what}: going on for {time.monotonic() - began:.0f} s"):
        yield
    print_line(f"{what}: {time.monotonic() - began:.1f} s")


@contextmanager
def reminded(line: Callable[[], str]) -> Iterator[None]:
    """Print `line()` every LINE_SECONDS from a thread, for the block may wait for a device or a disk meanwhile."""
    ended = threading.Event()

    def remind() -> None:
        while not ended.wait(LINE_SECONDS):
            print_line(line())

    thread = threading.Thread(target=remind, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


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
    """Print a line every LINE_SECONDS, also while one item takes longer, with an estimate of the time left."""
    began, done = time.monotonic(), 0
    with reminded(lambda: f"{what}: {done} of {total} {unit}{remaining(time.monotonic() - began, done, total)}"):
        for item in items:
            done += 1
            yield item
    if done == total:
        print_line(f"{what}: {done} of {total} {unit}")


def remaining(elapsed: float, done: int, total: int) -> str:
    if not done:
        return f", {elapsed:.0f} s so far"
    return f", about {elapsed / done * (total - done):.0f} s left"
