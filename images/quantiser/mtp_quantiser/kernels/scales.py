"""Searches the scale of each group of 128 weights of a row, by the error weighted with the Hessian's diagonal."""

import torch
import triton
import triton.language as tl

GROUP = 128
ROWS = 32
ROUND = 12582912.0
"""1.5 * 2^23: adding and subtracting it rounds an FP32 number to the nearest integer, halves to even."""


@triton.jit
def _error(w, importance, scale, ROUND: tl.constexpr):
    """Weighted squared error [rows] of rounding w [GROUP, rows] to scale * (-8..7)."""
    step = w * (1.0 / scale)[None, :]
    code = tl.minimum(tl.maximum((step + ROUND) - ROUND, -8.0), 7.0)
    difference = w - code * scale[None, :]
    return tl.sum(difference * difference * importance[:, None], axis=0)


@triton.jit
def _search(
    weights, importance, out, columns, rows, COARSE: tl.constexpr, FINE: tl.constexpr, TOP: tl.constexpr,
    COARSE_STEP: tl.constexpr, FINE_STEP: tl.constexpr,
    GROUP: tl.constexpr, ROWS: tl.constexpr, ROUND: tl.constexpr,
):  # fmt: skip
    batch = tl.program_id(2).to(tl.int64)
    group = tl.program_id(1)
    r = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    c = group * GROUP + tl.arange(0, GROUP)
    w = tl.load(weights + (batch * columns + c[:, None]) * rows + r[None, :]).to(tl.float32)
    weight_of = tl.load(importance + batch * columns + c)
    largest = tl.maximum(tl.max(tl.abs(w), axis=0) / 7.5, 1e-12)
    best_error = tl.full((ROWS,), float("inf"), dtype=tl.float32)
    best_factor = tl.full((ROWS,), 1.0, dtype=tl.float32)
    for k in range(COARSE):
        factor = TOP - COARSE_STEP * k
        scale = (largest * factor).to(tl.bfloat16).to(tl.float32)
        error = _error(w, weight_of, scale, ROUND)
        better = error < best_error
        best_error = tl.where(better, error, best_error)
        best_factor = tl.where(better, factor, best_factor)
    centre = best_factor
    for k in range(FINE):
        factor = centre + FINE_STEP * (k - (FINE - 1) / 2)
        scale = (largest * factor).to(tl.bfloat16).to(tl.float32)
        error = _error(w, weight_of, scale, ROUND)
        better = error < best_error
        best_error = tl.where(better, error, best_error)
        best_factor = tl.where(better, factor, best_factor)
    scale = (largest * best_factor).to(tl.bfloat16)
    tl.store(out + (batch * (columns // GROUP) + group) * rows + r, scale)


def search_scales(weights: torch.Tensor, importance: torch.Tensor, grid) -> torch.Tensor:
    """Scales [batch, in/128, rows] BF16 for `weights` [batch, in, rows] BF16, `importance` [batch, in] FP32."""
    batch, columns, rows = weights.shape
    out = torch.empty(batch, columns // GROUP, rows, dtype=torch.bfloat16, device=weights.device)
    _search[rows // ROWS, columns // GROUP, batch](
        weights, importance, out, columns, rows, COARSE=grid.coarse, FINE=grid.fine, TOP=grid.top,
        COARSE_STEP=grid.coarse_step, FINE_STEP=grid.fine_step,
        GROUP=GROUP, ROWS=ROWS, ROUND=ROUND, num_warps=1,
    )  # fmt: skip
    return out
