"""Computes H = X^T X of each expert's tokens: BF16 operands, exact products, FP32 sums, half of the tiles."""

import functools

import torch
import triton
import triton.language as tl

HIGH = 256
WIDE = 128
CHUNK = 64


@triton.jit
def _gram(
    x, offsets, tile_rows, tile_columns, out, width: tl.constexpr,
    HIGH: tl.constexpr, WIDE: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    batch = tl.program_id(1).to(tl.int64)
    row = tl.load(tile_rows + tl.program_id(0)) * HIGH
    column = tl.load(tile_columns + tl.program_id(0)) * WIDE
    begin = tl.load(offsets + batch)
    count = tl.load(offsets + batch + 1) - begin
    # The copy engine fills the space after an expert's last token with zeros.
    own = x + begin.to(tl.int64) * width
    left = tl.make_tensor_descriptor(own, [count, width], [width, 1], [CHUNK, HIGH])
    right = tl.make_tensor_descriptor(own, [count, width], [width, 1], [CHUNK, WIDE])
    total = tl.zeros((HIGH, WIDE), dtype=tl.float32)
    for token in range(0, count, CHUNK):
        a = left.load([token, row])
        b = right.load([token, column])
        total = tl.dot(tl.trans(a), b, total)
    i = row + tl.arange(0, HIGH)
    j = column + tl.arange(0, WIDE)
    base = out + batch * width * width
    # Only one program writes an element and its mirror image, so the result never depends on their order.
    tl.store(base + i[:, None] * width + j[None, :], total, mask=i[:, None] >= j[None, :])
    tl.store(base + j[:, None] * width + i[None, :], tl.trans(total), mask=i[None, :] > j[:, None])


@functools.cache
def _tiles(width: int, high: int, wide: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Every tile that touches the lower triangle, row by row."""
    pairs = [
        (row, column)
        for row in range(width // high)
        for column in range(width // wide)
        if column * wide < (row + 1) * high
    ]
    table = torch.tensor(pairs, dtype=torch.int32, device=device)
    return table[:, 0].contiguous(), table[:, 1].contiguous()


def gram(x: torch.Tensor, offsets: torch.Tensor, *, warps: int = 8, stages: int = 3) -> torch.Tensor:
    """H [batch, width, width] FP32 of `x` [tokens, width] BF16, tokens offsets[e] to offsets[e+1] being expert e's."""
    batch, width = len(offsets) - 1, x.shape[1]
    out = torch.empty(batch, width, width, dtype=torch.float32, device=x.device)
    high, wide = min(HIGH, width), min(WIDE, width)
    rows, columns = _tiles(width, high, wide, x.device)
    triton.set_allocator(lambda size, _align, _stream: torch.empty(size, dtype=torch.int8, device=x.device))
    _gram[len(rows), batch](
        x, offsets, rows, columns, out, width,
        HIGH=high, WIDE=wide, CHUNK=CHUNK, num_warps=warps, num_stages=stages,
    )  # fmt: skip
    return out
