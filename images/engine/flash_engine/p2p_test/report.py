"""The report: one small JSON document, for a termination message of at most 4096 bytes."""

import contextlib
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flash_contracts.p2p_report import P2pReport
from flash_engine.p2p_test.outcome import VariantResult, Verdict, plain
from flash_engine.p2p_test.variants import WORLD

LIMIT = 4000
"""Bytes. A kubelet cuts a termination message at 4096, and cut JSON is no JSON."""

_DETAIL_LIMITS = (400, 200, 100, 40, 0)
_REASON_LIMIT = 700
_NAME_LIMIT = 60


@dataclass(frozen=True)
class Report:
    """What the probe leaves behind."""

    verdict: Verdict
    driver: str | None
    variants: Sequence[VariantResult] = ()

    @property
    def gpus(self) -> tuple[str, ...]:
        """In the order of the ranks."""
        return tuple(dict.fromkeys(gpu for variant in self.variants for gpu in variant.gpus))

    @property
    def text(self) -> str:
        """JSON of at most LIMIT bytes; the arms' details give way."""
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
            variants=tuple(variant.reported(detail_limit) for variant in self.variants),
        )


def write_in_place(text: str, file: Path) -> None:
    """Raises OSError. The file is a bind mount in a pod, so it cannot be replaced; a device cannot be cut either."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT, 0o644)
    with os.fdopen(descriptor, "wb", buffering=0) as opened:
        content = text.encode()
        opened.write(content)
        with contextlib.suppress(OSError):
            opened.truncate(len(content))


def schema(folder: Path = Path(__file__).parent) -> str:
    """Another version of the probe is another one, since what it proves may be something else."""
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.py")):
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return f"v1-{digest.hexdigest()[:6]}"


def _name(text: str) -> str:
    return plain(text, _NAME_LIMIT)
