"""Parses a log line: the process that wrote it, its level, its time and its text.

vLLM, torch, NCCL and uvicorn each have their own prefix, and vLLM puts that of the process in front of it:

    (Worker_TP1 pid=356) ERROR 07-04 17:35:16 [multiproc_executor.py:140] KeyError: 'model.layers.43'
    [rank1]:[E802 22:07:03.844033572 ProcessGroupNCCL.cpp:2119] [PG ID 2 PG GUID 3 Rank 1] Process group watchdog ...
    node-a:5254:5254 [3] misc/shmutils.cc:72 NCCL WARN Error while creating shared memory segment
    INFO:     127.0.0.1:41822 - "POST /v1/chat/completions HTTP/1.1" 200 OK
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime

_COLOUR = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_ISO = re.compile(
    r"\[?(?P<iso>\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d)(?:[.,:]\d+)?(?:Z|[+-]\d\d:?\d\d)?\]?(?: (?:stdout|stderr) [FP])?\s+"
)
_PROCESS = re.compile(r"\((?P<process>[A-Za-z][\w.-]*(?: rank=\d+)?)(?:[ ,][^()]*)?\)\s?")
"""`(EngineCore_DP0 pid=7)`, `(VllmWorker rank=1 pid=7)`, `(RayWorkerWrapper pid=7, ip=10.0.0.2)`, `(Worker_TP0)`."""
_NAMES_A_PROCESS = re.compile(r"pid=|^(?:vllm)?(?:ray)?(?:worker|engine|api_?server)", re.IGNORECASE)
_WORKER = re.compile(r"(?:rank|[Ww]orker).*?(\d+)$")
_RANK = re.compile(r"\[(?P<rank>rank\d+)\]:\s?")
_VLLM = re.compile(
    r"(?P<level>DEBUG|INFO|WARNING|ERROR|CRITICAL) (?P<month>\d\d)-(?P<day>\d\d) (?P<time>\d\d:\d\d:\d\d)(?:[.,]\d+)? "
    r"\[(?P<source>[^\]\s]*?)(?::\d+)?\]\s?"
)
_GLOG = re.compile(
    r"\[?(?P<letter>[IWEF])(?P<month>\d{1,2})(?P<day>\d\d) (?P<time>\d\d:\d\d:\d\d)\.\d+ (?:\d+ )?"
    r"(?P<source>[^\]\s]*?):\d+\]\s?"
)
_UVICORN = re.compile(r"(?P<level>DEBUG|INFO|WARNING|ERROR|CRITICAL):\s+")
_NCCL = re.compile(r"[^\s:]+:\d+:\d+ \[\d+\] (?:\S+:\d+ )?NCCL (?P<letter>INFO|WARN|ERROR)\s+")
_GROUPS = re.compile(r"(?:\[(?:PG |Rank |\d+/\d+)[^\]]*\]\s*)+")
_LETTERS = {"I": "INFO", "W": "WARNING", "E": "ERROR", "F": "CRITICAL", "WARN": "WARNING"}


@dataclass(frozen=True)
class LogLine:
    """One line of an engine's output."""

    text: str
    """Without colours, prefixes and surrounding blanks."""
    process: str = ""
    """`Worker_TP0`, `EngineCore`, `APIServer` or `rank1`; empty if the line names none."""
    level: str = ""
    """DEBUG to CRITICAL. Empty for output that was not logged, such as a traceback or a crash."""
    source: str = ""
    """The file that logged it."""
    seconds: float | None = None
    """Its own time, in seconds of a year: vLLM logs no year. None if it has none."""
    is_indented: bool = False

    @property
    def who(self) -> str:
        """One name for all names of a process: `rank1` is Worker_TP1, and `VllmWorker-1`."""
        rank = _WORKER.search(self.process)
        return f"rank{rank[1]}" if rank else self.process


def read_line(raw: str) -> LogLine:
    """Only the outermost prefix of each kind counts: the text after it may be a user's."""
    whole = _COLOUR.sub("", raw)
    rest = whole.lstrip()
    found: dict[str, str] = {}
    for pattern in (_ISO, _PROCESS, _RANK, _ISO, _VLLM, _GLOG, _UVICORN, _NCCL):
        match = pattern.match(rest)
        if match is None or (pattern is _PROCESS and not _NAMES_A_PROCESS.search(match[0].strip("() "))):
            continue
        if pattern in (_UVICORN, _NCCL) and "source" in found:
            break
        found = {**match.groupdict(), **found}
        rest = rest[match.end() :]
    if "rank" in found or "letter" in found:
        rest = rest[match.end() :] if (match := _GROUPS.match(rest)) else rest
    return LogLine(
        text=rest.strip(),
        process=found.get("process") or found.get("rank", ""),
        level=found.get("level") or _LETTERS.get(found.get("letter", ""), found.get("letter", "")),
        source=found.get("source", ""),
        seconds=_seconds(found),
        is_indented=(rest if found else whole)[:1] in (" ", "\t"),
    )


def _seconds(found: dict[str, str]) -> float | None:
    try:
        if "time" in found:
            at = datetime.fromisoformat(f"2000-{int(found['month']):02}-{int(found['day']):02}T{found['time']}")
        elif "iso" in found:
            at = datetime.fromisoformat(found["iso"]).replace(year=2000)
        else:
            return None
    except ValueError:
        return None
    return at.replace(tzinfo=UTC).timestamp()


YEAR_SECONDS = 366 * 86400.0


def elapsed(since: float, until: float) -> float:
    """Seconds from one line's time to another's, which may be in the next year. Negative if `until` is earlier."""
    seconds = until - since
    if seconds < -YEAR_SECONDS / 2:
        return seconds + YEAR_SECONDS
    return seconds - YEAR_SECONDS if seconds > YEAR_SECONDS / 2 else seconds
