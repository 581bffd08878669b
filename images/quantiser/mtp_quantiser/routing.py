"""Groups tokens and their weights by expert."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from mtp_quantiser.batch import Routed


class Tokens(Protocol):
    """The captured inputs of the experts, wherever they are kept."""

    def gather(self, rows: Tensor) -> Tensor:
        """BF16 [n, hidden] on the working device: the tokens with these numbers (int64)."""


@dataclass(frozen=True)
class Resident:
    """All tokens on the device."""

    x: Tensor

    def gather(self, rows: Tensor) -> Tensor:
        return self.x.index_select(0, rows)


@dataclass(frozen=True)
class RoutingTable:
    """All (token, expert) pairs, ordered by expert, then by token."""

    rows: Tensor
    """int64 [pairs]: token numbers."""
    route: Tensor
    """FP32 [pairs]."""
    bounds: tuple[int, ...]
    """[experts + 1]: expert e has the pairs bounds[e] to bounds[e+1]."""
    offsets: Tensor
    """int32 [experts + 1]: `bounds` on the device."""

    @classmethod
    def of(cls, ids: Tensor, weights: Tensor, experts: int, numbers: Tensor) -> "RoutingTable":
        """From the router's choice: `ids` and `weights` [tokens, k] of the tokens with these `numbers`."""
        flat, tokens = ids.flatten().long(), numbers.repeat_interleave(ids.shape[1])
        by_expert = torch.argsort(flat, stable=True)
        counts = torch.bincount(flat, minlength=experts)
        return cls.grouped(tokens[by_expert], weights.flatten()[by_expert].float(), counts)

    @classmethod
    def grouped(cls, rows: Tensor, route: Tensor, counts: Tensor) -> "RoutingTable":
        """From pairs that are already grouped by expert."""
        offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        return cls(rows, route, tuple(offsets.tolist()), offsets.to(rows.device, torch.int32))

    def of_tokens(self, chosen: Tensor) -> "RoutingTable":
        """The pairs of the tokens for which `chosen` [tokens] bool is true."""
        kept = chosen[self.rows]
        before = torch.cat([kept.new_zeros(1, dtype=torch.int64), kept.cumsum(0)])
        return self.grouped(self.rows[kept], self.route[kept], before[self.offsets.long()].diff())

    @property
    def counts(self) -> list[int]:
        return [end - begin for begin, end in pairwise(self.bounds)]

    def batch(self, experts: slice, tokens: Tokens) -> Routed:
        """The tokens of consecutive experts, gathered."""
        begin, end = self.bounds[experts.start], self.bounds[experts.stop]
        bounds = tuple(bound - begin for bound in self.bounds[experts.start : experts.stop + 1])
        offsets = self.offsets[experts.start : experts.stop + 1] - begin
        return Routed(tokens.gather(self.rows[begin:end]), self.route[begin:end], bounds, offsets)
