"""Measures how much of a Hessian's correlations is noise due to few tokens.

The sum of squares of the correlations off the diagonal is signal plus noise. For independent tokens, the noise alone
can be estimated: sum over tokens of (sum_i z_i)^2 - sum_i z_i^2 with z_i = x_i^2 / H_ii. A sample of the columns is
enough for both.
"""

import torch
import triton
import triton.language as tl

from mtp_quantiser.stages import SAMPLED_PIECES, sampled_piece

SPLIT = 32
CHUNK = 32


@triton.jit
def _noise(
    x, offsets, h, out, width, PIECE: tl.constexpr, PIECES: tl.constexpr, SPLIT: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """Sums over a part of an expert's tokens: of the noise, of a token's strength, of its square and of its cube."""
    batch = tl.program_id(1).to(tl.int64)
    share = tl.program_id(0)
    begin = tl.load(offsets + batch)
    end = tl.load(offsets + batch + 1)
    c = tl.arange(0, PIECE * PIECES)
    column = (c // PIECE) * (width // PIECES) + c % PIECE
    diagonal = tl.load(h + batch * width * width + column.to(tl.int64) * (width + 1))
    weight = tl.where(diagonal > 0.0, 1.0 / tl.where(diagonal > 0.0, diagonal, 1.0), 0.0)
    noise = tl.zeros((CHUNK,), dtype=tl.float32)
    strength = tl.zeros((CHUNK,), dtype=tl.float32)
    squared = tl.zeros((CHUNK,), dtype=tl.float32)
    cubed = tl.zeros((CHUNK,), dtype=tl.float32)
    for first in range(begin + share * CHUNK, end, SPLIT * CHUNK):
        t = first + tl.arange(0, CHUNK)
        tile = x + t[:, None].to(tl.int64) * width + column[None, :]
        value = tl.load(tile, mask=(t < end)[:, None], other=0.0).to(tl.float32)
        z = value * value * weight[None, :]
        whole = tl.sum(z, axis=1)
        noise += whole * whole - tl.sum(z * z, axis=1)
        strength += whole
        squared += whole * whole
        cubed += whole * whole * whole
    sums = out + (batch * SPLIT + share) * 4
    tl.store(sums, tl.sum(noise, axis=0))
    tl.store(sums + 1, tl.sum(strength, axis=0))
    tl.store(sums + 2, tl.sum(squared, axis=0))
    tl.store(sums + 3, tl.sum(cubed, axis=0))


def noise_of(x: torch.Tensor, offsets: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
    """FP32 [4, batch]: the noise of `stages.Spread`, and s1, s2 and s3."""
    batch, width = len(offsets) - 1, x.shape[1]
    sums = torch.empty(batch, SPLIT, 4, dtype=torch.float32, device=x.device)
    _noise[SPLIT, batch](
        x, offsets, h, sums, width, PIECE=sampled_piece(width), PIECES=SAMPLED_PIECES, SPLIT=SPLIT, CHUNK=CHUNK
    )
    return sums.sum(1).T
