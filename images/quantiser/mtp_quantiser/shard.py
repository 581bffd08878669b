"""The output shard: every tensor of the restored MTP layer in one file, with a manifest of checksums."""

import hashlib
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

from safetensors.torch import save_file
from torch import Tensor, uint8

from mtp_quantiser.checkpoint import opened, read_json
from mtp_quantiser.errors import QuantiserError
from mtp_quantiser.expert_store import ExpertStore, write_atomically, write_json
from mtp_quantiser.layout import MtpShape, TensorSpec
from mtp_quantiser.official import OfficialMtp
from mtp_quantiser.threads import in_threads

SHARD: Final = "model-mtp-w4a16.safetensors"
MANIFEST: Final = "mtp-manifest.json"
FORMAT: Final = "mtp-w4a16-1"

READ_AT_ONCE: Final = 16
"""Tensors that a thread reads and hashes in turn, about 35 MB."""


def digest(tensor: Tensor) -> str:
    """SHA-256 of the values as stored in the file."""
    return hashlib.sha256(tensor.contiguous().view(-1).view(uint8).numpy()).hexdigest()


def assemble(official: OfficialMtp, store: ExpertStore, folder: Path, made_from: Mapping[str, Any]) -> dict[str, Any]:
    """Write shard and manifest into `folder`, and return the manifest. Raises QuantiserError."""
    tensors = dict(official.rest())
    figures = []
    for expert in range(official.shape.experts):
        tensors |= store.tensors(expert)
        figures.append(store.figures(expert))
    require_complete(tensors, official.shape)
    # Only one key: safetensors writes several in any order, so the same run would not give the same bytes.
    write_atomically(folder / SHARD, lambda path: save_file(tensors, path, metadata={"format": "pt"}))
    names = sorted(tensors)
    manifest = {
        "format": FORMAT,
        "shard": SHARD,
        "madeFrom": dict(made_from),
        "method": methods(figures),
        "experts": figures,
        "sha256": dict(zip(names, in_threads(digest, [tensors[name] for name in names]), strict=True)),
    }
    write_json(folder / MANIFEST, manifest)
    return manifest


def require_readable(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Read the shard back. Raises QuantiserError if it is not as it was written."""
    for problem in compare_with_manifest(folder / SHARD, manifest):
        raise QuantiserError(f"{folder / SHARD} does not read back as it was written: {problem}; check the disk")


def methods(figures: list[dict[str, Any]]) -> dict[str, int]:
    """Count matrices by method."""
    found = {"gptq": 0, "rtn": 0}
    for expert in figures:
        for matrix in ("w1", "w2", "w3"):
            found[expert[matrix]["method"]] += 1
    return found


def require_complete(tensors: Mapping[str, Tensor], shape: MtpShape) -> None:
    wanted = shape.product()
    if tensors.keys() != wanted.keys():
        odd = sorted(tensors.keys() ^ wanted.keys())
        raise QuantiserError(f"{len(odd)} tensors are missing or unexpected, {odd[0]} first; run again with --restart")
    for name, expected in wanted.items():
        if tuple(tensors[name].shape) != expected.shape:
            raise QuantiserError(
                f"{name} is {list(tensors[name].shape)}, not {list(expected.shape)}; run again with --restart"
            )


def compare_with_manifest(shard: Path, manifest: Mapping[str, Any]) -> Iterator[str]:
    """Yield every difference between a shard and its manifest, reading every byte."""
    wanted: dict[str, str] = manifest["sha256"]
    with opened(shard) as file:
        names = set(file.keys())
        for name in sorted(names ^ wanted.keys()):
            yield f"{name} is {'not in the manifest' if name in names else 'missing'}"
    both = sorted(names & wanted.keys())
    for some, found in zip(_parts(both), in_threads(partial(_digests, shard), _parts(both)), strict=True):
        for name, value in zip(some, found, strict=True):
            if value != wanted[name]:
                yield f"{name} does not have the manifest's checksum"


def _parts(names: list[str]) -> list[list[str]]:
    return [names[first : first + READ_AT_ONCE] for first in range(0, len(names), READ_AT_ONCE)]


def _digests(shard: Path, names: list[str]) -> list[str]:
    with opened(shard) as file:
        return [digest(file.get_tensor(name)) for name in names]


def read_manifest(folder: Path) -> dict[str, Any]:
    manifest = read_json(folder / MANIFEST)
    if manifest.get("format") != FORMAT:
        raise QuantiserError(f"{folder / MANIFEST} is of format {manifest.get('format')!r}; this tool reads {FORMAT}")
    return manifest


def header_of(shard: Path) -> dict[str, TensorSpec]:
    with opened(shard) as file:
        parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        return {name: TensorSpec(part.get_dtype(), tuple(part.get_shape())) for name, part in parts.items()}


def require_fitting_header(shard: Path, shape: MtpShape) -> None:
    """Raises QuantiserError if the shard does not fit a model of this shape."""
    wanted, found = shape.product(), header_of(shard)
    odd = sorted(name for name in {*wanted, *found} if wanted.get(name) != found.get(name))
    if odd:
        raise QuantiserError(f"{shard} does not fit the base: {len(odd)} tensors differ, {odd[0]} first")
