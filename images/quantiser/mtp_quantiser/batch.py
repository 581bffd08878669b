"""Quantises a batch of experts on the device: FP4 weights and routed tokens in, INT4 codes and scales out."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum, auto
from itertools import pairwise

import torch
from torch import Tensor

from mtp_quantiser.formats.fp4 import decode_fp4
from mtp_quantiser.stages import GROUP, Factor, ScaleGrid, Stages

FORWARD_ROWS = 32768
"""Tokens of one expert that pass through w1 and w3 at once; bounds the memory of the intermediate activations."""

SCARCE_DAMPING = 0.1
AMPLE_DAMPING = 0.01
"""Shares of the mean of diag(H): below as many tokens as columns, and from twice as many on. Held-out errors on
synthetic experts chose them (docs/quantiser.md)."""


@dataclass(frozen=True)
class Fp4:
    """Matrices of a batch of experts in the official layout."""

    packed: Tensor
    """uint8 [B, out, in/2]."""
    exponents: Tensor
    """uint8 [B, out, in/32], E8M0."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(experts, out, in)."""
        batch, rows, half = self.packed.shape
        return batch, rows, 2 * half

    def decoded(self) -> Tensor:
        """BF16 [B, out, in]; exact."""
        return decode_fp4(self.packed, self.exponents)

    def __getitem__(self, experts: slice) -> "Fp4":
        return Fp4(self.packed[experts], self.exponents[experts])


@dataclass(frozen=True)
class Experts:
    """The three matrices of every expert: gate (w1), up (w3) and down (w2)."""

    gate: Fp4
    up: Fp4
    down: Fp4

    def __getitem__(self, experts: slice) -> "Experts":
        return Experts(self.gate[experts], self.up[experts], self.down[experts])


@dataclass(frozen=True)
class Routed:
    """The tokens of a batch of experts, grouped by expert."""

    x: Tensor
    """BF16 [n, hidden]: what enters the experts."""
    route: Tensor
    """FP32 [n]: the router's weight of each token for its expert."""
    bounds: tuple[int, ...]
    """[B + 1]: expert b has the rows bounds[b] to bounds[b+1]."""
    offsets: Tensor
    """int32 [B + 1]: `bounds` on the device, copied beforehand because a copy here would make the host wait."""

    @property
    def counts(self) -> Tensor:
        return self.offsets.diff()

    def spans(self, longest: int) -> Iterator[tuple[int, int, int]]:
        """(expert, begin, end) of pieces of at most `longest` rows."""
        for expert, (begin, end) in enumerate(pairwise(self.bounds)):
            for first in range(begin, end, longest):
                yield expert, first, min(first + longest, end)


class Order(Enum):
    """The order of columns. Both quantise the heaviest columns by diag(H) first, while all others can still compensate.

    On synthetic data groups were 3 % better for gate and up, whose inputs differ little but for a few strong channels,
    and columns up to 3 % better for down, whose inputs differ widely (docs/quantiser.md).
    """

    BY_GROUP = auto()
    """Groups by their heaviest column, columns within their group: a group is done at once, while its scale fits it."""
    BY_COLUMN = auto()


@dataclass(frozen=True)
class QuantiserSettings:
    limit: float = 10.0
    """The model's swiglu_limit."""
    grid: ScaleGrid = field(default_factory=ScaleGrid)


@dataclass(frozen=True)
class Quantised:
    """Matrices of a batch of experts, transposed as in `stages`."""

    codes: Tensor
    """int8 [B, in, out]."""
    scales: Tensor
    """BF16 [B, in/128, out]."""
    loss: Tensor
    """FP32 [B, out]: what the sweep lost, on the damped Hessian."""
    failed: Tensor
    """int32 [B]: not 0 where the factorisation failed, and the codes are worthless."""


@dataclass(frozen=True)
class QuantisedExperts:
    gate_up: Quantised
    """Gate and up beside each other along out: they share inputs, Hessian and factor."""
    down: Quantised


@dataclass(frozen=True)
class Calibrated:
    """The statistics that quantising needs; the tokens themselves can be freed."""

    weights: Tensor
    """BF16 [B, hidden, 2 inner]: gate and up side by side."""
    h: Tensor
    """FP32 [B, hidden, hidden]."""
    h_inner: Tensor
    """FP32 [B, inner, inner]."""
    counts: Tensor
    """int32 [B]: tokens of each expert."""


