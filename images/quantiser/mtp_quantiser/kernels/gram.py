"""Sums of X^T X over the tokens of each expert: BF16 operands, exact products, FP32 sums, half of the tiles."""

import functools

import torch
import triton
import triton.language as tl

TILE = 128
CHUNK = 64


@triton.jit
def _gram(
    x, offsets, tile_rows, tile_columns, out, width,
    TILE_M: tl.constexpr, TILE_N: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    batch = tl.program_id(1).to(tl.int64)
    i = tl.load(tile_rows + tl.program_id(0)) * TILE_M + tl.arange(0, TILE_M)
    j = tl.load(tile_columns + tl.program_id(0)) * TILE_N + tl.arange(0, TILE_N)
    begin = tl.load(offsets + batch)
    end = tl.load(offsets + batch + 1)
    steps = tl.arange(0, CHUNK)
    total = tl.zeros((TILE_M, TILE_N), dtype=tl.float32)
    for token in range(begin, end, CHUNK):
        t = (token + steps).to(tl.int64)
        inside = (t < end)[:, None]
        a = tl.load(x + t[:, None] * width + i[None, :], mask=inside, other=0.0)
        b = tl.load(x + t[:, None] * width + j[None, :], mask=inside, other=0.0)
        total = tl.dot(tl.trans(a), b, total)
    base = out + batch * width * width
    # Each element is written by one program alone, as itself and mirrored: the result never depends on their order.
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


def gram(x: torch.Tensor, offsets: torch.Tensor, *, wide: int = TILE, warps: int = 4, stages: int = 4) -> torch.Tensor:
    """H [batch, width, width] FP32 of `x` [tokens, width] BF16, tokens offsets[e] to offsets[e+1] being expert e's."""
    batch, width = len(offsets) - 1, x.shape[1]
    out = torch.empty(batch, width, width, dtype=torch.float32, device=x.device)
    wide = min(wide, width)
    rows, columns = _tiles(width, TILE, wide, x.device)
    _gram[len(rows), batch](
        x, offsets, rows, columns, out, width,
        TILE_M=TILE, TILE_N=wide, CHUNK=CHUNK, num_warps=warps, num_stages=stages,
    )  # fmt: skip
    return out
