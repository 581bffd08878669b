"""Verifies a restored or spliced checkpoint: reads it back and compares every bit with its source."""

import json
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from mtp_quantiser.batch import Fp4
from mtp_quantiser.checkpoint import INDEX, Checkpoint, opened
from mtp_quantiser.console import progress
from mtp_quantiser.formats.fp4 import GROUP as FP4_GROUP
from mtp_quantiser.formats.fp4 import VALUES as FP4_VALUES
from mtp_quantiser.formats.int4 import GROUP
from mtp_quantiser.layout import ALIASES, MtpShape
from mtp_quantiser.official import OfficialMtp
from mtp_quantiser.quantization_config import with_mtp
from mtp_quantiser.shard import SHARD, compare_with_manifest, read_manifest
from mtp_quantiser.splice import ALIAS_SHARD, OTHER_NAMES
from mtp_quantiser.threads import in_threads

CPU: Final = torch.device("cpu")

INT4_VALUES: Final = tuple(float(nibble - 8) for nibble in range(16))
ZEROS: Final = 0x88
"""A byte of two codes that are zero."""

COMPARED_BYTES: Final = 1 << 26
"""What a thread compares at once."""

ALIKE: Final = 0.9
"""INT4 of the right matrix has a cosine of 0.99 with it, and of any other near 0."""


def problems(folder: Path, source: OfficialMtp | None = None, device: torch.device = CPU) -> Iterator[str]:
    """Yield every problem of the folder.

    With `source`, the official checkpoint, copied tensors are compared bit by bit, and quantised tensors must be close
    to the original values, which is computed on `device`.
    """
    yield from compare_with_manifest(folder / SHARD, read_manifest(folder))
    if (folder / INDEX).exists():
        yield from spliced(folder)
    if source is not None:
        yield from against_source(folder, source, device)


def spliced(folder: Path) -> Iterator[str]:
    """Check that the index is right, the aliases are copies, and config.json declares the layer."""
    checkpoint = Checkpoint.open(folder)
    shape = MtpShape.of(checkpoint.config)
    held: dict[str, set[str]] = {}
    for shard in sorted(set(checkpoint.shard_of.values())):
        with opened(folder / shard) as file:
            held[shard] = set(file.keys())
    for name, shard in checkpoint.shard_of.items():
        if name not in held[shard]:
            yield f"{INDEX} lists {name} in {shard}, which does not contain it"
    for name in (*shape.product(), *ALIASES):
        if name not in checkpoint.shard_of:
            yield f"{INDEX} lacks {name}"
    for alias, name in ALIASES.items():
        original = name if name in checkpoint.shard_of else OTHER_NAMES[name]
        if alias in held.get(ALIAS_SHARD, ()) and not same_bits(checkpoint.tensor(alias), checkpoint.tensor(original)):
            yield f"{alias} is not a copy of {original}"
    if json.dumps(with_mtp(checkpoint.config, shape), sort_keys=True) != json.dumps(checkpoint.config, sort_keys=True):
        yield "config.json does not declare the MTP layer as `splice` writes it"


def against_source(folder: Path, official: OfficialMtp, device: torch.device) -> Iterator[str]:
    shard = folder / SHARD
    with opened(shard) as file:
        for name, tensor in official.rest():
            if not same_bits(file.get_tensor(name), tensor):
                yield f"{name} differs from the source"
    experts = official.shape.experts
    found = in_threads(partial(expert_problems, shard, official, device), range(experts))
    for some in progress(found, "comparing with the source", experts, "experts"):
        yield from some


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether type, shape and every bit agree, compared by all cores; the bits of NaN and of both zeros count too."""
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    pieces = zip(*(bits_of(tensor).split(COMPARED_BYTES) for tensor in (one, other)), strict=True)
    return all(in_threads(lambda both: torch.equal(*both), pieces))


def bits_of(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(-1).view(torch.uint8)


def expert_problems(shard: Path, official: OfficialMtp, device: torch.device, expert: int) -> list[str]:
    experts = official.experts(slice(expert, expert + 1), device)
    problems = []
    with opened(shard) as file:
        for matrix, fp4 in (("w1", experts.gate), ("w3", experts.up), ("w2", experts.down)):
            stem = f"mtp.0.ffn.experts.{expert}.{matrix}"
            words, scales = (file.get_tensor(f"{stem}.{part}") for part in ("weight_packed", "weight_scale"))
            problems += [f"{stem}: {problem}" for problem in mismatches(words.to(device), scales.to(device), fp4)]
    return problems


def mismatches(words: Tensor, scales: Tensor, fp4: Fp4) -> Iterator[str]:
    """Yield signs that the matrix is of another expert than `fp4` (a batch of one), or has swapped nibbles."""
    if not torch.isfinite(scales).all() or (scales <= 0).any():
        yield "a scale is not a positive number"
        return
    codes = words.view(torch.uint8)
    if (codes == ZEROS).all():
        yield "every code is zero"
        return
    found = cosine_similarity(codes, scales, fp4)
    if not found > ALIKE:
        yield f"its values do not match the source (cosine {found:.3f})"


def cosine_similarity(codes: Tensor, scales: Tensor, fp4: Fp4) -> float:
    """Cosine of the values of INT4 `codes` (uint8, two per byte) with those of `fp4`.

    Both formats have the even column in the low nibble, so products are looked up for whole bytes, and then summed
    over 32 columns, within which both scales are constant.
    """
    rows, device = codes.shape[0], codes.device
    ours, theirs = codes.int().view(-1), fp4.packed[0].int().view(-1)
    int4, fp4_values = _pairs(INT4_VALUES, device), _pairs(FP4_VALUES, device)

    def summed(table: Tensor, index: Tensor) -> Tensor:
        return table.index_select(0, index).view(rows, -1, FP4_GROUP // 2).sum(-1)

    scale = scales.double().repeat_interleave(GROUP // FP4_GROUP, -1)
    exponent = torch.exp2(fp4.exponents[0].double() - 127)
    both = (summed((int4 @ fp4_values.T).flatten(), (ours << 8) | theirs) * scale * exponent).sum()
    norm = (summed(int4.square().sum(1), ours) * scale.square()).sum()
    wanted = (summed(fp4_values.square().sum(1), theirs) * exponent.square()).sum()
    return float(both / (norm * wanted).sqrt())


def _pairs(values: Sequence[float], device: torch.device) -> Tensor:
    """FP32 [256, 2]: the values of a byte's low and high nibble."""
    table = torch.tensor(values, device=device)
    byte = torch.arange(256, device=device)
    return torch.stack([table[byte & 15], table[byte >> 4]], dim=1)