def calibrate(stages: Stages, experts: Experts, routed: Routed, settings: QuantiserSettings) -> Calibrated:
    """Runs the tokens through gate and up, and sums the Hessian of every matrix."""
    weights = transposed(stages, experts.gate, experts.up)
    h = stages.gram(routed.x, routed.offsets)
    inner = inner_activations(stages, weights, routed, settings.limit)
    return Calibrated(weights, h, stages.gram(inner, routed.offsets), routed.counts)


def quantise_experts(
    stages: Stages, experts: Experts, known: Calibrated, settings: QuantiserSettings
) -> QuantisedExperts:
    """The batch's codes and scales. Does not synchronise with the host between the first kernel and the last."""
    gate_up = quantise(stages, known.weights, known.h, known.counts, settings, Order.BY_GROUP)
    weights = transposed(stages, experts.down)
    down = quantise(stages, weights, known.h_inner, known.counts, settings, Order.BY_COLUMN)
    return QuantisedExperts(gate_up, down)


def transposed(stages: Stages, *matrices: Fp4) -> Tensor:
    """BF16 [B, in, sum of outs]: the matrices side by side."""
    batch, _, columns = matrices[0].shape
    rows = [matrix.shape[1] for matrix in matrices]
    out = torch.empty(batch, columns, sum(rows), dtype=torch.bfloat16, device=matrices[0].packed.device)
    for index, matrix in enumerate(matrices):
        stages.dequantise_into(matrix.packed, matrix.exponents, out, sum(rows[:index]))
    return out


def inner_activations(stages: Stages, weights: Tensor, routed: Routed, limit: float) -> Tensor:
    """BF16 [n, intermediate]: the input of w2, rounded where the model rounds it."""
    inner = torch.empty(len(routed.x), weights.shape[2] // 2, dtype=torch.bfloat16, device=weights.device)
    for expert, begin, end in routed.spans(FORWARD_ROWS):
        both = routed.x[begin:end] @ weights[expert]
        stages.gate_into(both, routed.route[begin:end], limit, inner[begin:end])
    return inner


def quantise(
    stages: Stages,
    weights: Tensor,
    h: Tensor,
    counts: Tensor,
    settings: QuantiserSettings,
    order_by: Order,
    boost: float = 1.0,
) -> Quantised:
    """Scales by search, codes by GPTQ, `h` being [B, in, in].

    `boost` multiplies the damping, for a Hessian that would not factor.
    """
    diagonal = h.diagonal(dim1=1, dim2=2)
    damping = boost * damping_share(counts, h.shape[1]) * diagonal.mean(1)
    scales = stages.search_scales(weights, importance_of(diagonal, damping), settings.grid)
    order = column_order(diagonal, order_by)
    factor: Factor = stages.factorise(h, order, damping)
    swept = stages.sweep(weights, scales, factor, order)
    return Quantised(swept.codes, scales, swept.loss, factor.failed)


def column_order(diagonal: Tensor, by: Order) -> Tensor:
    """int32 [B, in]: the order in which columns are kept, the lightest first; the sweep starts with the last."""
    if by is Order.BY_COLUMN:
        return torch.argsort(diagonal, dim=1, stable=True).to(torch.int32)
    grouped = diagonal.unflatten(1, (-1, GROUP))
    firsts = GROUP * torch.arange(grouped.shape[1], device=diagonal.device)
    columns = torch.argsort(grouped, dim=2, stable=True) + firsts[:, None]
    groups = torch.argsort(grouped.amax(2), dim=1, stable=True)
    return columns.gather(1, groups[:, :, None].expand(-1, -1, GROUP)).flatten(1).to(torch.int32)


def importance_of(diagonal: Tensor, damping: Tensor) -> Tensor:
    """FP32 [B, in]: the weight of each column in the scale search. Never zero: an unused channel may be used later."""
    damped = diagonal + damping[:, None]
    return torch.where(damped.amax(1, keepdim=True) > 0, damped, 1.0).contiguous()


def damping_share(counts: Tensor, columns: int) -> Tensor:
    """FP32 [B]: interpolates the share between the two bounds on a logarithmic scale."""
    scarcity = (2 - counts.float() / columns).clamp(0, 1)
    return AMPLE_DAMPING * (SCARCE_DAMPING / AMPLE_DAMPING) ** scarcity
