"""Quantise the columns of one block of 128, the last first, each error carried on to the columns still to come.

What the blocks already done ask of this one comes in as `carry`, one product of residuals and factor; inside the block
sixteen columns at a time go through registers, a row to a thread, and what they ask of the rest of the block is again a
small product. So the sequential part is 16 columns deep.
"""

import torch
import triton
import triton.language as tl

BLOCK = 128
SMALL = 16
GROUP = 128
ROUND = 12582912.0


@triton.jit
def _quantise(target, scale, ROUND: tl.constexpr):
    """Code and the value that the decoder will give back: BF16 of code * scale."""
    code = tl.minimum(tl.maximum((tl.div_rn(target, scale) + ROUND) - ROUND, -8.0), 7.0)
    return code, (code * scale).to(tl.bfloat16).to(tl.float32)


@triton.jit(do_not_specialize=["k"])
def _sweep_block(
    weights, scales, order, blocks, carry, carry_stride, residual, codes, loss, columns, rows, k,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, SMALL: tl.constexpr,
    GROUP: tl.constexpr, ROUND: tl.constexpr,
):  # fmt: skip
    batch = tl.program_id(1).to(tl.int64)
    r = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    s = tl.arange(0, SMALL)
    matrix = batch * columns * rows
    block = blocks + (batch * (columns // BLOCK) + k) * BLOCK * BLOCK
    brought = carry + batch * carry_stride
    lost = tl.zeros((ROWS,), dtype=tl.float32)
    for back in range(BLOCK // SMALL):
        first = BLOCK - (back + 1) * SMALL
        tile = brought + (first + s)[:, None] * rows + r[None, :]
        asked = tl.load(tile)
        for later in range(first + SMALL, BLOCK, SMALL):
            factor = tl.load(block + (later + s)[:, None] * BLOCK + (first + s)[None, :]).to(tl.bfloat16)
            done = tl.load(residual + matrix + (k * BLOCK + later + s)[:, None].to(tl.int64) * rows + r[None, :])
            asked = tl.dot(tl.trans(factor), done, asked)
        tl.store(tile, asked)
        tl.debug_barrier()
        errors = ()
        for step in tl.static_range(SMALL):
            inside = first + SMALL - 1 - step
            total = tl.load(brought + inside * rows + r)
            for i in tl.static_range(step):
                total += errors[i] * tl.load(block + (first + SMALL - 1 - i) * BLOCK + inside)
            pivot = tl.load(block + inside * BLOCK + inside)
            source = tl.load(order + batch * columns + k * BLOCK + inside)
            w = tl.load(weights + matrix + source.to(tl.int64) * rows + r).to(tl.float32)
            scale = tl.load(scales + (batch * (columns // GROUP) + source // GROUP) * rows + r).to(tl.float32)
            target = w + total / pivot
            code, value = _quantise(target, scale, ROUND)
            error = w - value
            errors = errors + (error,)  # type: ignore[assignment]  # noqa: RUF005 - Triton's tuples
            missed = (target - value) * pivot
            lost += missed * missed
            tl.store(residual + matrix + (k * BLOCK + inside).to(tl.int64) * rows + r, error.to(tl.bfloat16))
            tl.store(codes + matrix + source.to(tl.int64) * rows + r, code.to(tl.int8))
        tl.debug_barrier()
    sums = loss + batch * rows + r
    tl.store(sums, tl.load(sums) + lost)


def sweep_block(
    weights: torch.Tensor, scales: torch.Tensor, order: torch.Tensor, blocks: torch.Tensor,
    carry: torch.Tensor, residual: torch.Tensor, codes: torch.Tensor, loss: torch.Tensor,
    k: int, *, row_tile: int = 128, warps: int = 4,
) -> None:  # fmt: skip
    """Quantise block k of `weights` [batch, in, rows] into `codes` (int8), `residual` (BF16, in sweep order), `loss`.

    `carry` [batch, 128, rows] FP32 is what later columns ask of this block; it is overwritten. `loss` is added to.
    """
    batch, columns, rows = weights.shape
    _sweep_block[rows // row_tile, batch](
        weights, scales, order, blocks, carry, carry.stride(0), residual, codes, loss, columns, rows, k,
        ROWS=row_tile, BLOCK=BLOCK, SMALL=SMALL, GROUP=GROUP, ROUND=ROUND,
        num_warps=warps,
    )  # fmt: skip
