"""Held-out error of each method on a few experts of the synthetic job, every method with the same scales."""

from collections.abc import Callable, Iterator
from typing import Any, Final, Protocol

import torch
from torch import Tensor

import reference
import synthetic
from mtp_quantiser import batch
from mtp_quantiser.batch import QuantiserSettings, column_order
from mtp_quantiser.evaluation import decoded, relative_error, round_to_nearest
from mtp_quantiser.routing import Resident, RoutingTable
from mtp_quantiser.stages import Stages
from mtp_quantiser.token_split import Part, parts_of
from peer import Peer


class Second(Protocol):
    """Another peer, which yields its matrices [in, out] by the name of the method."""

    def values(
        self, w: Tensor, h: Tensor, scales: Tensor, share: float, count: int
    ) -> Iterator[tuple[str, Tensor]]: ...


SAMPLE: Final = 8


def compare(
    stages: Stages, job: synthetic.Job, peer: Peer | None, log: Callable[..., None], second: Second | None = None
) -> None:
    """Experts at even steps through the sorted token counts, the least and the most among them."""
    by_count = sorted(range(job.shape.experts), key=job.table.counts.__getitem__)
    for place in range(SAMPLE):
        expert = by_count[place * (job.shape.experts - 1) // (SAMPLE - 1)]
        for row in one_expert(stages, job, peer, expert, second, with_reference=place in (0, 3)):
            log("held-out error, synthetic data", expert=expert, tokens=job.table.counts[expert], **row)


def one_expert(
    stages: Stages,
    job: synthetic.Job,
    peer: Peer | None,
    expert: int,
    second: Second | None = None,
    *,
    with_reference: bool,
) -> list[dict[str, Any]]:
    rows = job.table.rows[job.table.bounds[expert] : job.table.bounds[expert + 1]]
    route = job.table.route[job.table.bounds[expert] : job.table.bounds[expert + 1]]
    parts = parts_of(len(rows), None).to(rows.device)
    some = job.experts[slice(expert, expert + 1)]
    seen, unseen = (part(job.tokens, rows[parts == one], route[parts == one]) for one in Part)
    known = batch.calibrate(stages, some, seen, QuantiserSettings())
    count = len(seen.x)
    inner = batch.inner_activations(stages, known.weights, unseen, QuantiserSettings().limit)
    done = batch.quantise_experts(stages, some, known, QuantiserSettings())
    down = batch.transposed(stages, some.down)
    half = known.weights.shape[2] // 2
    cases = {
        "gate": (known.weights[0, :, :half], known.h[0], done.gate_up, slice(0, half), unseen.x),
        "up": (known.weights[0, :, half:], known.h[0], done.gate_up, slice(half, None), unseen.x),
        "down": (down[0], known.h_inner[0], done.down, slice(None), inner),
    }
    return [
        {
            "matrix": name,
            **methods(stages, *case, count, peer, second, with_reference=with_reference),
        }
        for name, case in cases.items()
    ]


def part(tokens: Resident, rows: Tensor, route: Tensor) -> batch.Routed:
    table = RoutingTable.grouped(rows, route, torch.tensor([len(rows)]))
    return table.batch(slice(0, 1), tokens)


def methods(
    stages: Stages, w: Tensor, h: Tensor, quantised: batch.Quantised, columns: slice, x: Tensor,
    count: int, peer: Peer | None, second: Second | None = None, *, with_reference: bool,
) -> dict[str, float]:  # fmt: skip
    """`w` [in, out]; errors by method, and how many codes differ from the float64 reference.

    `h` [in, in] is the Hessian of `count` tokens.
    """
    scales, codes = quantised.scales[0, :, columns], quantised.codes[0, :, columns]
    share = quantised.damping[0].item()

    def error(values: Tensor) -> float:
        return relative_error(x, w, values)

    plain = (w.float().view(-1, 128, w.shape[1]).abs().amax(1) / 7.5).bfloat16()
    found = {
        "ours": error(decoded(codes, scales)),
        "rtn": error(decoded(round_to_nearest(w, scales), scales)),
        "rtn, absmax scales": error(decoded(round_to_nearest(w, plain), plain)),
        "damping chosen, of the mean": share,
    }
    found |= {name: error(decoded(c, scales)) for name, c in published(stages, w, h, scales)}
    if peer:
        found |= {
            name: error(values) for name, values in peers_values(peer, w, h / max(1, count), scales, plain, share)
        }
    if second:
        given = second.values(w, h / max(1, count), scales, share, count)
        found |= {name: error(values) for name, values in given}
    if with_reference:
        kept = column_order(h.diagonal()[None])[0]
        exact = reference.gptq(w.mT, h, scales.mT, share * h.diagonal().mean().item(), kept)
        found["reference"] = error(decoded(exact.codes.mT, scales))
        found["codes unlike the reference"] = (exact.codes.mT != codes).float().mean().item()
        found["loss over reference"] = quantised.loss[0, columns].sum().item() / exact.loss
    return found


def published(stages: Stages, w: Tensor, h: Tensor, scales: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Codes [in, out] of the peers' settings with our kernels and scales: the peers' own cores need their packages."""
    by_weight = column_order(h.diagonal()[None])
    as_they_lie = torch.arange(len(w) - 1, -1, -1, dtype=torch.int32, device=w.device)[None]
    for name, order, share in (
        ("llm-compressor's settings, our kernels", by_weight, 0.01),
        ("llm-compressor's settings without an order, our kernels", as_they_lie, 0.01),
        ("GPTQModel's damping without an order, our kernels", as_they_lie, 0.05),
    ):
        factor = stages.factorise(h[None], order, (share * h.diagonal().mean())[None])
        if not factor.failed.any():
            yield name, stages.sweep(w[None].contiguous(), scales[None].contiguous(), factor, order).codes[0]


def peers_values(
    peer: Peer, w: Tensor, h: Tensor, scales: Tensor, plain: Tensor, share: float
) -> Iterator[tuple[str, Tensor]]:
    """The peer's matrices [in, out]: with our scales, with each order and damping; and with its default scales."""

    def run(order: str | None, damping: float, some_scales: Tensor) -> Tensor:
        stack = w.mT.float()[None].contiguous(), h[None].clone(), some_scales.mT[None].contiguous()
        return peer.quantise(*stack, order, damping)[0].mT.bfloat16()

    for order in ("static", None):
        for damping in sorted({0.01, round(share, 6)}):
            yield f"llm-compressor, order {order}, damping {damping:.3g}", run(order, damping, scales)
    yield "llm-compressor, order static, damping 0.01, absmax scales", run("static", 0.01, plain)
