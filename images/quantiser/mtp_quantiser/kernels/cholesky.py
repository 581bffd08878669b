"""Batched Cholesky in column panels of 128, from the left, with BF16 pairs on the tensor cores.

A factor's element is stored as two BF16 numbers, high + low, with about 16 bits of significand. A product is three
tensor-core products (high high, high low, low high), summed in FP32. Plain BF16 or TF32 operands lose positive
definiteness on Hessians of this kind; three products agree with FP32 to a thousandth of the error.
"""

# mypy: disable-error-code="assignment"
# A tuple of Triton grows by joining, and so changes its type.
# ruff: noqa: RUF005

import torch
import triton
import triton.language as tl

from mtp_quantiser.stages import Factor

PANEL = 128
SMALL = 32
STEP = 16
HALF = 8
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
        # A channel that no token used has a zero row. With 1 on the diagonal, it affects nothing.
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
def _factor_corner(corner, PANEL: tl.constexpr, HALF: tl.constexpr):
    """Columns of L [HALF, HALF], the pivots' inverses and whether a pivot failed, each number in every thread.

    `corner` points to the first element of a tile whose columns are PANEL apart; its lower triangle is read.
    """
    below = ()
    inverses = ()
    failed = 0
    for j in tl.static_range(HALF):
        pivot = tl.load(corner + j * (PANEL + 1))
        for m in tl.static_range(j):
            pivot -= below[m * HALF + j] * below[m * HALF + j]
        failed = tl.where(pivot > 0.0, failed, 1)
        inverse = 1.0 / tl.sqrt(tl.where(pivot > 0.0, pivot, 1.0))
        inverses = inverses + (inverse,)
        for i in tl.static_range(HALF):
            if i < j:
                below = below + (0.0,)
            elif i == j:
                below = below + (pivot * inverse,)
            else:
                value = tl.load(corner + j * PANEL + i)
                for m in tl.static_range(j):
                    value -= below[m * HALF + i] * below[m * HALF + j]
                below = below + (value * inverse,)
    return below, inverses, failed


@triton.jit
def _factor_columns(turned, r, at, PANEL: tl.constexpr, HALF: tl.constexpr):
    """Columns at to at + HALF of the factor, in place. Every thread factors their corner, and solves its own row."""
    below, pivots, failed = _factor_corner(turned + at * (PANEL + 1), PANEL, HALF)
    row = ()
    for j in tl.static_range(HALF):
        value = tl.load(turned + (at + j) * PANEL + r)
        for m in tl.static_range(j):
            value -= row[m] * below[m * HALF + j]
        row = row + (value * pivots[j],)
    tl.debug_barrier()
    for j in tl.static_range(HALF):
        tl.store(turned + (at + j) * PANEL + r, tl.where(r >= at + j, row[j], 0.0))
    tl.debug_barrier()
    return row, failed


@triton.jit
def _update_next(turned, r, row, at, PANEL: tl.constexpr, HALF: tl.constexpr):
    """Subtract the columns from `at` on, `row` in this thread's row, from the HALF columns after them."""
    for j in tl.static_range(HALF):
        rest = tl.load(turned + (at + HALF + j) * PANEL + r)
        for m in tl.static_range(HALF):
            rest -= row[m] * tl.load(turned + (at + m) * PANEL + at + HALF + j)
        tl.store(turned + (at + HALF + j) * PANEL + r, rest)
    tl.debug_barrier()


