"""Tells the events that our own writes cause from news, also where they overtake the answers.

The store knows an object from the answer to its write, so the event that follows tells nothing new. On a busy machine
the event often arrives first. Then it waits for the answer:

    the answer to the write       | the event
    ----------------------------- | ----------------------------------
    has the version of the event  | was caused by the write: no news
    has another version           | somebody else wrote as well: news
    is an error, or none came     | news
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from flash_operator.core.observed.raw import RawObject

MOST_WAITING = 8
"""Events of one object that wait. Somebody who writes more often than that makes news."""


@dataclass
class Write:
    """Writes to one object that are not answered yet."""

    count: int = 0
    answered: set[str] = field(default_factory=set)
    """Versions that answers had."""
    waiting: dict[str, Callable[[], None]] = field(default_factory=dict)
    """By version of an event: what to do if it is news."""

    def answer(self, raw: RawObject) -> None:
        self.answered.add(_version_of(raw))


class OwnWrites:
    """The writes that are under way, by the object's path in the API."""

    def __init__(self) -> None:
        self._under_way: dict[str, Write] = {}

    @contextmanager
    def to(self, path: str) -> Iterator[Write]:
        """Surrounds a write. An event that came meanwhile, and is of another version than the answer, is news."""
        write = self._under_way.setdefault(path, Write())
        write.count += 1
        try:
            yield write
        finally:
            write.count -= 1
            if not write.count:
                del self._under_way[path]
                for version, on_news in write.waiting.items():
                    if version not in write.answered:
                        on_news()

    def judge(self, path: str, event: RawObject, on_news: Callable[[], None]) -> None:
        """Calls `on_news` for an object from an event, as soon as it is known that no write of ours caused it."""
        write = self._under_way.get(path)
        if write is None or len(write.waiting) >= MOST_WAITING:
            on_news()
        else:
            write.waiting[_version_of(event)] = on_news


def _version_of(raw: RawObject) -> str:
    return str(raw["metadata"].get("resourceVersion", ""))
