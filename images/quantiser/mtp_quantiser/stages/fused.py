"""The stages on one GPU: Triton kernels, and the library's matrix products if they are as fast."""

import torch
from torch import Tensor

from mtp_quantiser.kernels import activation, cholesky, dequantise, gram, noise, packing, scales, sweep
from mtp_quantiser.stages import Factor, ScaleGrid, Spread, Swept, correlation_of, counting_of, sampled_columns

BLOCK = sweep.BLOCK
STRIP = 4 * BLOCK
"""Columns whose carry is computed in one product: a wide product is twice as fast as four narrow ones."""


class FusedStages:
    """Deterministic: no atomics, and each sum has one order."""

    def dequantise_into(self, packed: Tensor, exponents: Tensor, out: Tensor, first: int) -> None:
        dequantise.dequantise_into(packed, exponents, out, first)

    def gram(self, x: Tensor, offsets: Tensor) -> Tensor:
        return gram.gram(x, offsets)

    def spread(self, x: Tensor, offsets: Tensor, h: Tensor) -> Spread:
        sample = sampled_columns(x.shape[1], x.device)
        sums = noise.noise_of(x, offsets, h)
        return Spread(sums[0], counting_of(sums[1:]), correlation_of(h[:, sample][:, :, sample]))

    def gate_into(self, both: Tensor, route: Tensor, limit: float, out: Tensor) -> None:
        activation.gate_into(both, route, limit, out)

    def factorise(self, h: Tensor, order: Tensor, damping: Tensor) -> Factor:
        return cholesky.factorise(h, order, damping)

    def search_scales(self, weights: Tensor, importance: Tensor, grid: ScaleGrid) -> Tensor:
        return scales.search_scales(weights, importance, grid)

    def sweep(self, weights: Tensor, scales: Tensor, factor: Factor, order: Tensor) -> Swept:
        batch, columns, rows = weights.shape
        residual = torch.empty_like(weights)
        codes = torch.empty_like(weights, dtype=torch.int8)
        loss = torch.zeros(batch, rows, dtype=torch.float32, device=weights.device)
        carry = torch.zeros(batch, min(STRIP, columns), rows, dtype=torch.float32, device=weights.device)
        for end in range(columns, 0, -STRIP):
            begin = max(end - STRIP, 0)
            if end < columns:
                product_into(factor.lower[:, end:, begin:end].mT, residual[:, end:], carry[:, : end - begin])
            sweep.sweep_strip(
                weights, scales, order, factor.lower, factor.blocks, carry, residual, codes, loss, begin, end
            )
        return Swept(codes, loss)

    def pack(self, codes: Tensor) -> Tensor:
        return packing.pack(codes)


def product_into(left: Tensor, right: Tensor, out: Tensor) -> None:
    """FP32 `out` = the batched product of BF16 matrices, summed in FP32."""
    if left.is_cuda:
        torch.bmm(left, right, out_dtype=torch.float32, out=out)
    else:  # the kernels' interpreter
        torch.bmm(left.float(), right.float(), out=out)
