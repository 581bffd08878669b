"""How much is added to the diagonal of a Hessian: two candidates for each matrix, and which of them its tokens prefer.

A share of the median of diag(H). A few strong channels raise the mean as far as twenty-five times above the median, and
a share of the mean would then drown all other channels. Constants were tuned on `TUNING` of
benchmarks/quantiser/synthetic.py (docs/quantiser.md).
"""

from typing import Final

import torch
from torch import Tensor

from mtp_quantiser.stages import Factor

LEAST_SHARE: Final = 0.01
MOST_SHARE: Final = 0.3
AT_ONE_TOKEN_A_COLUMN: Final = 0.1
LEAST_OF_MEAN: Final = 1e-5
"""Of the mean of diag(H): with less, the kernel's Cholesky runs out of precision where nearly all channels are idle."""


def candidates(diagonal: Tensor, order: Tensor, counts: Tensor) -> Tensor:
    """FP32 [2, B]: the damping that suits the number of tokens, and a strong one for inputs that correlate little.

    `diagonal` [B, C] of H, `order` [B, C] int32 the columns with rising diagonal, `counts` [B].
    """
    columns = diagonal.shape[1]
    share = (AT_ONE_TOKEN_A_COLUMN * columns / counts.float().clamp_min(1)).clamp(LEAST_SHARE, MOST_SHARE)
    return torch.stack([share, torch.full_like(share, MOST_SHARE)]) * level(diagonal, order)


def level(diagonal: Tensor, order: Tensor) -> Tensor:
    """FP32 [B]: the median of diag(H) over the columns that any token used."""
    columns = diagonal.shape[1]
    rising = diagonal.gather(1, order.long())
    middle = ((rising <= 0).sum(1) + columns) // 2
    median = rising.gather(1, middle.clamp(max=columns - 1)[:, None])[:, 0]
    return torch.maximum(median, LEAST_OF_MEAN * diagonal.mean(1))


def take_better(factors: tuple[Factor, Factor], losses: tuple[Tensor, Tensor]) -> tuple[Factor, Tensor]:
    """Each matrix's better factor, written over the first, and [B] bool: where that is the second.

    `losses` [B]. Equal ones, as without tokens to choose by, keep the first, if it did not fail.
    """
    first, second = factors
    later = ((losses[1] < losses[0]) | (first.failed != 0)) & (second.failed == 0)
    for kept, other in ((first.lower, second.lower), (first.blocks, second.blocks), (first.failed, second.failed)):
        chosen = later.view(-1, *[1] * (kept.dim() - 1))
        torch.where(chosen, other, kept, out=kept)
    return first, later
