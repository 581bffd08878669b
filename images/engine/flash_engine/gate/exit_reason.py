"""Finds the line in the last output of an exited engine that shows why it exited."""

import re
from collections.abc import Sequence

OUT_OF_MEMORY = re.compile(
    r"OutOfMemoryError|CUDA (?:error: )?out of memory|less than desired GPU memory utilization|Failed to CUDA calloc"
    r"|No available memory for the cache blocks|MemoryError\b|can(?:no|')t allocate memory",
    re.IGNORECASE,
)
"""Not just "out of memory": every healthy log has vLLM's advice on what to do *if* memory runs out."""

UNSHARED_MEMORY = re.compile(r"custom_all_reduce\.cuh:\d+ '?invalid argument")
"""The error of vLLM's custom all-reduce for memory from PyTorch's expandable_segments (vllm-project/vllm#47751)."""

_ERROR = re.compile(r"\b([A-Z][A-Za-z]*(?:Error|Exception|Exit))\b:? *(\S.*)?|^(?:error|fatal): \S", re.IGNORECASE)
_NAMED = re.compile(r"\b[A-Z][A-Za-z]*(?:Error|Exception)\b: *\S")

_CONSEQUENCES = (
    "See root cause above",
    "Engine core initialization failed",
    "WorkerProc initialization failed",
    "EngineDeadError",
    "failed core proc",
)
"""Each of vLLM's processes reports the exit of the one below it. Only the first report is the cause."""

_PREFIX = re.compile(r"^(?:\([^()\s]+ ?(?:pid=\d+)?\)\s*)?(?:(?:ERROR|INFO|WARNING|CRITICAL) \S+ \S+ \[[^\]]*\]\s*)?")


_PYDANTIC_SUMMARY = re.compile(r"\d+ validation errors? for (\w+)$")
_PYDANTIC_DETAIL = re.compile(r"^(?:Value error, |Assertion failed, )?(\S.*?) \[type=\w+")


def cause_line(lines: Sequence[str]) -> str:
    """The error that caused the exit; the last line if there is no error; empty if there is no output."""
    output = [_bare(line) for line in lines if _bare(line)]
    known = [line for line in output if UNSHARED_MEMORY.search(line)]
    if known:
        return known[0]
    causes = [at for at, line in enumerate(output) if _NAMED.search(line) and not any(c in line for c in _CONSEQUENCES)]
    if causes:
        return _with_pydantic_detail(output[causes[-1]], output[causes[-1] + 1 :])
    errors = [line for line in output if _ERROR.search(line)]
    return (errors or output or [""])[-1]


def _with_pydantic_detail(cause: str, following: Sequence[str]) -> str:
    """Pydantic's first line only has the class and the number of errors; the lines below have the first error."""
    summary = _PYDANTIC_SUMMARY.search(cause)
    detail = next((found[1] for line in following if (found := _PYDANTIC_DETAIL.search(line))), None)
    return f"{summary[1]}: {detail}" if summary and detail else cause


def ran_out_of_memory(lines: Sequence[str]) -> bool:
    return any(OUT_OF_MEMORY.search(line) for line in lines)


def met_expandable_segments(lines: Sequence[str]) -> bool:
    """The line counts anywhere in the output: the processes above only report the exit of the one below."""
    return any(UNSHARED_MEMORY.search(line) for line in lines)


def _bare(line: str) -> str:
    """Without vLLM's process and log prefixes, which are noise in status."""
    return _PREFIX.sub("", line).strip()
