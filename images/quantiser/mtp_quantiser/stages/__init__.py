"""The stages of quantising a batch of experts, with their inputs and outputs.

There are two implementations: `plain` in torch operators, for CPUs and small cases, and `fused` with Triton kernels,
for one GPU. They differ only in the rounding of the last bit, never in method.

Shapes: B experts, C input columns, R output rows, G = C/128 groups, n tokens of all experts of the batch.
"""

import functools
from dataclasses import dataclass
from typing import Protocol

import torch

GROUP = 128
"""Weights that share a scale, along a row."""


SAMPLED_PIECES = 4
"""Number of evenly spaced pieces of the channels on which `Spread` is measured: a sixteenth of them is enough."""


def sampled_piece(columns: int) -> int:
    return min(64, columns // SAMPLED_PIECES)


@functools.cache
def sampled_columns(columns: int, device: torch.device) -> torch.Tensor:
    """int64 [up to 256]. Cached on the device, because copying it there would make the host wait."""
    starts = torch.arange(SAMPLED_PIECES) * (columns // SAMPLED_PIECES)
    return (starts[:, None] + torch.arange(sampled_piece(columns))).flatten().to(device)


def counting_of(powers: torch.Tensor) -> torch.Tensor:
    """`Spread.counting` [B] from s1, s2 and s3, `powers` [3, B]."""
    return powers[0] * powers[1] / powers[2].clamp_min(torch.finfo(torch.float32).tiny)


def correlation_of(h: torch.Tensor) -> torch.Tensor:
    """FP32 [B]: sum of squared correlations between different channels, of Hessians `h` [B, C, C]."""
    diagonal = h.diagonal(dim1=1, dim2=2)
    inverse = torch.where(diagonal > 0, 1 / diagonal, 0.0)
    squares = h.square() * inverse[:, :, None] * inverse[:, None, :]
    return squares.sum((1, 2)) - squares.diagonal(dim1=1, dim2=2).sum(1)


@dataclass(frozen=True)
class ScaleGrid:
    """The factors on absmax/7.5 to search for the scale: coarse ones from the top down, then fine ones around the best.

    A scale above absmax/7.5 may be best because the code range is -8..7. Ten tries come within 1 % of the error of 161
    (docs/quantiser.md).
    """

    top: float = 1.06
    coarse: int = 8
    coarse_step: float = 0.06
    fine: int = 2
    fine_step: float = 0.03


@dataclass(frozen=True)
class Spread:
    """How a matrix's inputs spread over tokens, with z_i = x_i^2 / H_ii on a sample of channels. Each is FP32 [B]."""

    noise: torch.Tensor
    """Sum over the tokens of (sum_i z_i)^2 - sum_i z_i^2: what `correlation` would be if no channels correlated."""
    counting: torch.Tensor
    """The effective number of tokens, weighted towards strong ones: s1 s2 / s3, with s_k the sum over the tokens of
    (sum_i z_i)^k."""
    correlation: torch.Tensor
    """Sum of H_ij^2 / (H_ii H_jj) over pairs of different channels."""


@dataclass(frozen=True)
class Factor:
    """P^T H P + damping = L L^T, with P the order of the columns. The sweep starts at the last."""

    lower: torch.Tensor
    """[B, C, C] L. Values above its diagonal blocks of 128 are undefined."""
    blocks: torch.Tensor
    """[B, C/128, 128, 128] FP32: those blocks, exact."""
    failed: torch.Tensor
    """[B] int32: not 0 if H was not positive definite even with damping."""


@dataclass(frozen=True)
class Swept:
    codes: torch.Tensor
    """[B, C, R] int8, -8..7."""
    loss: torch.Tensor
    """[B, R] FP32: tr(d H' d^T) of each row, with H' the damped Hessian, as summed by the sweep."""


class Stages(Protocol):
    """What the pipeline needs from an implementation. Tensors stay on their device."""

    def dequantise_into(self, packed: torch.Tensor, exponents: torch.Tensor, out: torch.Tensor, first: int) -> None:
        """Rows of FP4 `packed` [B, r, C/2], E8M0 `exponents` [B, r, C/32], both uint8, to BF16 out[:, :, first:]."""

    def gram(self, x: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
        """H [B, C, C] FP32 = X^T X of the rows offsets[b] to offsets[b+1] of `x` [n, C] BF16; offsets int32 [B+1]."""

    def spread(self, x: torch.Tensor, offsets: torch.Tensor, h: torch.Tensor) -> Spread:
        """The spread of the inputs whose Hessian is `h`."""

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
