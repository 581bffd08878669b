"""Quantises all experts on the device, from device memory to device memory."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from mtp_quantiser.batch import Experts, QuantiserSettings, calibrate, quantise_experts
from mtp_quantiser.routing import RoutingTable, Tokens
from mtp_quantiser.stages import Stages


@dataclass(frozen=True)
class Packed:
    """Matrices of a batch of experts as pack-quantized stores them."""

    words: Tensor
    """int32 [B, out, in/8]."""
    scales: Tensor
    """BF16 [B, out, in/128]."""

    @classmethod
    def of(cls, stages: Stages, codes: Tensor, scales: Tensor) -> "Packed":
        """From `codes` [B, in, out] and `scales` [B, in/128, out]."""
        return cls(stages.pack(codes), scales.mT.contiguous())


@dataclass(frozen=True)
class PackedExperts:
    """One entry per batch; gate and up are side by side along out."""

    gate_up: tuple[Packed, ...]
    down: tuple[Packed, ...]
    failed: Tensor
    """int32 [experts, 2]: not 0 where a factorisation failed, of gate and up, and of down."""

    def tensors(self) -> Iterator[Tensor]:
        for packed in (*self.gate_up, *self.down):
            yield packed.words
            yield packed.scales


def batches(experts: int, size: int) -> Iterator[slice]:
    for first in range(0, experts, size):
        yield slice(first, min(first + size, experts))


def quantise_on_device(
    stages: Stages, experts: Experts, table: RoutingTable, tokens: Tokens, settings: QuantiserSettings, size: int
) -> PackedExperts:
    """Works in batches of `size` experts; the host does not wait for the device until everything is queued."""
    gate_up, down, failed = [], [], []
    for some in batches(len(table.bounds) - 1, size):
        known = calibrate(stages, experts[some], table.batch(some, tokens), settings)
        done = quantise_experts(stages, experts[some], known, settings)
        gate_up.append(Packed.of(stages, done.gate_up.codes, done.gate_up.scales))
        down.append(Packed.of(stages, done.down.codes, done.down.scales))
        failed.append(torch.stack([done.gate_up.failed, done.down.failed], dim=1))
        del known, done
    return PackedExperts(tuple(gate_up), tuple(down), torch.cat(failed))
