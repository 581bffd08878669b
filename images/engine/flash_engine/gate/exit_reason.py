"""Which line of a dead engine's output tells why it died."""

import re
from collections.abc import Sequence

OUT_OF_MEMORY = re.compile(
    r"OutOfMemoryError|CUDA (?:error: )?out of memory|less than desired GPU memory utilization|Failed to CUDA calloc"
    r"|No available memory for the cache blocks|MemoryError\b|can(?:no|')t allocate memory",
    re.IGNORECASE,
)
"""No bare "out of memory": vLLM's advice on what to do *if* one runs out of it stands in every healthy log."""

UNSHARED_MEMORY = re.compile(r"custom_all_reduce\.cuh:\d+ '?invalid argument")
"""What vLLM's own all-reduce says of memory that PyTorch's expandable_segments gave it (vllm-project/vllm#47751)."""

_ERROR = re.compile(r"\b([A-Z][A-Za-z]*(?:Error|Exception|Exit))\b:? *(\S.*)?|^(?:error|fatal): \S", re.IGNORECASE)
_NAMED = re.compile(r"\b[A-Z][A-Za-z]*(?:Error|Exception)\b: *\S")

_CONSEQUENCES = (
    "See root cause above",
    "Engine core initialization failed",
    "WorkerProc initialization failed",
    "EngineDeadError",
    "failed core proc",
)
"""vLLM's processes each report the death of the one below; only the first report is the cause."""

_PREFIX = re.compile(r"^(?:\([^()\s]+ ?(?:pid=\d+)?\)\s*)?(?:(?:ERROR|INFO|WARNING|CRITICAL) \S+ \S+ \[[^\]]*\]\s*)?")


_PYDANTIC_COUNTS = re.compile(r"\d+ validation errors? for (\w+)$")
_PYDANTIC_TELLS = re.compile(r"^(?:Value error, |Assertion failed, )?(\S.*?) \[type=\w+")


def telling_line(lines: Sequence[str]) -> str:
    """The error that began it; without any, the last line; empty for an engine that said nothing."""
    spoken = [_bare(line) for line in lines if _bare(line)]
    known = [line for line in spoken if UNSHARED_MEMORY.search(line)]
    if known:
        return known[0]
    causes = [at for at, line in enumerate(spoken) if _NAMED.search(line) and not any(c in line for c in _CONSEQUENCES)]
    if causes:
        return _in_words(spoken[causes[-1]], spoken[causes[-1] + 1 :])
    errors = [line for line in spoken if _ERROR.search(line)]
    return (errors or spoken or [""])[-1]


def _in_words(cause: str, following: Sequence[str]) -> str:
    """Of pydantic's errors the first line only counts them and names the class; what is wrong stands below it."""
    counted = _PYDANTIC_COUNTS.search(cause)
    told = next((found[1] for line in following if (found := _PYDANTIC_TELLS.search(line))), None)
    return f"{counted[1]}: {told}" if counted and told else cause


def ran_out_of_memory(lines: Sequence[str]) -> bool:
    return any(OUT_OF_MEMORY.search(line) for line in lines)


def met_expandable_segments(lines: Sequence[str]) -> bool:
    """The processes above only report that the one below died, so the line counts wherever it stands."""
    return any(UNSHARED_MEMORY.search(line) for line in lines)


def _bare(line: str) -> str:
    """Without vLLM's process and log prefixes, which say nothing to a reader of status."""
    return _PREFIX.sub("", line).strip()