@triton.jit
def _invert_small(turned, inverse, r, PANEL: tl.constexpr, SMALL: tl.constexpr, STEP: tl.constexpr):
    """X with X L^T = 1, the transposed inverse, of each small block on the diagonal of the factor.

    First invert each block of sixteen, a row per thread. Neighbours A and C with B below A then give X_A, -X_A B^T X_C
    and X_C.
    """
    place = r // STEP
    own = turned + place * STEP * (PANEL + 1)
    solved = ()
    for j in tl.static_range(STEP):
        value = tl.where(r - place * STEP == j, 1.0, 0.0)
        for m in tl.static_range(j):
            value -= solved[m] * tl.load(own + m * PANEL + j)
        solved = solved + (value / tl.load(own + j * (PANEL + 1)),)
    for j in tl.static_range(STEP):
        tl.store(inverse + r * SMALL + (place % 2) * STEP + j, solved[j])
        tl.store(inverse + r * SMALL + (1 - place % 2) * STEP + j, tl.zeros((PANEL,), dtype=tl.float32))
    tl.debug_barrier()
    s = tl.arange(0, STEP)
    for q in range(PANEL // SMALL):
        tile = inverse + (q * SMALL + s)[:, None] * SMALL + s[None, :]
        under = tl.load(turned + (q * SMALL + s)[None, :] * PANEL + (q * SMALL + STEP + s)[:, None])
        product = tl.dot(tl.load(tile), tl.trans(under), input_precision="tf32x3")
        after = tl.load(tile + STEP * (SMALL + 1))
        tl.store(tile + STEP, -tl.dot(product, after, input_precision="tf32x3"))


@triton.jit(do_not_specialize=["k"])
def _factor_block(
    panel, blocks, turned, inverses, high, low, failed, n, k,
    PANEL: tl.constexpr, SMALL: tl.constexpr, STEP: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    """The diagonal block of panel k: its factor, and the inverses of the four small blocks on its diagonal.

    A thread has a row, and `turned` stores columns, so that neighbouring threads read neighbouring elements.
    """
    batch = tl.program_id(0).to(tl.int64)
    r = tl.arange(0, PANEL)
    s = tl.arange(0, STEP)
    source = panel + batch * n * PANEL + k * PANEL * PANEL
    block = blocks + (batch * (n // PANEL) + k) * PANEL * PANEL
    turned += batch * PANEL * PANEL
    bad = 0
    for q in range(PANEL // STEP):
        first = q * STEP
        t = tl.load(source + r[:, None] * PANEL + (first + s)[None, :])
        for before in range(0, first, STEP):
            left = tl.load(turned + (before + s)[None, :] * PANEL + r[:, None])
            right = tl.load(turned + (before + s)[None, :] * PANEL + (first + s)[:, None])
            t -= tl.dot(left, tl.trans(right), input_precision="tf32x3")
        tl.store(turned + (first + s)[None, :] * PANEL + r[:, None], t)
        tl.debug_barrier()
        for half in range(2):
            row, missed = _factor_columns(turned, r, first + half * HALF, PANEL, HALF)
            bad = bad | missed
            if half == 0:
                _update_next(turned, r, row, first, PANEL, HALF)
    _invert_small(turned, inverses + batch * PANEL * SMALL, r, PANEL, SMALL, STEP)
    corner = batch * n * n + k * PANEL * n + k * PANEL
    for q in range(PANEL // SMALL):
        columns = q * SMALL + tl.arange(0, SMALL)
        exact = tl.load(turned + columns[None, :] * PANEL + r[:, None])
        tl.store(block + r[:, None] * PANEL + columns[None, :], exact)
        rounded = exact.to(tl.bfloat16)
        target = corner + r[:, None] * n + columns[None, :]
        tl.store(high + target, rounded)
        tl.store(low + target, (exact - rounded.to(tl.float32)).to(tl.bfloat16))
    if bad != 0:
        tl.store(failed + batch, 1)


@triton.jit
def _solve_part(t, solved, at, block, q, PANEL: tl.constexpr, SMALL: tl.constexpr):
    """Subtract the solution [rows, SMALL] of the small column `at` from column q."""
    s = tl.arange(0, SMALL)
    right = tl.load(block + (q * SMALL + s)[:, None] * PANEL + (at * SMALL + s)[None, :])
    return t - tl.dot(solved, tl.trans(right), input_precision="tf32x3")


@triton.jit
def _finish_part(t, inverse, high, low, target, q, SMALL: tl.constexpr):
    s = tl.arange(0, SMALL)
    inverted = tl.load(inverse + (q * SMALL + s)[:, None] * SMALL + s[None, :])
    solved = tl.dot(t, inverted, input_precision="tf32x3")
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
    turned = torch.empty(batch, PANEL, PANEL, dtype=torch.float32, device=h.device)
    inverses = torch.empty(batch, PANEL, SMALL, dtype=torch.float32, device=h.device)
    failed = torch.zeros(batch, dtype=torch.int32, device=h.device)
    for k in range(n // PANEL):
        left = n // PANEL - k
        _update[left, batch](
            ordered, high, low, panel, n, k,
            PANEL=PANEL, CHUNK=CHUNK, num_warps=update_warps, num_stages=update_stages,
        )  # fmt: skip
        _factor_block[(batch,)](
            panel, blocks, turned, inverses, high, low, failed, n, k,
            PANEL=PANEL, SMALL=SMALL, STEP=STEP, HALF=HALF, num_warps=block_warps,
        )  # fmt: skip
        if left > 1:
            _solve[(left - 1) * PANEL // SOLVED, batch](
                panel, blocks, inverses, high, low, n, k, ROWS=SOLVED, PANEL=PANEL, SMALL=SMALL, num_warps=4
            )
    return Factor(high, blocks, failed)
