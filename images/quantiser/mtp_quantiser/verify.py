"""Verifies a restored or spliced checkpoint: reads it back and compares every bit with its source."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import torch

from mtp_quantiser.checkpoint import INDEX, Checkpoint, opened
from mtp_quantiser.formats.int4 import decode_int4, unpack
from mtp_quantiser.layout import ALIASES, MtpShape
from mtp_quantiser.official import OfficialMtp
from mtp_quantiser.quantization_config import with_mtp
from mtp_quantiser.shard import SHARD, compare_with_manifest, digest, read_manifest
from mtp_quantiser.splice import ALIAS_SHARD, OTHER_NAMES

ALIKE: Final = 0.9
"""INT4 of the right matrix has a cosine of 0.99 with it; of any other, near 0."""


def problems(folder: Path, source: Path | None) -> Iterator[str]:
    """Yields every problem of the folder.

    With `source`, the official checkpoint, copied tensors are compared bit by bit, and quantised tensors must be close
    to the original values.
    """
    yield from compare_with_manifest(folder / SHARD, read_manifest(folder))
    if (folder / INDEX).exists():
        yield from spliced(folder)
    if source is not None:
        yield from against_source(folder, OfficialMtp.open(source))


def spliced(folder: Path) -> Iterator[str]:
    """Checks that the index is right, the aliases are copies, and config.json declares the layer."""
    checkpoint = Checkpoint.open(folder)
    shape = MtpShape.of(checkpoint.config)
    held: dict[str, set[str]] = {}
    for shard in sorted(set(checkpoint.shard_of.values())):
        with opened(folder / shard) as file:
            held[shard] = set(file.keys())
    for name, shard in checkpoint.shard_of.items():
        if name not in held[shard]:
            yield f"{INDEX} lists {name} in {shard}, which does not hold it"
    for name in (*shape.product(), *ALIASES):
        if name not in checkpoint.shard_of:
            yield f"{INDEX} lacks {name}"
    for alias, name in ALIASES.items():
        original = name if name in checkpoint.shard_of else OTHER_NAMES[name]
        if alias in held.get(ALIAS_SHARD, ()) and digest(checkpoint.tensor(alias)) != digest(
            checkpoint.tensor(original)
        ):
            yield f"{alias} is not a copy of {original}"
    if json.dumps(with_mtp(checkpoint.config, shape), sort_keys=True) != json.dumps(checkpoint.config, sort_keys=True):
        yield "config.json does not declare the MTP layer as `splice` writes it"


def against_source(folder: Path, official: OfficialMtp) -> Iterator[str]:
    shard = folder / SHARD
    with opened(shard) as file:
        for name, tensor in official.rest():
            if digest(file.get_tensor(name)) != digest(tensor):
                yield f"{name} differs from the source"
        for expert in range(official.shape.experts):
            experts = official.experts(slice(expert, expert + 1), torch.device("cpu"))
            for matrix, fp4 in (("w1", experts.gate), ("w3", experts.up), ("w2", experts.down)):
                stem = f"mtp.0.ffn.experts.{expert}.{matrix}"
                words, scales = (file.get_tensor(f"{stem}.{part}") for part in ("weight_packed", "weight_scale"))
                yield from (f"{stem}: {problem}" for problem in mismatches(words, scales, fp4.decoded()[0]))


def mismatches(words: torch.Tensor, scales: torch.Tensor, weights: torch.Tensor) -> Iterator[str]:
    """Yields signs that the matrix was not made from these weights: another expert's matrix, or swapped nibbles."""
    if not torch.isfinite(scales).all() or (scales <= 0).any():
        yield "a scale is not a positive number"
        return
    if not unpack(words).any():
        yield "every code is zero"
        return
    values, wanted = decode_int4(words, scales).double(), weights.double()
    likeness = (values * wanted).sum() / (values.norm() * wanted.norm())
    if not likeness > ALIKE:
        yield f"its values do not match the source (cosine {likeness:.3f})"
