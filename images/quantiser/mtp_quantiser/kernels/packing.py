"""Packs codes into pack-quantized int32 words: eight nibbles along a row, the first in the lowest bits, code + 8."""

import torch
import triton
import triton.language as tl

ROWS = 64
WORDS = 32


@triton.jit
def _pack(codes, out, columns, rows, ROWS: tl.constexpr, WORDS: tl.constexpr):
    batch = tl.program_id(2).to(tl.int64)
    r = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    w = tl.program_id(1) * WORDS + tl.arange(0, WORDS)
    inside = w < columns // 8
    word = tl.zeros((WORDS, ROWS), dtype=tl.int32)
    for nibble in tl.static_range(8):
        address = codes + (batch * columns + (w * 8 + nibble)[:, None]) * rows + r[None, :]
        code = tl.load(address, mask=inside[:, None], other=0).to(tl.int32)
        word = word | (((code + 8) & 15) << (4 * nibble))
    address = out + (batch * rows + r[:, None]) * (columns // 8) + w[None, :]
    tl.store(address, tl.trans(word), mask=inside[None, :])


def pack(codes: torch.Tensor) -> torch.Tensor:
    """Words [batch, rows, in/8] int32 of `codes` [batch, in, rows] int8."""
    batch, columns, rows = codes.shape
    out = torch.empty(batch, rows, columns // 8, dtype=torch.int32, device=codes.device)
    _pack[rows // ROWS, triton.cdiv(columns // 8, WORDS), batch](codes, out, columns, rows, ROWS=ROWS, WORDS=WORDS)
    return out
