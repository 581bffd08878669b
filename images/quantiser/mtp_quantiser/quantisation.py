"""Runs one quantisation: reads the official checkpoint, and writes shard, manifest and report."""

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from mtp_quantiser import job, report, shard
from mtp_quantiser.batch import QuantiserSettings
from mtp_quantiser.captures import Capture
from mtp_quantiser.console import print_line, progress, step
from mtp_quantiser.disk_space import bytes_to_write, require_disk_space
from mtp_quantiser.errors import QuantiserError
from mtp_quantiser.expert_store import ExpertStore
from mtp_quantiser.official import OfficialMtp
from mtp_quantiser.stages import Stages
from mtp_quantiser.stages.plain import PlainStages

GPU_BATCH: Final = 64
CPU_BATCH: Final = 4
WORK: Final = ".mtp-work"


@dataclass(frozen=True)
class Quantisation:
    """Inputs and output. `device` is auto, cuda or cpu."""

    source: Path
    capture: Path | None
    """If None, every matrix is rounded to nearest."""
    out: Path
    device: str = "auto"
    batch: int | None = None
    source_name: str | None = None
    """The source as the user gave it, for the report; None for the folder."""

    def run(self, *, restart: bool = False) -> dict[str, Any]:
        """Run it and return the report as data. Resumes an interrupted run unless `restart`. Raises QuantiserError.

        No other process may write to `out` meanwhile.
        """
        began = time.monotonic()
        official = OfficialMtp.open(self.source)
        require_disk_space(self.out, bytes_to_write(official.shape))
        manifest, device = self._made(official, restart=restart)
        names = {"source": self.source_name or str(self.source), "capture": str(self.capture) if self.capture else None}
        document = report.document_of(manifest, names, device, time.monotonic() - began)
        with step("writing the report"):
            report.write(self.out, document)
            shutil.rmtree(self.out / WORK)
        return document

    def _made(self, official: OfficialMtp, *, restart: bool) -> tuple[dict[str, Any], str]:
        """The manifest of the finished shard, and the device's name. Unusable inputs are refused before any work."""
        machine = device_context(self.device)
        settings = QuantiserSettings(limit=official.shape.limit)
        captured, inputs = self._calibration(official, machine.device)
        made_from = job.made_from(official, captured, settings)
        store = ExpertStore.open(self.out / WORK, made_from, restart=restart)
        size = self.batch or (GPU_BATCH if machine.device.type == "cuda" else CPU_BATCH)
        finished = job.run(official, inputs, store, machine, settings, size)
        for _ in progress(finished, "quantising", official.shape.experts, "experts"):
            pass
        with step("writing"):
            return shard.assemble(official, store, self.out, made_from), device_name(machine.device)

    def _calibration(self, official: OfficialMtp, device: torch.device) -> tuple[Capture | None, job.Inputs | None]:
        if self.capture is None:
            return None, None
        captured = Capture.open(self.capture, official.shape)
        captured.require_router(official.router_digest())
        with step(f"reading {captured.tokens:,} tokens"):
            captured.require_distinct()
            return captured, job.inputs_of(official, captured, device)


def device_context(device: str) -> job.DeviceContext:
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return job.DeviceContext(torch.device("cpu"), PlainStages(), print_line)
    if not torch.cuda.is_available():
        raise QuantiserError("no GPU is visible to PyTorch; pass --device cpu, or run on a machine with a GPU")
    return job.DeviceContext(torch.device("cuda"), fused_stages(), print_line)


def fused_stages() -> Stages:
    from mtp_quantiser.stages.fused import FusedStages  # noqa: PLC0415 - Triton is not needed on a CPU

    return FusedStages()


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "a CPU"
