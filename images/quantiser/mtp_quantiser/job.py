"""Quantises the experts of an MTP layer in batches, evaluates each on held-out tokens, and writes it to disk."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import torch
from torch import Tensor

from mtp_quantiser.batch import (
    Calibrated,
    Experts,
    Quantised,
    QuantiserSettings,
    Routed,
    calibrate,
    inner_activations,
    quantise,
    transposed,
)
from mtp_quantiser.captures import Capture, Streamed
from mtp_quantiser.device_job import batches
from mtp_quantiser.evaluation import decoded, relative_error, round_to_nearest
from mtp_quantiser.expert_store import ExpertStore
from mtp_quantiser.fingerprint import fingerprint_of
from mtp_quantiser.layout import PREFIX
from mtp_quantiser.official import OfficialMtp
from mtp_quantiser.router import route
from mtp_quantiser.routing import Resident, RoutingTable, Tokens
from mtp_quantiser.stages import Spread, Stages
from mtp_quantiser.threads import in_threads
from mtp_quantiser.token_split import Part, parts_of

VERSION: Final = 4
"""Version of the method: raise it if the same inputs would give other bytes."""

BOOSTS: Final = (3.0, 30.0)
"""Minimum damping, in medians of diag(H), to try in turn for a Hessian that is not positive definite."""

RESIDENT_SHARE: Final = 0.3
"""Share of the device's free memory that tokens may use; beyond it they stay on disk."""


@dataclass(frozen=True)
class Inputs:
    """Tokens for calibration and for evaluation."""

    tokens: Tokens
    seen: RoutingTable
    held_out: RoutingTable


@dataclass(frozen=True)
class DeviceContext:
    device: torch.device
    stages: Stages
    print_line: Callable[[str], None]
    """Reports a fallback to the user."""


def made_from(official: OfficialMtp, capture: Capture | None, settings: QuantiserSettings) -> dict[str, Any]:
    """Everything that the output bytes depend on."""
    shards = sorted({official.checkpoint.shard_of[name] for name in official.shape.official()})
    source = [official.checkpoint.folder / shard for shard in shards]
    captured = [file.path for file in capture.files] if capture else []
    return {
        "version": VERSION,
        "source": fingerprint_of(source),
        "capture": fingerprint_of(captured) if capture else "none",
        "settings": json.loads(json.dumps(asdict(settings))),
    }


def inputs_of(official: OfficialMtp, capture: Capture, device: torch.device) -> Inputs:
    ids, weights = route(capture, official.gate(device), official.shape)
    numbers = torch.arange(len(ids), device=device)
    parts = parts_of(len(ids), capture.requests()).to(device)
    tables = [
        RoutingTable.of(ids[parts == part], weights[parts == part], official.shape.experts, numbers[parts == part])
        for part in Part
    ]
    return Inputs(tokens_on(device, capture), *tables)


def tokens_on(device: torch.device, capture: Capture) -> Tokens:
    """Keep the tokens on the device if they fit; otherwise read them from disk for each batch."""
    size = capture.tokens * 2 * capture.columns()
    if device.type == "cuda" and size < RESIDENT_SHARE * torch.cuda.mem_get_info(device)[0]:
        return Resident(torch.cat(list(capture.pieces(device))))
    for _ in capture.chunks():  # raises for rows that are not finite, before they enter the sums
        pass
    return Streamed(capture, device)


