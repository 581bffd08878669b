"""Splits the captured tokens into those for calibration and those for evaluation.

It splits by request: tokens of one text resemble each other, so an error measured on the calibrated text is too low.
"""

from enum import IntEnum
from typing import Final

import torch
from torch import Tensor


class Part(IntEnum):
    CALIBRATE = 0
    EVALUATE = 1


SHARES: Final = (0.9, 0.1)
"""Shares of the tokens, in the order of `Part`."""

LEAST_REQUESTS: Final = 20
"""With fewer, the split is by blocks of consecutive rows, because a part might stay empty."""

LONGEST_BLOCK: Final = 256
BLOCKS: Final = 100


def parts_of(tokens: int, requests: Tensor | None) -> Tensor:
    """int8 [tokens]: the `Part` of each. `requests` [tokens] has the number of each token's request, from 0."""
    if requests is None or (sizes := torch.bincount(requests.cpu())).count_nonzero() < LEAST_REQUESTS:
        requests = torch.arange(tokens) // min(LONGEST_BLOCK, max(1, tokens // BLOCKS))
        sizes = torch.bincount(requests)
    return torch.tensor(_assigned(sizes.tolist()), dtype=torch.int8)[requests.cpu()]


def _assigned(sizes: list[int]) -> list[Part]:
    """The part of each request: the one that lacks most of its share, so that a long request goes to calibration."""
    got, total = [0.0] * len(SHARES), 0
    assigned = []
    for size in sizes:
        total += size
        part = max(Part, key=lambda part: SHARES[part] * total - got[part])
        got[part] += size
        assigned.append(part)
    return assigned
