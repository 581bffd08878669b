"""Quantises a batch of experts on the device: FP4 weights and routed tokens in, INT4 codes and scales out."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

from mtp_quantiser.damping import damping, level
from mtp_quantiser.formats.fp4 import decode_fp4
from mtp_quantiser.stages import ScaleGrid, Spread, Stages

FORWARD_ROWS = 32768
"""Tokens of one expert that pass through w1 and w3 at once; bounds the memory of the intermediate activations."""

IMPORTANCE_SHARE = 0.01
"""Share of the median of diag(H), added to diag(H) when it weights the columns in the scale search."""


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
    """BF16 [n, hidden]: the inputs of the experts."""
    route: Tensor
    """FP32 [n]: the router's weight of each token for its expert."""
    bounds: tuple[int, ...]
    """[B + 1]: expert b has the rows bounds[b] to bounds[b+1]."""
    offsets: Tensor
    """int32 [B + 1]: `bounds` on the device, copied in advance because a later copy would make the host wait."""

    @property
    def counts(self) -> Tensor:
        return self.offsets.diff()

    def spans(self, longest: int) -> Iterator[tuple[int, int, int]]:
        """(expert, begin, end) of pieces of at most `longest` rows."""
        for expert, (begin, end) in enumerate(pairwise(self.bounds)):
            for first in range(begin, end, longest):
                yield expert, first, min(first + longest, end)


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
    """FP32 [B, out]: the loss of the sweep, on the damped Hessian."""
    failed: Tensor
    """int32 [B]: not 0 if the factorisation failed, so that the codes are worthless."""
    damping: Tensor
    """FP32 [B]: the amount added to diag(H), relative to its mean over the columns."""


@dataclass(frozen=True)
class QuantisedExperts:
    gate_up: Quantised
    """Gate and up side by side along out: they share inputs, Hessian and factor."""
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
    spread: Spread
    """Of the inputs of gate and up."""
    spread_inner: Spread
    """Of the inputs of down."""


def calibrate(stages: Stages, experts: Experts, routed: Routed, settings: QuantiserSettings) -> Calibrated:
    """Run the tokens through gate and up, and sum the Hessian of every matrix."""
    weights = transposed(stages, experts.gate, experts.up)
    h = stages.gram(routed.x, routed.offsets)
    spread = stages.spread(routed.x, routed.offsets, h)
    inner = inner_activations(stages, weights, routed, settings.limit)
    h_inner = stages.gram(inner, routed.offsets)
    return Calibrated(weights, h, h_inner, routed.counts, spread, stages.spread(inner, routed.offsets, h_inner))


def quantise_experts(
    stages: Stages, experts: Experts, known: Calibrated, settings: QuantiserSettings
) -> QuantisedExperts:
    """The batch's codes and scales. There is no synchronisation with the host between the first and the last kernel."""
    gate_up = quantise(stages, known.weights, known.h, known.counts, known.spread, settings)
    weights = transposed(stages, experts.down)
    down = quantise(stages, weights, known.h_inner, known.counts, known.spread_inner, settings)
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
    spread: Spread,
    settings: QuantiserSettings,
    boost: float | None = None,
) -> Quantised:
    """Find scales by search and codes by GPTQ; `h` is [B, in, in].

    The damping is at least `boost` times the median of diag(H), for Hessians whose factorisation failed.
    """
    diagonal = h.diagonal(dim1=1, dim2=2)
    order = column_order(diagonal)
    middle = level(diagonal, order)
    scales = stages.search_scales(weights, importance_of(diagonal, middle), settings.grid)
    added = damping(diagonal, middle, counts, spread)
    if boost is not None:
        added = torch.maximum(added, boost * middle)
    factor = stages.factorise(h, order, added)
    found = stages.sweep(weights, scales, factor, order)
    share = added / diagonal.mean(1).clamp_min(torch.finfo(torch.float32).tiny)
    return Quantised(found.codes, scales, found.loss, factor.failed, share)


def column_order(diagonal: Tensor) -> Tensor:
    """int32 [B, in]: the order of the columns, lightest first.

    The sweep starts at the end: the heaviest are quantised while all others can still compensate.
    """
    return torch.argsort(diagonal, dim=1, stable=True).to(torch.int32)


def importance_of(diagonal: Tensor, middle: Tensor) -> Tensor:
    """FP32 [B, in]: the weight of each column in the scale search. Never zero: an unused channel may be used later."""
    raised = diagonal + IMPORTANCE_SHARE * middle[:, None]
    return torch.where(raised.amax(1, keepdim=True) > 0, raised, 1.0).contiguous()
