"""Converts FP4 with E8M0 scales per 32 columns to transposed BF16. Lossless: E2M1 times a power of two fits BF16."""

import torch
import triton
import triton.language as tl

ROWS = 64
BYTES = 64


@triton.jit
def _e2m1(nibble):
    """The value of a 4-bit E2M1 code: 0 .5 1 1.5 2 3 4 6 and their negatives (bit 3 is the sign)."""
    # ruff: noqa: PLR2004 - codes of the format
    magnitude = nibble & 7
    small = magnitude.to(tl.float32) * 0.5
    large = tl.where(magnitude == 5, 3.0, tl.where(magnitude == 6, 4.0, 6.0))
    value = tl.where(magnitude <= 4, small, large)
    return tl.where(nibble >= 8, -value, value)


@triton.jit
def _dequantise(packed, exponents, out, rows, half, stride, first, ROWS: tl.constexpr, BYTES: tl.constexpr):
    batch = tl.program_id(2).to(tl.int64)
    r = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    c = tl.program_id(1) * BYTES + tl.arange(0, BYTES)
    byte = tl.load(packed + batch * rows * half + r[:, None] * half + c[None, :]).to(tl.int32)
    groups = half // 16
    e8m0 = tl.load(exponents + batch * rows * groups + r[:, None] * groups + (c // 16)[None, :]).to(tl.int32)
    bits = tl.where(e8m0 == 0, 0x00400000, e8m0 << 23)  # 2^-127 is the one power that is subnormal in FP32
    scale = bits.to(tl.float32, bitcast=True)
    base = out + batch * (2 * half) * stride + first
    target = base + (2 * c)[:, None] * stride + r[None, :]
    tl.store(target, tl.trans(_e2m1(byte & 15) * scale).to(tl.bfloat16))
    tl.store(target + stride, tl.trans(_e2m1((byte >> 4) & 15) * scale).to(tl.bfloat16))


def dequantise_into(packed: torch.Tensor, exponents: torch.Tensor, out: torch.Tensor, first: int) -> None:
    """Write columns first.. of `out` [batch, in, out] from `packed` [batch, rows, in/2] and `exponents` (uint8)."""
    batch, rows, half = packed.shape
    grid = (rows // ROWS, half // BYTES, batch)
    _dequantise[grid](packed, exponents, out, rows, half, out.shape[2], first, ROWS=ROWS, BYTES=BYTES)
