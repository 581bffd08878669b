"""The report: a small JSON document for the pod's termination message, and a table for people."""

import contextlib
import hashlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flash_contracts.p2p_report import P2pReport
from flash_engine.p2p_test.outcome import P2pVerdict, VariantResult, plain
from flash_engine.p2p_test.payload import TIMED_BYTES
from flash_engine.p2p_test.variants import WORLD

LIMIT = 4000
"""Bytes. The kubelet truncates a termination message at 4096, and truncated JSON is invalid."""

_DETAIL_LIMITS = (400, 200, 100, 40, 0)
_REASON_LIMIT = 700
_NAME_LIMIT = 60


@dataclass(frozen=True)
class FullReport:
    """The report with details of any length. `text` shortens them to fit."""

    verdict: P2pVerdict
    driver: str | None
    variants: Sequence[VariantResult] = ()

    @property
    def gpus(self) -> tuple[str, ...]:
        """In the order of the ranks."""
        return tuple(dict.fromkeys(gpu for variant in self.variants for gpu in variant.gpus))

    @property
    def text(self) -> str:
        """JSON of at most `LIMIT` bytes. The details of the variants are shortened until it fits."""
        texts = [self.document(limit).to_text() for limit in _DETAIL_LIMITS]
        return next((text for text in texts if len(text) <= LIMIT), texts[-1])

    def document(self, detail_limit: int) -> P2pReport:
        nccl = next((variant.nccl for variant in self.variants if variant.nccl), None)
        return P2pReport(
            verdict=self.verdict.outcome,
            reason=plain(self.verdict.reason, _REASON_LIMIT),
            schema=schema(),
            driver=_name(self.driver) if self.driver is not None else None,
            nccl=_name(nccl) if nccl is not None else None,
            gpus=tuple(_name(gpu) for gpu in self.gpus[:WORLD]),
            variants=tuple(variant.to_report(detail_limit) for variant in self.variants),
        )


def overwrite(file: Path, text: str) -> None:
    """Write in place: the file is a bind mount in a pod and cannot be replaced. Raises OSError."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT, 0o644)
    with os.fdopen(descriptor, "wb", buffering=0) as opened:
        content = text.encode()
        opened.write(content)
        # A device cannot be truncated.
        with contextlib.suppress(OSError):
            opened.truncate(len(content))


def schema(folder: Path = Path(__file__).parent) -> str:
    """Version of the test, a hash of its source: a changed test may prove something else."""
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.py")):
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return f"v1-{digest.hexdigest()[:6]}"


def _name(text: str) -> str:
    return plain(text, _NAME_LIMIT)


def table_header() -> str:
    sizes = "".join(f"{size // 1024} KiB".rjust(10) for size in TIMED_BYTES)
    return f"{'variant':<12}{'outcome':<14}{sizes}   (microseconds per all-reduce)"


def table_row(result: VariantResult) -> str:
    times = "".join(f"{_time(result, size):>10}" for size in TIMED_BYTES)
    kernel = f"   {result.kernel} kernel" if result.kernel else ""
    detail = f"\n{'':<12}{result.detail}" if result.detail else ""
    return f"{result.variant:<12}{result.outcome:<14}{times}{kernel}{detail}"


def verdict_row(verdict: P2pVerdict) -> str:
    return f"{'verdict':<12}{verdict.outcome}: {verdict.reason}"


def print_row(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201 - output for people at a terminal


def _time(result: VariantResult, size: int) -> str:
    return f"{result.micros[size]:.1f}" if size in result.micros else "-"
