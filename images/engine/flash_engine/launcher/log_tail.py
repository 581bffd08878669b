"""Keeps the last lines and the last errors of an engine's log, for its exit record.

vLLM logs the cause of a failed start a hundred lines before its end, because each of its processes reports the death of
its child. So the last errors are kept separately from the last lines.
"""

import re
from collections import deque

KEPT_LINES = 30
KEPT_ERRORS = 20
LINE_LIMIT = 2000

ERROR = re.compile(rb"\w(?:Error|Exception)\b: *\S|Cuda error /")
"""The second form is how vLLM's own kernels abort: `Failed: Cuda error FILE:LINE 'what'`."""


class LogTail:
    """Takes chunks of one or more streams, split at any byte."""

    def __init__(self) -> None:
        self._lines: deque[tuple[int, str]] = deque(maxlen=KEPT_LINES)
        self._errors: deque[tuple[int, str]] = deque(maxlen=KEPT_ERRORS)
        self._unfinished: dict[int, bytes] = {}
        self._count = 0

    def feed(self, stream: int, chunk: bytes) -> list[str]:
        """Returns the completed lines, and the current state of a progress bar."""
        *whole, rest = (self._unfinished.get(stream, b"") + chunk).split(b"\n")
        texts = [_text(line) for line in whole]
        for line, text in zip(whole, texts, strict=True):
            self._keep(line, text)
        # A progress bar has no newline until the weights are loaded.
        self._unfinished[stream] = _visible(rest)[:LINE_LIMIT]
        bar = [_text(rest)] if b"\r" in rest else []
        return [text for text in (*texts, *bar) if text]

    def kept(self) -> tuple[str, ...]:
        """The last lines and the last errors, in order."""
        for line in self._unfinished.values():
            self._keep(line, _text(line))
        self._unfinished.clear()
        return tuple(line for _, line in sorted([*self._errors, *self._lines]))

    def _keep(self, line: bytes, text: str) -> None:
        if text:
            self._count += 1
            kept = self._errors if ERROR.search(line) else self._lines
            kept.append((self._count, text))


def _text(line: bytes) -> str:
    return _visible(line).decode(errors="replace").rstrip()[:LINE_LIMIT]


def _visible(line: bytes) -> bytes:
    """What a terminal shows: a carriage return overwrites the line."""
    return line.rstrip(b"\r").rpartition(b"\r")[2]
