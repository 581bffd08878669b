"""Splits the captured tokens into those to calibrate on and those to judge by.

By request: tokens of one text resemble each other, and an error measured on the text that was calibrated on is too low.
"""

from enum import IntEnum
from typing import Final

import torch
from torch import Tensor


class Part(IntEnum):
    CALIBRATE = 0
    JUDGE = 1


SHARES: Final = (0.9, 0.1)
"""Of the tokens, in the order of `Part`."""

LEAST_REQUESTS: Final = 20
"""With fewer, the split is by blocks of consecutive rows, for some part might stay empty."""

LONGEST_BLOCK: Final = 256
BLOCKS: Final = 100


def parts_of(tokens: int, requests: Tensor | None) -> Tensor:
    """int8 [tokens]: the `Part` of each. `requests` [tokens] has the number of each token's request, from 0 on."""
    if requests is None or (sizes := torch.bincount(requests.cpu())).count_nonzero() < LEAST_REQUESTS:
        requests = torch.arange(tokens) // min(LONGEST_BLOCK, max(1, tokens // BLOCKS))
        sizes = torch.bincount(requests)
    return torch.tensor(_dealt(sizes.tolist()), dtype=torch.int8)[requests.cpu()]


def _dealt(sizes: list[int]) -> list[Part]:
    """The part of each request: the one that then lacks most of its share, so that a long request is calibrated on."""
    got, total = [0.0] * len(SHARES), 0
    dealt = []
    for size in sizes:
        total += size
        part = max(Part, key=lambda part: SHARES[part] * total - got[part])
        got[part] += size
        dealt.append(part)
    return dealt
