"""Any log gives a reason of the exit: one short line, without secrets, and quickly."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flash_contracts.engine_record import EngineExit
from flash_engine.engine_log.cause import CAUSE_LIMIT
from flash_engine.gate.exit_reason import explain_exit
from flash_engine.launcher.log_tail import LINE_LIMIT, LogTail

PIECES = (
    "(EngineCore pid=7) ", "(Worker_TP1 pid=8) ", "(APIServer pid=1) ", "[rank1]:", "\x1b[31m", "\r", "  ", "\n",
    "ERROR 01-12 10:00:00 [core.py:1] ", "WARNING 13-77 99:00:00 [a.py:1] ", "INFO 01-12 10:09:00 [b.py:1] ",
    "[E802 22:07:03.84 ProcessGroupNCCL.cpp:2119] ", "INFO:     ", "ERROR:    Exception in ASGI application",
    "node:1:1 [0] NCCL WARN ", "Traceback (most recent call last):", '  File "/x.py", line 3, in f', "KeyError: 'x'",
    "AssertionError", "Last error:", "terminate called after throwing an instance of 'x'", "  what():  y",
    "!!!!!!! Segfault encountered !!!!!!!", "Current thread 0x7 (most recent call first):", "CUDA out of memory",
    "RuntimeError: Ninja build failed", "died unexpectedly", "1 validation error for X",
    "  Value error, z [type=value_error]", "The above exception was the direct cause of",
    "See root cause above. Failed core proc(s): {'a': -99}", "exit code: -11", "ncclSystemError: w", "(0/0 GiB)",
    "estimated maximum model length is 99999999999999999999", "less than desired GPU memory utilization (9/0 GiB)",
    "hf_token=abcdef123", "Received request a: prompt: 'b'", "UserWarning: CUDA initialization: c", "\x00", "\xff", "'",
    '"', "[", ": ",
)  # fmt: skip
LOGS = st.lists(
    st.one_of(st.sampled_from(PIECES), st.text("ab:=[]()\t\x1b\N{EURO SIGN}", max_size=12)), max_size=60
).map("".join)


def explained(log: str, chunks: int, code: int | None, signal: str | None) -> tuple[str, tuple[str, ...]]:
    """The message, and the lines that were kept."""
    tail, raw = LogTail(), log.encode("utf-8", errors="surrogatepass")
    size = max(1, len(raw) // chunks)
    for begin in range(0, len(raw), size):
        tail.feed(1 + begin % 2, raw[begin : begin + size])
    _, message = explain_exit(EngineExit(code, signal, "", tail.kept(), tail.stale()), 1)
    return message, tail.kept()


def is_short(explained: tuple[str, tuple[str, ...]]) -> bool:
    """One line, and no line that was kept is long."""
    message, kept = explained
    is_one_line = "\n" not in message and len(message) < CAUSE_LIMIT + 900
    return is_one_line and all(len(line) <= LINE_LIMIT + 100 for line in kept)


@given(
    LOGS, st.integers(1, 9), st.sampled_from((None, 0, 1, 137)), st.sampled_from((None, "SIGKILL", "SIGSEGV", "SIGBUS"))
)
@settings(max_examples=25, deadline=None)
def test_any_log_gives_a_reason(log: str, chunks: int, code: int | None, signal: str | None) -> None:
    assert is_short(explained(log, chunks, code, signal))


@pytest.mark.long
@given(
    LOGS, st.integers(1, 9), st.sampled_from((None, 0, 1, 137)), st.sampled_from((None, "SIGKILL", "SIGSEGV", "SIGBUS"))
)
@settings(max_examples=10_000, deadline=None)
def test_any_of_ten_thousand_logs_gives_a_reason(log: str, chunks: int, code: int | None, signal: str | None) -> None:
    assert is_short(explained(log, chunks, code, signal))


@pytest.mark.parametrize(
    "piece", ["shm ", "-a", "Error: ", "process ", "x.y-", "prompt: ", "Try. ", "\x1b[", 'File "', "a="]
)
def test_a_hostile_line_is_read_quickly(piece: str) -> None:
    """A pattern that backtracks would block the engine's output, which the launcher passes on."""
    tail, line = LogTail(), (f"ERROR 01-12 10:00:00 [core.py:1] {piece * LINE_LIMIT}"[:LINE_LIMIT] + "\n").encode()
    began = time.process_time()
    tail.feed(1, line)
    explain_exit(EngineExit(1, None, "", tail.kept()), 1)
    assert time.process_time() - began < 1
