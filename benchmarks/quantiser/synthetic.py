"""A job of the exact shapes of DeepSeek-V4-Flash's MTP layer, made on the device from a seed. Nothing in it is real.

Weights are Gaussian, rounded to FP4 with a power of two for each 32. Activations have a power-law spectrum and a few
strong channels, and experts see very different numbers of tokens: from 430 to 175,000, 11,086 in the mean.
"""

from dataclasses import dataclass

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


@dataclass(frozen=True)
class Job:
    shape: Shape
    experts: Experts
    tokens: Resident
    table: RoutingTable


def counts_of(shape: Shape, seed: int = 0) -> Tensor:
    """Tokens of each expert: a log-normal law bent so that least, most and mean are those asked for."""
    random = torch.Generator().manual_seed(seed)
    raw = torch.randn(shape.experts, generator=random, dtype=torch.float64).mul(0.9).exp()
    raw = raw.sort().values
    wanted = shape.tokens * shape.per_token
    middle = raw[1:-1] * ((wanted - shape.least - shape.most) / raw[1:-1].sum())
    counts = middle.round().long().clamp(shape.least, shape.most)
    counts[-1] += wanted - shape.least - shape.most - counts.sum()
    counts = torch.cat([torch.tensor([shape.least]), counts, torch.tensor([shape.most])])
    return counts[torch.randperm(shape.experts, generator=random)]


def activations(shape: Shape, random: torch.Generator, device: torch.device) -> Tensor:
    """BF16 [tokens, hidden]."""
    hidden = shape.hidden
    mixing = torch.randn(hidden, hidden, generator=random, device=device) / hidden**0.5
    spectrum = torch.arange(1, hidden + 1, device=device).float() ** -0.6
    mixing *= (spectrum * hidden**0.5 / spectrum.norm())[:, None]
    strong = torch.randperm(hidden, generator=random, device=device)[: max(1, hidden // 500)]
    x = torch.empty(shape.tokens, hidden, dtype=torch.bfloat16, device=device)
    for part in x.split(65536):
        drawn = torch.randn(len(part), hidden, generator=random, device=device)
        mixed = drawn.bfloat16() @ mixing.bfloat16()
        mixed += 0.15 * torch.randn(mixed.shape, generator=random, device=device, dtype=torch.bfloat16)
        mixed[:, strong] *= 12
        part.copy_(mixed)
    return x


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


def make(shape: Shape, device: torch.device, seed: int = 0) -> Job:
    random = torch.Generator(device).manual_seed(seed)
    tokens = Resident(activations(shape, random, device))
    table = routing(shape, random, device)
    experts = Experts(
        fp4_matrices(shape.experts, shape.inner, shape.hidden, random, device),
        fp4_matrices(shape.experts, shape.inner, shape.hidden, random, device),
        fp4_matrices(shape.experts, shape.hidden, shape.inner, random, device),
    )
    return Job(shape, experts, tokens, table)
