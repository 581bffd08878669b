"""Finds the line of an engine's log that shows why it ended.

1. Only lines of the log's last minutes count, without those about requests.
2. The first root cause that its process did not survive wins: everything after it may be a consequence.
3. A wrapper is followed to the line that it wraps, a chain of exceptions to its last, and a crash to its location.
4. Without a root cause, it is a warning that explains, a process that died silently, an error that another line should
   explain, or a report of another process's failure; otherwise the last line.
"""

import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass, replace

from flash_contracts.redaction import redact
from flash_engine.engine_log.frames import crash_site, last_frame
from flash_engine.engine_log.kinds import (
    BUS_ERROR,
    CRASHES,
    KILLED_FROM_OUTSIDE,
    NATIVE,
    PYDANTIC,
    REJECTED,
    UNKNOWN,
    Kind,
)
from flash_engine.engine_log.line import elapsed
from flash_engine.engine_log.reader import CHAIN, Level, Reader, Reading
from flash_engine.engine_log.user_text import without_quotes

EPISODE_SECONDS = 900.0
"""How long before its exit an engine may have logged the cause. NCCL's watchdog waits for ten minutes."""

SURVIVED_SECONDS, SURVIVED_UNNAMED_SECONDS = 2.0, 30.0
"""A process that still logs as usual this long after an error has survived it. The second is for lines that do not name
their process: they may come from another one."""

WRAPPED_WITHIN = 60
"""How many lines below a wrapper to search for the wrapped line. A compiler's output may come in between."""

CAUSE_LIMIT = 500

_SHUTDOWN = re.compile(
    r"[Ss]hut(?:ting)? ?down|[Tt]erminat|[Ee]xit|Waiting for|Finished server|destroy|[Aa]bort|[Cc]lean|[Ss]topp"
    r"|NCCL INFO"
    r"|No available shared memory broadcast block|\" 5\d\d "
)
_DETAIL = re.compile(r"^(?:Value error, |Assertion failed, )?(\S.*?) \[type=\w+")
_SUMMARY = re.compile(r"\d+ validation errors? for (\w+)")
_LAST_ERROR = re.compile(r"\bLast error:\s*(\S.*)?$")
_CLEANUP = re.compile(r"\b(?:AttributeError|NameError|UnboundLocalError)\b")
_ENDED_BY_SIGNAL = re.compile(r"'([\w.-]+)': -(\d{1,2})\b|(?:exit ?code|exitcode|returncode|\bcode)[:= ]+-(\d{1,2})\b")
_ADVICE = re.compile(
    r"(?:please|try|consider|see(?! (?:root cause|stack trace))|set|for more|refer|you (?:can|may)|if (?:reserved|you)"
    r"|decrease|increase|use|make sure"
    r"|search for|visit|pass|either|alternatively|note that|run with)\b",
    re.IGNORECASE,
)
_SENTENCE = re.compile(r"(?<=[.!?])\s+|,\s+(?=please\b)", re.IGNORECASE)
_ORIGIN = re.compile(r"^(?:\S+\.py:\d+: )?\w*Warning: |^what\(\):\s*|\s*\(Triggered internally at .*$")
_GROUP = re.compile(r"^\s*(?:\[(?:PG |Rank )[^\]]*\]\s*)+")


@dataclass(frozen=True)
class Cause:
    """Why an engine ended, as far as its log shows."""

    text: str
    level: Level
    kind: Kind = UNKNOWN
    advice: str = ""
    """What to do, in this product's fields. Empty if nothing is known."""

    @property
    def out_of_memory(self) -> bool:
        return self.kind.out_of_memory


def find_cause(lines: Sequence[str], stale_lines: int | None = None) -> Cause:
    """`stale_lines`: how many of the first lines were written long before the exit; None: decide by their own times."""
    reader = Reader()
    readings = [reader.read(line) for line in lines]
    recent = readings[stale_lines:] if stale_lines is not None else _last_minutes(readings)
    recent = [reading for reading in recent if reading.line.text and reading.level is not Level.REQUEST]
    at = _first_root(recent)
    return _root_cause(recent, at) if at is not None else _best_of_the_rest(recent)


