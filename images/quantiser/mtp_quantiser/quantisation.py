"""One quantisation: reads the official checkpoint, writes shard, manifest and report."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from mtp_quantiser import job, report, shard
from mtp_quantiser.batch import QuantiserSettings
from mtp_quantiser.captures import Capture
from mtp_quantiser.console import print_line, progress, step
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

    def run(self, *, restart: bool = False) -> dict[str, Any]:
        """Returns the report as data. Resumes an interrupted run unless `restart`. Raises QuantiserError."""
        began = time.monotonic()
        official = OfficialMtp.open(self.source)
        captured = Capture.open(self.capture, official.shape) if self.capture else None
        machine = device_context(self.device)
        settings = QuantiserSettings(limit=official.shape.limit)
        made_from = job.made_from(official, captured, settings)
        store = ExpertStore.open(self.out / WORK, made_from, restart=restart)
        inputs = None
        if captured:
            with step(f"reading {captured.tokens:,} tokens"):
                inputs = job.inputs_of(official, captured, machine.device)
        size = self.batch or (GPU_BATCH if machine.device.type == "cuda" else CPU_BATCH)
        finished = job.run(official, inputs, store, machine, settings, size)
        for _ in progress(finished, "quantising", official.shape.experts, "experts"):
            pass
        with step("writing and reading back"):
            manifest = shard.assemble(official, store, self.out, made_from)
        document = report.document_of(manifest, device_name(machine.device), time.monotonic() - began)
        report.write(self.out, document)
        store.remove()
        return document


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
