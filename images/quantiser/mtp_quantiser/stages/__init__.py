"""The stages of quantising a batch of experts, and what each takes and gives.

Two implementations: `plain` in torch operators, for a CPU and for small cases, and `fused` with the Triton kernels, for
one GPU. They differ in rounding of the last bit, never in method.

Shapes: B experts, C input columns, R output rows, G = C/128 groups, n tokens of all experts of the batch.
"""

from dataclasses import dataclass
from typing import Protocol

import torch

GROUP = 128
"""Weights that share a scale, along a row."""


@dataclass(frozen=True)
class ScaleGrid:
    """Factors on absmax/7.5 among which the scale is searched: coarse from the top down, then fine around the best.

    A scale above absmax/7.5 is worth a try because the code range is -8..7; fourteen tries
    come within 0.5 % of the error of 161 (docs/quantiser.md).
    """

    top: float = 1.06
    coarse: int = 12
    coarse_step: float = 0.04
    fine: int = 2
    fine_step: float = 0.02


@dataclass(frozen=True)
class Factor:
    """P^T H P + damping = L L^T, P the order in which columns are kept; the sweep starts with the last."""

    lower: torch.Tensor
    """[B, C, C] L. Above the blocks of 128 on its diagonal the values are undefined."""
    blocks: torch.Tensor
    """[B, C/128, 128, 128] FP32: those blocks, exact."""
    failed: torch.Tensor
    """[B] int32: not 0 where H was not positive definite even so."""


@dataclass(frozen=True)
class Swept:
    codes: torch.Tensor
    """[B, C, R] int8, -8..7."""
    loss: torch.Tensor
    """[B, R] FP32: tr(d H' d^T) of each row, H' the damped Hessian, as the sweep sums it up."""


class Stages(Protocol):
    """What the pipeline asks of an implementation. Tensors stay on the device they came on."""

    def dequantise_into(self, packed: torch.Tensor, exponents: torch.Tensor, out: torch.Tensor, first: int) -> None:
        """Rows of FP4 `packed` [B, r, C/2], E8M0 `exponents` [B, r, C/32], both uint8, to BF16 out[:, :, first:]."""

    def gram(self, x: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
        """H [B, C, C] FP32 = X^T X of the rows offsets[b] to offsets[b+1] of `x` [n, C] BF16; offsets int32 [B+1]."""

    def gate_into(self, both: torch.Tensor, route: torch.Tensor, limit: float, out: torch.Tensor) -> None:
        """BF16 `out` [n, I] = route * silu(min(gate, limit)) * clamp(up, -limit, limit) of `both` [n, 2I] BF16."""

    def factorise(self, h: torch.Tensor, order: torch.Tensor, damping: torch.Tensor) -> Factor:
        """Factor of `h` [B, C, C] FP32 in column order `order` [B, C] int32, `damping` [B] FP32 on the diagonal."""

    def search_scales(self, weights: torch.Tensor, importance: torch.Tensor, grid: ScaleGrid) -> torch.Tensor:
        """Scales [B, G, R] BF16 for `weights` [B, C, R] BF16 by the error weighted with `importance` [B, C] FP32."""

    def sweep(self, weights: torch.Tensor, scales: torch.Tensor, factor: Factor, order: torch.Tensor) -> Swept:
        """GPTQ of `weights` [B, C, R] BF16 with these `scales` [B, G, R] BF16."""

    def pack(self, codes: torch.Tensor) -> torch.Tensor:
        """Words [B, R, C/8] int32 of `codes` [B, C, R] int8."""