def _last_minutes(readings: Sequence[Reading]) -> list[Reading]:
    times = _times(readings)
    end = next((time for time in reversed(times) if time is not None), None)
    if end is None:
        return list(readings)
    return [
        reading
        for reading, time in zip(readings, times, strict=True)
        if time is None or elapsed(time, end) <= EPISODE_SECONDS
    ]


def _times(readings: Sequence[Reading]) -> list[float | None]:
    """The time of each line. One without a time was written right after the previous one."""
    times: list[float | None] = []
    for reading in readings:
        times.append(reading.line.seconds if reading.line.seconds is not None else times[-1] if times else None)
    return times


def _first_root(readings: Sequence[Reading]) -> int | None:
    """The index of the first root cause. The API server's errors come last: most are about requests."""
    times = _times(readings)
    roots = [
        at
        for at, reading in enumerate(readings)
        if reading.level in (Level.ROOT, Level.WRAPPER) and not _survived(readings, times, at)
    ]
    return min(roots, key=lambda at: (_is_of_api_server(readings[at]), at), default=None)


def _is_of_api_server(reading: Reading) -> bool:
    return reading.kind is UNKNOWN and not reading.is_fatal and reading.line.process.lower().startswith("api")


def _survived(readings: Sequence[Reading], times: Sequence[float | None], at: int) -> bool:
    """Whether the process went on as usual after this line, so that it did not end the process."""
    error, since = readings[at], times[at]
    if error.is_fatal or since is None:
        return False
    patience = SURVIVED_SECONDS if error.line.process else SURVIVED_UNNAMED_SECONDS
    return any(
        later.line.who == error.line.who
        and later.line.level in ("INFO", "DEBUG")
        and not _SHUTDOWN.search(later.line.text)
        and (time := times[index]) is not None
        and elapsed(since, time) >= patience
        for index, later in enumerate(readings[at + 1 :], at + 1)
    )


def _root_cause(readings: Sequence[Reading], at: int) -> Cause:
    at = _end_of_chain(readings, at)
    reading = readings[at]
    if reading.kind is PYDANTIC:
        text = _with_pydantic_detail(reading.line.text, readings[at + 1 :])
        return _cause_of(replace(reading, kind=REJECTED) if REJECTED.pattern.search(text) else reading, text)
    if reading.level is Level.WRAPPER:
        wrapped = _wrapped(readings, at)
        if wrapped is not None and wrapped.kind is UNKNOWN:
            return replace(wrapped, kind=reading.kind, advice=reading.kind.remedy)
        if wrapped is not None:
            return wrapped
    if reading.kind in CRASHES:
        site = crash_site(later.line.text for later in readings[at + 1 : at + WRAPPED_WITHIN])
        header = reading.line.text.strip("!. ")
        return _cause_of(reading, f"{header} in {site}" if site else header)
    text = reading.line.text
    if ":" not in text:
        text = _with_place(readings, at)
    return _cause_of(reading, text)


def _end_of_chain(readings: Sequence[Reading], at: int) -> int:
    """Of exceptions raised from one another, the last is the most informative.

    If the first is of a known kind, the next must quote it, or it might be unrelated.
    """
    reading = readings[at]
    if reading.level is Level.WRAPPER:
        return at
    linked = False
    for index in range(at + 1, len(readings)):
        later = readings[index]
        if later.line.who != reading.line.who:
            continue
        if CHAIN.match(later.line.text):
            linked = True
        elif later.level in (Level.ROOT, Level.WRAPPER):
            quotes = reading.kind is UNKNOWN or reading.line.text in later.line.text
            if not (linked and quotes) or _CLEANUP.search(later.line.text):
                return at
            return _end_of_chain(readings, index)
    return at


