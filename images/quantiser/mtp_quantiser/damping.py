"""Computes how much to add to the diagonal of a Hessian: more for few tokens, and for inputs that correlate little.

It is a share of the median of diag(H). A few strong channels raise the mean to as much as ninety times the median, and
a share of the mean would drown all other channels. The constants were tuned on `TUNING` of
benchmarks/quantiser/synthetic.py (docs/quantiser.md).
"""

from typing import Final

import torch
from torch import Tensor

from mtp_quantiser.stages import Spread

LEAST_SHARE: Final = 0.005
MOST_SHARE: Final = 10.0
"""With more, the codes are those of rounding to nearest."""
AT_ONE_TOKEN_A_COLUMN: Final = 0.03
AT_EVEN_NOISE: Final = 12.0
"""The share at which noise and signal are equal."""
STEEPNESS: Final = 1.1
FEW_DIRECTIONS: Final = 0.6
"""Exponent of the share of directions that the noise of few strong tokens can affect."""
LEAST_OF_MEAN: Final = 1e-5
"""Share of the mean of diag(H). With less, the kernel's Cholesky loses precision if nearly all channels are idle."""


def damping(diagonal: Tensor, middle: Tensor, counts: Tensor, spread: Spread) -> Tensor:
    """FP32 [B], for `diagonal` [B, C] of H and its `level`, `middle` [B], summed over `counts` [B] tokens."""
    columns = diagonal.shape[1]
    noise = noise_share(columns, spread)
    share = AT_EVEN_NOISE * (noise / (1 - noise)) ** STEEPNESS + AT_ONE_TOKEN_A_COLUMN * columns / counts.clamp_min(1)
    return share.clamp(LEAST_SHARE, MOST_SHARE) * middle


def noise_share(columns: int, spread: Spread) -> Tensor:
    """FP32 [B], 0 to just below 1: how much of the correlations between channels is noise, as with few tokens.

    One strong token makes much noise, but affects only one direction of `columns`, so its noise counts less.
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
