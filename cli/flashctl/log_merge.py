"""The logs of all containers of a deployment, merged by time. The merge is pure; readers are given to it."""

import heapq
import queue
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from flash_operator.core.observed.snapshot import RawObject
from flashctl.errors import CommandError, UsageError

CONTAINERS = ("fetch", "gate", "engine")
AGE = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")
STAMP = re.compile(r"^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d+))?(Z|[+-]\d\d:\d\d) ?(.*)$", re.DOTALL)


@dataclass(frozen=True)
class Source:
    """One container of one pod."""

    pod: str
    container: str


@dataclass(frozen=True)
class LogLine:
    """A line, with the kubelet's time."""

    at: str
    """Of a form that sorts by time; empty if the kubelet gave none."""
    source: Source
    text: str


def sources(pods: Iterable[RawObject], only: str | None = None) -> list[Source]:
    """The containers that may have written something."""
    found = []
    for pod in sorted(pods, key=lambda pod: str(pod["metadata"]["name"])):
        spec = pod.get("spec") or {}
        names = [str(one.get("name")) for one in [*(spec.get("initContainers") or []), *(spec.get("containers") or [])]]
        wanted = [name for name in names if (name == only if only else name in CONTAINERS)]
        found += [Source(str(pod["metadata"]["name"]), name) for name in wanted]
    return found


def parsed(source: Source, line: str) -> LogLine:
    """A line with a timestamp in front, as the API server gives it."""
    found = STAMP.match(line)
    if found is None:
        return LogLine("", source, line)
    seconds, fraction, zone, text = found.groups()
    # A kubelet writes in the time zone of its node.
    moment = datetime.fromisoformat(f"{seconds}{zone}").astimezone(UTC)
    return LogLine(f"{moment:%Y-%m-%dT%H:%M:%S}.{(fraction or '0'):0<9}Z", source, text)


def merged(logs: Iterable[Iterable[LogLine]]) -> Iterator[LogLine]:
    """By time. A line without one follows the line before it in its container."""
    return heapq.merge(*(_with_times(log) for log in logs), key=lambda line: line.at)


def _with_times(log: Iterable[LogLine]) -> Iterator[LogLine]:
    last = ""
    for line in log:
        last = max(line.at, last)
        yield LogLine(last, line.source, line.text)


def seconds_of(since: str) -> int:
    """`90s`, `5m`, `2h`, `1h30m`. Raises UsageError."""
    found = AGE.fullmatch(since)
    hours, minutes, seconds = (int(part or 0) for part in found.groups()) if found else (0, 0, 0)
    total = int(timedelta(hours=hours, minutes=minutes, seconds=seconds).total_seconds())
    if not total:
        raise UsageError(f"--since={since} is no age: write 90s, 5m, 2h or 1h30m")
    return total


class Follower:
    """Reads the logs of all sources at once, each in a thread of its own, also of those that appear later."""

    def __init__(self, read: Callable[[Source], Iterator[LogLine]]) -> None:
        self._read = read
        self._lines: queue.SimpleQueue[LogLine | CommandError] = queue.SimpleQueue()
        self._known: set[Source] = set()
        self.ended: set[Source] = set()
        """Those whose container has ended, or that has not started yet: `follow` takes them up again."""

    def follow(self, found: Iterable[Source]) -> None:
        """Start to read those that are not read yet."""
        for source in found:
            if source not in self._known or source in self.ended:
                self._known.add(source)
                self.ended.discard(source)
                threading.Thread(target=self._run, args=(source,), daemon=True).start()

    def _run(self, source: Source) -> None:
        try:
            for line in self._read(source):
                self._lines.put(line)
        except CommandError as error:
            self._lines.put(error)
        finally:
            self.ended.add(source)

    def lines(self, seconds: float) -> Iterator[LogLine | CommandError]:
        """What came, until nothing comes for so many seconds."""
        while True:
            try:
                yield self._lines.get(timeout=seconds)
            except queue.Empty:
                return