def _wrapped(readings: Sequence[Reading], at: int) -> Cause | None:
    """The line that a wrapper wraps: below it, or above it for NCCL's warnings and a compiler's output."""
    same_line = _LAST_ERROR.search(readings[at].line.text)
    if same_line and same_line[1]:
        return _cause_of(readings[at], same_line[1])
    below = readings[at + 1 : at + WRAPPED_WITHIN]
    for index, later in enumerate(below):
        last_error = _LAST_ERROR.search(later.line.text)
        if last_error and last_error[1]:
            return _of_reading(later, last_error[1])
        if last_error:
            return next((_of_reading(next_) for next_ in below[index + 1 :] if next_.line.who == later.line.who), None)
        if later.level is Level.ROOT and (later.kind is not UNKNOWN or later.line.text.startswith("what():")):
            return _of_reading(later)
    above = [reading for reading in readings[:at] if reading.level is Level.EXPLANATION]
    return _of_reading(above[-1]) if above else None


def _of_reading(reading: Reading, text: str | None = None) -> Cause:
    return _cause_of(replace(reading, level=Level.ROOT), text or reading.line.text)


def _with_pydantic_detail(summary: str, following: Sequence[Reading]) -> str:
    """Pydantic's first line has only the class and the number of errors; the lines below have the first error."""
    name = _SUMMARY.search(summary)
    detail = next((found[1] for later in following if (found := _DETAIL.search(later.line.text))), None)
    return f"{name[1]}: {detail}" if name and detail else summary


def _with_place(readings: Sequence[Reading], at: int) -> str:
    """Add the location in the program to an exception without a message."""
    who = readings[at].line.who
    above = [reading.line.text for reading in readings[max(0, at - 8) : at] if reading.line.who == who]
    place, code = last_frame(above), above[-1] if above else ""
    text = f"{readings[at].line.text} in {place}" if place else readings[at].line.text
    return f"{text}: {code}" if place and code.startswith(("assert ", "raise ")) else text


def _best_of_the_rest(readings: Sequence[Reading]) -> Cause:
    for level in (Level.EXPLANATION, Level.SILENT_DEATH, Level.SECONDARY, Level.CONSEQUENCE):
        found = [at for at, reading in enumerate(readings) if reading.level is level]
        if found:
            reading = readings[found[-1] if level in (Level.EXPLANATION, Level.SECONDARY) else found[0]]
            return _with_signal(_cause_of(reading, reading.line.text), readings)
    others = [reading for reading in readings if reading.level is not Level.FRAME] or readings
    return _cause_of(others[-1], others[-1].line.text) if others else Cause("", Level.ROUTINE)


def _with_signal(cause: Cause, readings: Sequence[Reading]) -> Cause:
    """Add the signal that ended a process, if only its parent's report has it."""
    if cause.level not in (Level.CONSEQUENCE, Level.SILENT_DEATH):
        return cause
    ended = next((found for reading in readings if (found := _ENDED_BY_SIGNAL.search(reading.line.text))), None)
    name = _signal_name(int(ended[2] or ended[3])) if ended else ""
    if not name:
        return replace(cause, advice=KILLED_FROM_OUTSIDE) if cause.level is Level.SILENT_DEATH else cause
    text = f"{cause.text} ({ended[1] if ended and ended[1] else 'a process'} was ended by {name})"
    return replace(cause, text=text, advice=crash_advice(name) or KILLED_FROM_OUTSIDE)


def crash_advice(signal_name: str | None) -> str:
    """What to do about a process that a crash signal has ended; empty for other signals."""
    if signal_name == "SIGBUS":
        return BUS_ERROR.remedy
    return NATIVE.remedy if signal_name in ("SIGSEGV", "SIGABRT", "SIGILL", "SIGFPE") else ""


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return ""


def _cause_of(reading: Reading, text: str) -> Cause:
    shown = tidy(text)
    return Cause(shown, reading.level, reading.kind, reading.kind.advice(text))


def tidy(text: str) -> str:
    """The text to show: without origin, users' text, secrets, and vLLM's advice, which does not name our fields."""
    text = _GROUP.sub("", _ORIGIN.sub("", text.strip()).strip())
    first, *others = _SENTENCE.split(text)
    kept = [sentence for sentence in others if not _ADVICE.match(sentence)]
    text = re.sub(r"\s+(: )?", lambda found: found[1] or " ", " ".join([first, *kept]))
    text = redact(without_quotes(text))
    return text if len(text) <= CAUSE_LIMIT else f"{text[: CAUSE_LIMIT - 1]}…"
