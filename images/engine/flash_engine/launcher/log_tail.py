"""Keeps the parts of an engine's log that its exit record needs: the last lines, and possible causes.

vLLM logs the cause of a failed start hundreds of lines before its exit, because each of its processes reports the death
of its child, each request fails, and native code prints stacks. So lines are kept according to their value as evidence
(`flash_engine.engine_log`), and consequences cannot displace their cause. Secrets and users' text are left out.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from flash_contracts.redaction import redact
from flash_engine.engine_log.cause import EPISODE_SECONDS
from flash_engine.engine_log.frames import CURRENT_THREAD
from flash_engine.engine_log.kinds import CRASHES
from flash_engine.engine_log.reader import CHAIN, Level, Reader, Reading
from flash_engine.engine_log.user_text import without_user_text

KEPT_LINES = 30
KEPT_FRAMES = 8
LINE_LIMIT = 2000

FIRST_KEPT, LAST_KEPT = 4, 4
"""How many first and last lines to keep of each kind of evidence. The first is most likely the cause; the last ones
matter if the engine survived earlier errors."""

LINES_BELOW = {Level.ROOT: 5, Level.WRAPPER: 8, Level.EXPLANATION: 2, Level.SILENT_DEATH: 1}
"""How many following lines are kept with one: a wrapper is followed by what it wraps."""
LINES_BELOW_CRASH = 16
"""The stack of a native crash shows where it happened."""
LINES_BELOW_THREAD = 3
"""For the thread that crashed, which may be listed after dozens of others."""
LINES_ABOVE = 3
"""A traceback's last frame is above its exception."""


@dataclass(frozen=True)
class KeptLine:
    """A line of the record."""

    number: int
    at: float
    """When it arrived, by the launcher's clock."""
    text: str


@dataclass
class _KeptOfKind:
    """The first and last lines of one kind, from one type of process."""

    first: list[list[KeptLine]] = field(default_factory=list)
    last: deque[list[KeptLine]] = field(default_factory=lambda: deque(maxlen=LAST_KEPT))

    def add(self, group: list[KeptLine], now: float) -> None:
        self.first = [kept for kept in self.first if now - kept[-1].at <= EPISODE_SECONDS]
        if len(self.first) < FIRST_KEPT:
            self.first.append(group)
        else:
            self.last.append(group)


class LogTail:
    """Takes chunks of one or more streams, split at any byte."""

    def __init__(self, secrets: Sequence[str] = (), clock: Callable[[], float] = time.monotonic) -> None:
        """`secrets`: values that no kept line may contain."""
        self._secrets = tuple(secrets)
        self._clock = clock
        self._reader = Reader()
        self._lines: deque[KeptLine] = deque(maxlen=KEPT_LINES)
        self._frames: deque[KeptLine] = deque(maxlen=KEPT_FRAMES)
        self._evidence: dict[tuple[str, str, str], _KeptOfKind] = {}
        self._open: tuple[list[KeptLine], int] = ([], 0)
        """The latest evidence, and how many more lines belong to it."""
        self._unfinished: dict[int, bytes] = {}
        self._count = 0

    def feed(self, stream: int, chunk: bytes) -> list[str]:
        """Returns completed lines and the current state of a progress bar, without secrets and users' text."""
        *whole, rest = (self._unfinished.get(stream, b"") + chunk).split(b"\n")
        texts = [self._keep(_text(line)) for line in whole]
        # A progress bar has no newline until the weights are loaded.
        self._unfinished[stream] = _visible(rest)[:LINE_LIMIT]
        bar = [redact(_text(rest), self._secrets)] if b"\r" in rest else []
        return [text for text in (*texts, *bar) if text]

    def kept(self) -> tuple[str, ...]:
        """The last lines and the evidence, in order."""
        return tuple(line.text for line in self._kept())

    def stale(self) -> int:
        """How many of the first kept lines are too old to show why the engine exits now."""
        now = self._clock()
        return sum(now - line.at > EPISODE_SECONDS for line in self._kept())

    def _kept(self) -> list[KeptLine]:
        for line in self._unfinished.values():
            self._keep(_text(line))
        self._unfinished.clear()
        groups = [group for bucket in self._evidence.values() for group in (*bucket.first, *bucket.last)]
        kept = [*self._lines, *self._frames, *(line for group in groups for line in group)]
        return [line for _, line in sorted({line.number: line for line in kept}.items())]

    def _keep(self, raw: str) -> str:
        """Returns the line without secrets and users' text."""
        if not raw:
            return ""
        reading = self._reader.read(raw)
        self._count += 1
        text = redact(without_user_text(raw, reading.line, of_a_request=reading.level is Level.REQUEST), self._secrets)
        line = KeptLine(self._count, self._clock(), text)
        self._file(line, reading)
        return text

    def _file(self, line: KeptLine, reading: Reading) -> None:
        below = LINES_BELOW.get(reading.level, 0)
        group, left = self._open
        if reading.level is Level.ROUTINE and CHAIN.match(reading.line.text):
            self._kept_of("chain", reading).add([line], line.at)
        elif reading.line.text.startswith(CURRENT_THREAD):
            self._open = ([line], LINES_BELOW_THREAD)
            self._kept_of("thread", reading).add(self._open[0], line.at)
        elif below or reading.level in (Level.CONSEQUENCE, Level.SECONDARY):
            self._open_group(line, reading, below)
        elif left > 0 and reading.level is not Level.REQUEST:
            group.append(line)
            self._open = (group, left - 1)
        if reading.level is Level.FRAME:
            self._frames.append(line)
        elif reading.level <= Level.REQUEST or below == 0:
            self._lines.append(line)

    def _open_group(self, line: KeptLine, reading: Reading, below: int) -> None:
        above = [frame for frame in self._frames if line.number - frame.number <= LINES_ABOVE]
        above += [other for other in self._lines if line.number - other.number < LINES_ABOVE]
        group = [*sorted(above, key=lambda kept: kept.number), line] if below else [line]
        self._kept_of(reading.kind.name, reading).add(group, line.at)
        is_crash = reading.kind in CRASHES
        self._open = (group, LINES_BELOW_CRASH if is_crash else below) if below else self._open

    def _kept_of(self, kind: str, reading: Reading) -> _KeptOfKind:
        """The space reserved for a kind of evidence. Users can invent process names, so only four types count."""
        process = reading.line.process.lower()
        process_type = next((known for known in ("worker", "rank", "engine", "api") if known in process), "")
        return self._evidence.setdefault((reading.level.name, kind, process_type), _KeptOfKind())


def _text(line: bytes) -> str:
    return _visible(line).decode(errors="replace").rstrip()[:LINE_LIMIT]


def _visible(line: bytes) -> bytes:
    """What a terminal shows: a carriage return overwrites the line."""
    return line.rstrip(b"\r").rpartition(b"\r")[2]