def run(
    official: OfficialMtp,
    inputs: Inputs | None,
    store: ExpertStore,
    machine: DeviceContext,
    settings: QuantiserSettings,
    size: int,
) -> Iterator[int]:
    """Yield each expert once it is on disk. A resumed run keeps the first run's batch size, for identical bytes."""
    size = store.batch or size
    reported: set[int] = set()
    while True:
        store.keep_batch(size)
        try:
            for expert in _in_batches(official, inputs, store, machine, settings, size):
                if expert not in reported:
                    reported.add(expert)
                    yield expert
        except torch.cuda.OutOfMemoryError:
            if size == 1:
                raise
        else:
            return
        size = max(1, size // 2)
        torch.cuda.empty_cache()
        machine.print_line(f"out of GPU memory: continuing with batches of {size} experts")


def _in_batches(
    official: OfficialMtp,
    inputs: Inputs | None,
    store: ExpertStore,
    machine: DeviceContext,
    settings: QuantiserSettings,
    size: int,
) -> Iterator[int]:
    counts = inputs.seen.counts if inputs else [0] * official.shape.experts
    for some in batches(counts, size):
        experts = range(some.start, some.stop)
        todo = [expert for expert in experts if not store.has(expert)]
        made = quantise_batch(official, inputs, some, machine, settings) if todo else []
        # Each waits for the disk, so they are written side by side.
        finished = [(expert, *made[expert - some.start]) for expert in todo]
        for _ in in_threads(lambda one: store.save(*one), finished):
            pass
        yield from experts


@dataclass(frozen=True)
class BatchMatrix:
    """One matrix of a batch, before its evaluation."""

    name: str
    weights: Tensor
    """BF16 [B, in, out]."""
    quantised: Quantised
    columns: slice
    """The columns of `quantised` along out."""


def quantise_batch(
    official: OfficialMtp, inputs: Inputs | None, some: slice, machine: DeviceContext, settings: QuantiserSettings
) -> list[tuple[dict[str, Tensor], dict[str, Any]]]:
    """Tensors and figures of each expert of the batch."""
    stages, experts = machine.stages, official.experts(some, machine.device)
    known = known_of(stages, experts, inputs, some, settings)
    down = transposed(stages, experts.down)
    both = with_enough_damping(stages, known.weights, known.h, known.counts, known.spread, settings)
    last = with_enough_damping(stages, down, known.h_inner, known.counts, known.spread_inner, settings)
    inner = official.shape.inner
    matrices = (
        BatchMatrix("w1", known.weights[:, :, :inner], both, slice(0, inner)),
        BatchMatrix("w3", known.weights[:, :, inner:], both, slice(inner, None)),
        BatchMatrix("w2", down, last, slice(None)),
    )
    held_out = inputs.held_out.batch(some, inputs.tokens) if inputs else None
    inner_held_out = inner_activations(stages, known.weights, held_out, settings.limit) if held_out else None
    made: list[tuple[dict[str, Tensor], dict[str, Any]]] = []
    for place in range(some.stop - some.start):
        tensors: dict[str, Tensor] = {}
        figures: dict[str, Any] = {"expert": some.start + place, "tokens": int(known.counts[place])}
        for matrix in matrices:
            x = (
                _rows(held_out, inner_held_out if matrix.name == "w2" else held_out.x, place)
                if held_out and inner_held_out is not None
                else None
            )
            stem = f"{PREFIX}ffn.experts.{some.start + place}.{matrix.name}"
            parts, figures[matrix.name] = finish(stages, matrix, place, x, figures["tokens"])
            tensors |= {f"{stem}.{part}": tensor for part, tensor in parts.items()}
        made.append((tensors, figures))
    return made


def _rows(routed: Routed, of: Tensor, place: int) -> Tensor:
    return of[routed.bounds[place] : routed.bounds[place + 1]]


def known_of(
    stages: Stages, experts: Experts, inputs: Inputs | None, some: slice, settings: QuantiserSettings
) -> Calibrated:
    """The statistics of a batch. Without inputs, the Hessians are zero and every matrix is rounded to nearest."""
    if inputs:
        return calibrate(stages, experts, inputs.seen.batch(some, inputs.tokens), settings)
    weights = transposed(stages, experts.gate, experts.up)
    batch, hidden, inner = len(weights), weights.shape[1], experts.down.shape[2]
    device = weights.device
    return Calibrated(
        weights,
        torch.zeros(batch, hidden, hidden, device=device),
        torch.zeros(batch, inner, inner, device=device),
        torch.zeros(batch, dtype=torch.int32, device=device),
        *(Spread(*torch.zeros(3, batch, device=device)) for _ in range(2)),
    )


def with_enough_damping(
    stages: Stages, weights: Tensor, h: Tensor, counts: Tensor, spread: Spread, settings: QuantiserSettings
) -> Quantised:
    """Quantise, and repeat experts whose factorisation failed with more damping. The others are unaffected."""
    done = quantise(stages, weights, h, counts, spread, settings)
    for boost in BOOSTS:
        bad = done.failed.nonzero().flatten()
        if not len(bad):
            break
        some = Spread(*(part[bad] for part in vars(spread).values()))
        again = quantise(stages, weights[bad], h[bad], counts[bad], some, settings, boost=boost)
        for whole, part in zip(vars(done).values(), vars(again).values(), strict=True):
            whole[bad] = part
    return done


def finish(
    stages: Stages, matrix: BatchMatrix, place: int, x: Tensor | None, tokens: int
) -> tuple[dict[str, Tensor], Mapping[str, Any]]:
    """Tensors and figures of one matrix; `x` are the held-out inputs. Rounds to nearest if GPTQ is no better."""
    weights = matrix.weights[place]
    scales = matrix.quantised.scales[place, :, matrix.columns]
    codes = matrix.quantised.codes[place, :, matrix.columns]
    nearest = round_to_nearest(weights, scales)
    figures: dict[str, Any] = {"method": "gptq"}
    if tokens and not matrix.quantised.failed[place]:
        figures["damping"] = matrix.quantised.damping[place].item()
    if matrix.quantised.failed[place]:
        figures = {"method": "rtn", "why": "the Hessian could not be factorised"}
    elif not tokens:
        why = "no capture was given" if x is None else "no calibration token reached this expert"
        figures = {"method": "rtn", "why": why}
    elif x is None or not len(x):
        figures["why"] = "no held-out tokens to judge it by"
    else:
        figures["errorGptq"] = relative_error(x, weights, decoded(codes, scales))
        figures["errorRtn"] = relative_error(x, weights, decoded(nearest, scales))
        if figures["errorGptq"] > figures["errorRtn"]:
            figures |= {"method": "rtn", "why": "rounding to nearest is better on held-out tokens"}
    chosen = codes if figures["method"] == "gptq" else nearest
    columns, rows = weights.shape
    return {
        "weight_packed": stages.pack(chosen[None].contiguous())[0].cpu(),
        "weight_scale": scales.T.contiguous().cpu(),
        "weight_shape": torch.tensor([rows, columns]),
    }, figures
