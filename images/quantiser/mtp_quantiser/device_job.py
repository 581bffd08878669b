"""Quantises all experts on the device, from device memory to device memory."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

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
    """int32 [experts, 2]: not 0 if a factorisation failed, of gate and up, and of down."""

    def tensors(self) -> Iterator[Tensor]:
        for packed in (*self.gate_up, *self.down):
            yield packed.words
            yield packed.scales


TOKENS_FOR_EACH: Final = 12_500
"""The most tokens per expert in a batch, on average. A token takes 12 KiB and the matrices of an expert 0.3 GiB, so 64
experts stay below 30 GiB, whichever of them the router prefers."""


def batches(counts: Sequence[int], size: int) -> Iterator[slice]:
    """Split the experts into consecutive batches of at most `size`, and of at most the tokens for `size` experts.

    A batch has at least one expert. `counts` are the tokens of each expert.
    """
    begin = tokens = 0
    for expert, count in enumerate(counts):
        if expert > begin and (expert - begin == size or tokens + count > size * TOKENS_FOR_EACH):
            yield slice(begin, expert)
            begin, tokens = expert, 0
        tokens += count
    if counts:
        yield slice(begin, len(counts))


def quantise_on_device(
    stages: Stages,
    experts: Experts,
    table: RoutingTable,
    tokens: Tokens,
    settings: QuantiserSettings,
    size: int,
) -> PackedExperts:
    """Quantise in batches of up to `size` experts. The host does not wait for the device until everything is queued."""
    gate_up, down, failed = [], [], []
    for some in batches(table.counts, size):
        known = calibrate(stages, experts[some], table.batch(some, tokens), settings)
        done = quantise_experts(stages, experts[some], known, settings)
        gate_up.append(Packed.of(stages, done.gate_up.codes, done.gate_up.scales))
        down.append(Packed.of(stages, done.down.codes, done.down.scales))
        failed.append(torch.stack([done.gate_up.failed, done.down.failed], dim=1))
        del known, done
    return PackedExperts(tuple(gate_up), tuple(down), torch.cat(failed))
