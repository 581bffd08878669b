"""How much is added to the diagonal of a Hessian: for few tokens, and for inputs that correlate little.

A share of the median of diag(H). A few strong channels raise the mean as far as ninety times above the median, and a
share of the mean would then drown all other channels. Constants were tuned on `TUNING` of
benchmarks/quantiser/synthetic.py (docs/quantiser.md).
"""

from typing import Final

import torch
from torch import Tensor

from mtp_quantiser.stages import Spread

LEAST_SHARE: Final = 0.005
MOST_SHARE: Final = 10.0
"""With more, codes are those of rounding."""
AT_ONE_TOKEN_A_COLUMN: Final = 0.03
AT_EVEN_NOISE: Final = 12.0
"""The share where noise and signal are equal."""
STEEPNESS: Final = 1.1
FEW_DIRECTIONS: Final = 0.6
"""Exponent of the part of the directions that noise of few strong tokens can spoil."""
LEAST_OF_MEAN: Final = 1e-5
"""Of the mean of diag(H): with less, the kernel's Cholesky runs out of precision where nearly all channels are idle."""


def damping(diagonal: Tensor, middle: Tensor, counts: Tensor, spread: Spread) -> Tensor:
    """FP32 [B], for `diagonal` [B, C] of H and its `level`, `middle` [B], summed over `counts` [B] tokens."""
    columns = diagonal.shape[1]
    noise = noise_share(columns, spread)
    share = AT_EVEN_NOISE * (noise / (1 - noise)) ** STEEPNESS + AT_ONE_TOKEN_A_COLUMN * columns / counts.clamp_min(1)
    return share.clamp(LEAST_SHARE, MOST_SHARE) * middle


def noise_share(columns: int, spread: Spread) -> Tensor:
    """FP32 [B], 0 to just below 1: how much of the correlations between channels is noise, as of few tokens.

    One strong token makes much noise, but spoils one direction of `columns`: so less is counted of it.
    """
    directions = (spread.counting / columns).clamp(max=1) ** FEW_DIRECTIONS
    noise = spread.noise / spread.correlation.clamp_min(torch.finfo(torch.float32).tiny)
    return (directions * noise).clamp(0, 0.99)


def level(diagonal: Tensor, order: Tensor) -> Tensor:
    """FP32 [B]: the median of diag(H) over the columns that any token used."""
    columns = diagonal.shape[1]
    rising = diagonal.gather(1, order.long())
    middle = ((rising <= 0).sum(1) + columns) // 2
    median = rising.gather(1, middle.clamp(max=columns - 1)[:, None])[:, 0]
    return torch.maximum(median, LEAST_OF_MEAN * diagonal.mean(1))
