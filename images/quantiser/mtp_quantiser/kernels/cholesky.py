"""Batched Cholesky in column panels of 128, from the left, with BF16 pairs on the tensor cores.

A factor's element is kept as two BF16 numbers, high + low, about 16 bits of significand; a product is three products of
tensor cores (high high, high low, low high), summed in FP32. Plain BF16 or TF32 operands lose positive definiteness on
Hessians of this kind; three products agree with FP32 to a thousandth of the error.
"""

import torch
import triton
import triton.language as tl

from mtp_quantiser.stages import Factor

PANEL = 128
SMALL = 32
SOLVED = 64
CHUNK = 64
WIDE = 1024


@triton.jit
def _reorder(h, order, damping, out, n, PANEL: tl.constexpr, WIDE: tl.constexpr):
    """A row of P^T H P + damping, as far as the end of its diagonal block."""
    batch = tl.program_id(1).to(tl.int64)
    i = tl.program_id(0)
    source = h + batch * n * n + tl.load(order + batch * n + i).to(tl.int64) * n
    end = (i // PANEL + 1) * PANEL
    for first in range(0, end, WIDE):
        j = first + tl.arange(0, WIDE)
        value = tl.load(source + tl.load(order + batch * n + j, mask=j < end, other=0))
        # A channel that no token ever used has a zero row: with 1 on the diagonal it takes part in nothing.
        diagonal = tl.where(value == 0.0, 1.0, value) + tl.load(damping + batch)
        tl.store(out + batch * n * n + i.to(tl.int64) * n + j, tl.where(j == i, diagonal, value), mask=j < end)


@triton.jit(do_not_specialize=["k"])
def _update(ordered, high, low, panel, n, k, PANEL: tl.constexpr, CHUNK: tl.constexpr):
    """panel = (P^T H P + damping)[:, panel k] - L L^T of the panels before it."""
    batch = tl.program_id(1).to(tl.int64)
    i = (k + tl.program_id(0)) * PANEL + tl.arange(0, PANEL)
    j = k * PANEL + tl.arange(0, PANEL)
    c = tl.arange(0, CHUNK)
    square = batch * n * n
    done = tl.zeros((PANEL, PANEL), dtype=tl.float32)
    for first in range(0, k * PANEL, CHUNK):
        left = square + i[:, None] * n + (first + c)[None, :]
        right = square + j[:, None] * n + (first + c)[None, :]
        left_high = tl.load(high + left)
        left_low = tl.load(low + left)
        right_high = tl.trans(tl.load(high + right))
        right_low = tl.trans(tl.load(low + right))
        done = tl.dot(left_high, right_high, done)
        done = tl.dot(left_high, right_low, done)
        done = tl.dot(left_low, right_high, done)
    value = tl.load(ordered + square + i[:, None] * n + j[None, :])
    tl.store(panel + batch * n * PANEL + i[:, None] * PANEL + tl.arange(0, PANEL)[None, :], value - done)


@triton.jit
def _factor_small(a, SMALL: tl.constexpr):
    """L, its inverse, and whether a pivot failed, of a symmetric tile [SMALL, SMALL]."""
    each = tl.arange(0, SMALL)
    r = each[:, None]
    c = each[None, :]
    inverse = tl.where(r == c, 1.0, 0.0)
    factor = tl.zeros((SMALL, SMALL), dtype=tl.float32)
    failed = 0
    for j in range(SMALL):
        column = tl.sum(tl.where(c == j, a, 0.0), axis=1)
        row = tl.sum(tl.where(r == j, a, 0.0), axis=0)
        pivot = tl.sum(tl.where(each == j, column, 0.0), axis=0)
        failed = tl.where(pivot > 0.0, failed, 1)
        scale = 1.0 / tl.sqrt(tl.where(pivot > 0.0, pivot, 1.0))
        down = tl.where(each >= j, column * scale, 0.0)
        across = tl.where(each >= j, row * scale, 0.0)
        solved = tl.sum(tl.where(r == j, inverse, 0.0), axis=0) * scale
        below = tl.where(each > j, down, 0.0)
        inverse = tl.where(r == j, solved[None, :], inverse - below[:, None] * solved[None, :])
        a = a - down[:, None] * across[None, :]
        factor = tl.where(c == j, down[:, None], factor)
    return factor, inverse, failed


@triton.jit(do_not_specialize=["k"])
def _factor_block(panel, blocks, inverses, high, low, failed, n, k, PANEL: tl.constexpr, SMALL: tl.constexpr):
    """The diagonal block of panel k: its factor, and the inverses of the four small blocks on its diagonal."""
    batch = tl.program_id(0).to(tl.int64)
    r = tl.arange(0, PANEL)
    s = tl.arange(0, SMALL)
    source = panel + batch * n * PANEL + k * PANEL * PANEL
    block = blocks + (batch * (n // PANEL) + k) * PANEL * PANEL
    inverse = inverses + batch * PANEL * SMALL
    corner = batch * n * n + k * PANEL * n + k * PANEL
    bad = 0
    for q in range(PANEL // SMALL):
        column = source + r[:, None] * PANEL + (q * SMALL + s)[None, :]
        t = tl.load(column)
        for p in range(q):
            left = tl.load(block + r[:, None] * PANEL + (p * SMALL + s)[None, :])
            right = tl.load(block + (q * SMALL + s)[:, None] * PANEL + (p * SMALL + s)[None, :])
            t -= tl.dot(left, tl.trans(right), input_precision="tf32x3")
        tl.store(column, t)
        tl.debug_barrier()
        corner_small = tl.load(source + (q * SMALL + s)[:, None] * PANEL + (q * SMALL + s)[None, :])
        factor, inverted, missed = _factor_small(corner_small, SMALL)
        bad = bad | missed
        solved = tl.dot(t, tl.trans(inverted), input_precision="tf32x3")
        solved = tl.where((r >= (q + 1) * SMALL)[:, None], solved, 0.0)
        tl.store(block + r[:, None] * PANEL + (q * SMALL + s)[None, :], solved)
        tl.store(inverse + (q * SMALL + s)[:, None] * SMALL + s[None, :], inverted)
        tl.debug_barrier()
        tl.store(block + (q * SMALL + s)[:, None] * PANEL + (q * SMALL + s)[None, :], factor)
        tl.debug_barrier()
    for q in range(PANEL // SMALL):
        value = tl.load(block + r[:, None] * PANEL + (q * SMALL + s)[None, :])
        rounded = value.to(tl.bfloat16)
        target = corner + r[:, None] * n + (q * SMALL + s)[None, :]
        tl.store(high + target, rounded)
        tl.store(low + target, (value - rounded.to(tl.float32)).to(tl.bfloat16))
    if bad != 0:
        tl.store(failed + batch, 1)


@triton.jit
def _solve_part(t, solved, at, block, q, PANEL: tl.constexpr, SMALL: tl.constexpr):
    """Take what was solved [rows, SMALL] for the small column `at` out of column q."""
    s = tl.arange(0, SMALL)
    right = tl.load(block + (q * SMALL + s)[:, None] * PANEL + (at * SMALL + s)[None, :])
    return t - tl.dot(solved, tl.trans(right), input_precision="tf32x3")


@triton.jit
def _finish_part(t, inverse, high, low, target, q, SMALL: tl.constexpr):
    s = tl.arange(0, SMALL)
    inverted = tl.load(inverse + (q * SMALL + s)[:, None] * SMALL + s[None, :])
    solved = tl.dot(t, tl.trans(inverted), input_precision="tf32x3")
    rounded = solved.to(tl.bfloat16)
    tl.store(high + target + q * SMALL, rounded)
    tl.store(low + target + q * SMALL, (solved - rounded.to(tl.float32)).to(tl.bfloat16))
    return solved


@triton.jit(do_not_specialize=["k"])
def _solve(panel, blocks, inverses, high, low, n, k, ROWS: tl.constexpr, PANEL: tl.constexpr, SMALL: tl.constexpr):
    """L below the diagonal block: X L_kk^T = panel, small column by small column."""
    batch = tl.program_id(1).to(tl.int64)
    i = (k + 1) * PANEL + tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    s = tl.arange(0, SMALL)
    source = panel + batch * n * PANEL + i[:, None] * PANEL + s[None, :]
    block = blocks + (batch * (n // PANEL) + k) * PANEL * PANEL
    inverse = inverses + batch * PANEL * SMALL
    target = batch * n * n + i[:, None] * n + k * PANEL + s[None, :]
    x0 = _finish_part(tl.load(source), inverse, high, low, target, 0, SMALL)
    t = _solve_part(tl.load(source + SMALL), x0, 0, block, 1, PANEL, SMALL)
    x1 = _finish_part(t, inverse, high, low, target, 1, SMALL)
    t = _solve_part(tl.load(source + 2 * SMALL), x0, 0, block, 2, PANEL, SMALL)
    t = _solve_part(t, x1, 1, block, 2, PANEL, SMALL)
    x2 = _finish_part(t, inverse, high, low, target, 2, SMALL)
    t = _solve_part(tl.load(source + 3 * SMALL), x0, 0, block, 3, PANEL, SMALL)
    t = _solve_part(t, x1, 1, block, 3, PANEL, SMALL)
    t = _solve_part(t, x2, 2, block, 3, PANEL, SMALL)
    _finish_part(t, inverse, high, low, target, 3, SMALL)


def factorise(
    h: torch.Tensor, order: torch.Tensor, damping: torch.Tensor,
    *, update_warps: int = 8, update_stages: int = 3, block_warps: int = 4,
) -> Factor:  # fmt: skip
    """Factor `h` [batch, n, n] FP32 in the column order `order` [batch, n] int32, with `damping` [batch] added."""
    batch, n, _ = h.shape
    ordered = torch.empty_like(h)
    _reorder[n, batch](h, order, damping, ordered, n, PANEL=PANEL, WIDE=WIDE)
    high = torch.empty(batch, n, n, dtype=torch.bfloat16, device=h.device)
    low = torch.empty_like(high)
    panel = torch.empty(batch, n, PANEL, dtype=torch.float32, device=h.device)
    blocks = torch.empty(batch, n // PANEL, PANEL, PANEL, dtype=torch.float32, device=h.device)
    inverses = torch.empty(batch, PANEL, SMALL, dtype=torch.float32, device=h.device)
    failed = torch.zeros(batch, dtype=torch.int32, device=h.device)
    for k in range(n // PANEL):
        left = n // PANEL - k
        _update[left, batch](
            ordered, high, low, panel, n, k,
            PANEL=PANEL, CHUNK=CHUNK, num_warps=update_warps, num_stages=update_stages,
        )  # fmt: skip
        _factor_block[(batch,)](
            panel, blocks, inverses, high, low, failed, n, k, PANEL=PANEL, SMALL=SMALL, num_warps=block_warps
        )
        if left > 1:
            _solve[(left - 1) * PANEL // SOLVED, batch](
                panel, blocks, inverses, high, low, n, k, ROWS=SOLVED, PANEL=PANEL, SMALL=SMALL, num_warps=4
            )
    return Factor(high, blocks, failed)
