"""A job of the exact shapes of DeepSeek-V4-Flash's MTP layer, made on the device from a seed. Nothing in it is real.

Weights are Gaussian, rounded to FP4 with a power of two for each 32. Experts see very different numbers of tokens: from
430 to 175,000, 11,086 in the mean. Activations follow one of several laws: methods are tuned on `TUNING` and judged on
`VERDICT`, whose parameters and seeds differ, because no one law stands for a real model.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor

from mtp_quantiser.batch import Experts, Fp4
from mtp_quantiser.routing import Resident, RoutingTable


@dataclass(frozen=True)
class Shape:
    experts: int = 256
    hidden: int = 4096
    inner: int = 2048
    tokens: int = 473_003
    per_token: int = 6
    least: int = 430
    most: int = 175_000
    spread: float = 0.9
    """Of the logarithm of the tokens of an expert."""


FEW: Final = Shape(experts=10, tokens=60_000, per_token=2, least=430, most=45_000)
"""Experts of the exact shapes with few to many tokens: enough to judge by, and quick to make under every law."""


@dataclass(frozen=True)
class Law:
    """How activations are distributed."""

    decay: float | None = 0.6
    """Exponent of the power law of their spectrum. None: white noise, with no correlation between channels."""
    tail: int | None = None
    """Degrees of freedom of a Student-t law, over the strength of tokens. None: Gaussian."""
    strong: float = 0.002
    """Share of the channels that are stronger than the rest."""
    factor: float = 12.0
    """By how much they are."""


VERDICT: Final[Mapping[str, Law]] = {
    "gaussian": Law(),
    "heavy tails": Law(tail=3),
    "outlier channels": Law(strong=0.01, factor=50.0),
    "heavy tails and outlier channels": Law(tail=3, strong=0.01, factor=50.0),
    "white noise": Law(decay=None, strong=0.0),
}
"""What figures are reported on."""

TUNING: Final[Mapping[str, Law]] = {
    "gaussian": Law(decay=0.75, strong=0.004, factor=8.0),
    "heavy tails": Law(decay=0.5, tail=5),
    "outlier channels": Law(decay=0.5, strong=0.02, factor=30.0),
    "heavy tails and outlier channels": Law(decay=0.7, tail=4, strong=0.015, factor=70.0),
    "white noise": Law(decay=None, strong=0.01, factor=3.0),
    "heavier tails, flat": Law(decay=0.5, tail=3),
    "heavier tails, steep": Law(decay=0.7, tail=3, strong=0.004, factor=8.0),
    "heavier tails and outlier channels": Law(decay=0.65, tail=3, strong=0.015, factor=40.0),
    "heavier tails, no strong channel": Law(decay=0.5, tail=3, strong=0.0),
    "heavier tails, steeper": Law(decay=0.7, tail=3),
}
"""What constants of the method are chosen on, with seeds from 1000 on."""


@dataclass(frozen=True)
class Job:
    shape: Shape
    experts: Experts
    tokens: Resident
    table: RoutingTable


def counts_of(shape: Shape, seed: int = 0) -> Tensor:
    """Tokens of each expert: a log-normal law bent so that least, most and mean are those asked for."""
    random = torch.Generator().manual_seed(seed)
    raw = torch.randn(shape.experts, generator=random, dtype=torch.float64).mul(shape.spread).exp()
    raw = raw.sort().values
    wanted = shape.tokens * shape.per_token
    middle = raw[1:-1] * ((wanted - shape.least - shape.most) / raw[1:-1].sum())
    counts = middle.round().long().clamp(shape.least, shape.most)
    counts[-1] += wanted - shape.least - shape.most - counts.sum()
    counts = torch.cat([torch.tensor([shape.least]), counts, torch.tensor([shape.most])])
    return counts[torch.randperm(shape.experts, generator=random)]


def activations(shape: Shape, random: torch.Generator, device: torch.device, law: Law) -> Tensor:
    """BF16 [tokens, hidden]."""
    hidden = shape.hidden
    mixing = torch.eye(hidden, device=device) if law.decay is None else power_law(hidden, law.decay, random, device)
    strong = torch.randperm(hidden, generator=random, device=device)[: channels_of(law.strong, hidden)]
    x = torch.empty(shape.tokens, hidden, dtype=torch.bfloat16, device=device)
    for part in x.split(65536):
        drawn = torch.randn(len(part), hidden, generator=random, device=device)
        mixed = drawn.bfloat16() @ mixing.bfloat16()
        mixed += 0.15 * torch.randn(mixed.shape, generator=random, device=device, dtype=torch.bfloat16)
        mixed[:, strong] *= law.factor
        part.copy_(mixed if law.tail is None else mixed * strengths(len(part), law.tail, random, device))
    return x


def power_law(hidden: int, decay: float, random: torch.Generator, device: torch.device) -> Tensor:
    """[hidden, hidden]: what white noise is multiplied with to have that spectrum."""
    mixing = torch.randn(hidden, hidden, generator=random, device=device) / hidden**0.5
    spectrum = torch.arange(1, hidden + 1, device=device).float() ** -decay
    return mixing * (spectrum * hidden**0.5 / spectrum.norm())[:, None]


def channels_of(share: float, hidden: int) -> int:
    return max(1, int(hidden * share)) if share else 0


def strengths(tokens: int, tail: int, random: torch.Generator, device: torch.device) -> Tensor:
    """[tokens, 1]: times a Gaussian row, a multivariate Student-t one with `tail` degrees of freedom."""
    drawn = torch.randn(tokens, tail, generator=random, device=device)
    return drawn.square().mean(1, keepdim=True).rsqrt()


def fp4_matrices(batch: int, rows: int, columns: int, random: torch.Generator, device: torch.device) -> Fp4:
    packed = torch.empty(batch, rows, columns // 2, dtype=torch.uint8, device=device)
    exponents = torch.empty(batch, rows, columns // 32, dtype=torch.uint8, device=device)
    edges = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0], device=device)
    for one in range(batch):
        w = torch.randn(rows, columns, generator=random, device=device) / columns**0.5
        groups = w.view(rows, columns // 32, 32)
        exponent = torch.ceil(torch.log2(groups.abs().amax(2) / 6))
        code = torch.bucketize((groups / torch.exp2(exponent)[:, :, None]).abs(), edges)
        code = (code + 8 * (groups < 0)).view(rows, columns // 2, 2).to(torch.uint8)
        packed[one] = code[:, :, 0] | (code[:, :, 1] << 4)
        exponents[one] = (exponent + 127).to(torch.uint8)
    return Fp4(packed, exponents)


def routing(shape: Shape, random: torch.Generator, device: torch.device) -> RoutingTable:
    """Each expert sees a random choice of tokens, in their order, none twice."""
    counts = counts_of(shape)
    rows = [
        torch.randperm(shape.tokens, generator=random, device=device)[:count].sort().values for count in counts.tolist()
    ]
    pairs = torch.cat(rows)
    route = torch.rand(len(pairs), generator=random, device=device) * 0.5 + 0.05
    return RoutingTable.grouped(pairs, route, counts)


def all_to_six(job: Job) -> Job:
    """The same, but the router sends every token to the same six experts: the most a batch can be asked to hold."""
    device, tokens = job.table.rows.device, job.shape.tokens
    counts = torch.tensor([tokens] * job.shape.per_token + [0] * (job.shape.experts - job.shape.per_token))
    pairs = torch.arange(tokens, device=device).repeat(job.shape.per_token)
    route = torch.full((len(pairs),), 0.25, device=device)
    return replace(job, table=RoutingTable.grouped(pairs, route, counts))


def make(shape: Shape, device: torch.device, seed: int = 0, law: Law = VERDICT["gaussian"]) -> Job:
    random = torch.Generator(device).manual_seed(seed)
    tokens = Resident(activations(shape, random, device, law))
    table = routing(shape, random, device)
    experts = Experts(
        fp4_matrices(shape.experts, shape.inner, shape.hidden, random, device),
        fp4_matrices(shape.experts, shape.inner, shape.hidden, random, device),
        fp4_matrices(shape.experts, shape.hidden, shape.inner, random, device),
    )
    return Job(shape, experts, tokens, table)
