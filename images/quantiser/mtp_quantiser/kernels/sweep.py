"""Quantises the columns of a strip, last first, and carries each error to the columns still to come.

The corrections from finished strips come in as `carry`, one product of residuals and factor. A program takes some rows
through the whole strip. The corrections to 64 columns from later ones of the strip are one product, those to 16 from
later ones of the 64 are a small one, and 16 columns go through registers, a row per thread. So the sequential part is
16 columns deep. Rows are independent of each other, and so are programs.
"""

# mypy: disable-error-code="assignment"
# A tuple of Triton grows by joining, and so changes its type.
# ruff: noqa: RUF005

import torch
import triton
import triton.language as tl

BLOCK = 128
PART = 64
SMALL = 16
GROUP = 128
ROUND = 12582912.0


@triton.jit
def _add_product_of_later(
    acc, lower, residual, first, begin, end, r, columns: tl.constexpr, rows: tl.constexpr,
    MASKED: tl.constexpr, PART: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """acc [WIDE, ROWS] + L[begin:end, first:first+WIDE]^T residual[begin:end]."""
    m = first + tl.arange(0, WIDE)
    for later in range(begin, end, PART):
        k = later + tl.arange(0, PART)
        if MASKED:
            factor = tl.load(lower + k[:, None] * columns + m[None, :], mask=(k < end)[:, None], other=0.0)
            done = tl.load(residual + k[:, None].to(tl.int64) * rows + r[None, :], mask=(k < end)[:, None], other=0.0)
        else:
            factor = tl.load(lower + k[:, None] * columns + m[None, :])
            done = tl.load(residual + k[:, None].to(tl.int64) * rows + r[None, :])
        acc = tl.dot(tl.trans(factor.to(tl.bfloat16)), done, acc)
    return acc


@triton.jit
def _load_small(weights, scales, latest, r, rows: tl.constexpr, SMALL: tl.constexpr, GROUP: tl.constexpr):
    """Weights and scales of the columns order[latest], order[latest - 1] and so on, a tuple of [ROWS] each."""
    w = ()
    scale = ()
    for i in tl.static_range(SMALL):
        source = tl.load(latest - i)
        w = w + (tl.load(weights + source * rows + r).to(tl.float32),)
        scale = scale + (tl.load(scales + (source // GROUP) * rows + r).to(tl.float32),)
    return w, scale


@triton.jit
def _quantise_small(
    w, scale, brought, corner, lost, SMALL: tl.constexpr, BLOCK: tl.constexpr, ROUND: tl.constexpr
):  # fmt: skip
    """Errors and codes of the columns, and the loss. `corner` points to the last one's pivot."""
    errors = ()
    codes = ()
    for step in tl.static_range(SMALL):
        pivot = tl.load(corner - step * (BLOCK + 1))
        target = w[step] + brought[step] * (1.0 / pivot)
        code = tl.minimum(tl.maximum((target * (1.0 / scale[step]) + ROUND) - ROUND, -8.0), 7.0)
        value = (code * scale[step]).to(tl.bfloat16).to(tl.float32)  # what the decoder will return
        error = w[step] - value
        missed = (target - value) * pivot
        lost += missed * missed
        errors = errors + (error,)
        codes = codes + (code,)
        carried = ()
        for i in tl.static_range(SMALL):
            if i > step:
                carried = carried + (brought[i] + error * tl.load(corner - step * BLOCK - i),)
            else:
                carried = carried + (brought[i],)
        brought = carried
    return errors, codes, lost


@triton.jit
def _sweep_strip(
    weights, scales, order, lower, blocks, carry, carry_stride, residual, codes, loss, begin, end,
    columns: tl.constexpr, rows: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, PART: tl.constexpr,
    SMALL: tl.constexpr, GROUP: tl.constexpr, ROUND: tl.constexpr,
):  # fmt: skip
    batch = tl.program_id(1).to(tl.int64)
    r = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    s = tl.arange(0, SMALL)
    p = tl.arange(0, PART)
    matrix = batch * columns * rows
    factor = lower + batch * columns * columns
    done = residual + matrix
    asked = carry + batch * carry_stride
    lost = tl.zeros((ROWS,), dtype=tl.float32)
    for parts in range((end - begin) // PART):
        part = end - (parts + 1) * PART
        after = part + PART
        if after < end:
            tile = asked + (part - begin + p)[:, None] * rows + r[None, :]
            total = _add_product_of_later(
                tl.load(tile), factor, done, part, after, end, r, columns, rows, False, PART, PART
            )  # fmt: skip
            tl.store(tile, total)
            tl.debug_barrier()
        for smalls in range(PART // SMALL):
            first = after - (smalls + 1) * SMALL
            last = first + SMALL - 1
            latest = order + batch * columns + last
            # Loaded before the product, which hides their latency.
            w, scale = _load_small(
                weights + matrix, scales + batch * (columns // GROUP) * rows, latest, r, rows, SMALL, GROUP
            )  # fmt: skip
            if first + SMALL < after:
                small = asked + (first - begin + s)[:, None] * rows + r[None, :]
                part_of_it = _add_product_of_later(
                    tl.load(small), factor, done, first, first + SMALL, after, r, columns, rows, True, PART, SMALL
                )  # fmt: skip
                tl.store(small, part_of_it)
                tl.debug_barrier()
            brought = ()
            bring = asked + (last - begin) * rows + r
            for i in tl.static_range(SMALL):
                brought = brought + (tl.load(bring - i * rows),)
            corner = blocks + batch * columns * BLOCK + (last // BLOCK) * BLOCK * BLOCK + (last % BLOCK) * (BLOCK + 1)
            errors, quantised, lost = _quantise_small(w, scale, brought, corner, lost, SMALL, BLOCK, ROUND)
            left = done + last.to(tl.int64) * rows + r
            for step in tl.static_range(SMALL):
                tl.store(left - step * rows, errors[step].to(tl.bfloat16))
                tl.store(codes + matrix + tl.load(latest - step) * rows + r, quantised[step].to(tl.int8))
            tl.debug_barrier()
    sums = loss + batch * rows + r
    tl.store(sums, tl.load(sums) + lost)


def sweep_strip(
    weights: torch.Tensor, scales: torch.Tensor, order: torch.Tensor, lower: torch.Tensor, blocks: torch.Tensor,
    carry: torch.Tensor, residual: torch.Tensor, codes: torch.Tensor, loss: torch.Tensor,
    begin: int, end: int, *, row_tile: int = 128, warps: int = 4, stages: int = 2, registers: int = 168,
) -> None:  # fmt: skip
    """Quantise columns begin to end of `weights` [batch, in, rows] into `codes` (int8), `residual` (BF16) and `loss`.

    Columns are numbered in sweep order, as in `residual`. `carry` [batch, at least end - begin, rows] FP32 contains the
    corrections from later strips, and is overwritten. `loss` is added to.
    """
    batch, columns, rows = weights.shape
    _sweep_strip[rows // row_tile, batch](
        weights, scales, order, lower, blocks, carry, carry.stride(0), residual, codes, loss, begin, end,
        columns=columns, rows=rows, ROWS=row_tile, BLOCK=BLOCK, PART=PART, SMALL=SMALL, GROUP=GROUP, ROUND=ROUND,
        num_warps=warps, num_stages=stages, maxnreg=registers,
    )  # fmt: skip
