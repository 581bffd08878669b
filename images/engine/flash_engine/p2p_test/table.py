"""The table for people, a line for each arm as it ends."""

import sys

from flash_engine.p2p_test.outcome import VariantResult, Verdict
from flash_engine.p2p_test.payload import TIMED_BYTES


def header() -> str:
    sizes = "".join(f"{_size(size):>10}" for size in TIMED_BYTES)
    return f"{'variant':<12}{'outcome':<14}{sizes}   (microseconds of one all-reduce)"


def row(result: VariantResult) -> str:
    times = "".join(f"{_time(result, size):>10}" for size in TIMED_BYTES)
    kernel = f"   {result.kernel}'s kernel" if result.kernel else ""
    detail = f"\n{'':<12}{result.detail}" if result.detail else ""
    return f"{result.variant:<12}{result.outcome:<14}{times}{kernel}{detail}"


def last_row(verdict: Verdict) -> str:
    return f"{'verdict':<12}{verdict.outcome}: {verdict.reason}"


def tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201 - it is for people at a terminal


def _size(size: int) -> str:
    return f"{size // 1024} KiB"


def _time(result: VariantResult, size: int) -> str:
    return f"{result.micros[size]:.1f}" if size in result.micros else "-"
