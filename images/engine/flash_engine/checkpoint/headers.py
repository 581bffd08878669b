"""Reads the headers of safetensors files: which tensors each file holds, with type and shape.

Format: https://github.com/huggingface/safetensors, "Format": the header's length as a little-endian u64, the header as
JSON, the data. A real checkpoint has a hundred thousand tensors but only a few dozen combinations of type and shape, so
one StoredTensor object is shared by all tensors of the same kind.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from flash_contracts.checkpoint_record import CheckpointFinding
from flash_engine.checkpoint.finding import CheckpointError
from flash_engine.checkpoint.source import CheckpointFiles

LENGTH_BYTES = 8
HEADER_LIMIT = 100_000_000
"""The safetensors library rejects longer headers too."""

INDEX_FILE = "model.safetensors.index.json"
DOWNLOAD_AGAIN = "download it again and compare its checksum with the source"

BITS = {
    "F64": 64, "I64": 64, "U64": 64, "F32": 32, "I32": 32, "U32": 32, "BF16": 16, "F16": 16, "I16": 16, "U16": 16,
    "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "I8": 8, "U8": 8, "BOOL": 8, "F4": 4,
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class StoredTensor:
    """Type, shape and file of a tensor. Shared by all tensors in a file that have the same type and shape."""

    type: str
    shape: tuple[int, ...]
    shard: str

    @cached_property
    def size(self) -> int:
        """In bytes."""
        return math.prod(self.shape) * BITS.get(self.type, 8) // 8


class CheckpointHeaders:
    """All tensors of a checkpoint by name, and the problems found in its files."""

    def __init__(self) -> None:
        self.tensors: dict[str, StoredTensor] = {}
        self.findings: list[CheckpointFinding] = []
        self._kinds: dict[tuple[str, tuple[int, ...], str], StoredTensor] = {}

    def add(self, shard: str, name: str, entry: dict[str, Any]) -> int:
        """Returns the end offset of the tensor's data. Raises ValueError, KeyError or TypeError if it is invalid."""
        key = (entry["dtype"], tuple(entry["shape"]), shard)
        kind = self._kinds.get(key)
        if kind is None:
            kind = self._kinds[key] = StoredTensor(*key)
        begin, end = entry["data_offsets"]
        if kind.type in BITS and end - begin != kind.size:
            raise ValueError(
                f"{name} has {end - begin:,} bytes, but {kind.type} {list(kind.shape)} takes {kind.size:,}"
            )
        other = self.tensors.get(name)
        if other is not None:
            self.findings.append(_duplicate(name, other.shard, shard))
        self.tensors[name] = kind
        return int(end)

    def refuse(self, code: str, message: str, remedy: str, without_plugin: str) -> None:
        self.findings.append(CheckpointFinding(code, "refused", message, remedy, without_plugin=without_plugin))


def _duplicate(name: str, one: str, other: str) -> CheckpointFinding:
    message = f"{name} is both in {one} and in {other}"
    remedy = "remove one of them; which one is loaded depends on the order of reading"
    return CheckpointFinding("DuplicateTensor", "refused", message, remedy, (name,), "uses the one that it reads last")


def read_headers(files: CheckpointFiles) -> CheckpointHeaders:
    """Reads the header of each file, and the index if there is one. Raises CheckpointError if there is no file."""
    headers = CheckpointHeaders()
    shards = sorted(name for name in files.sizes if name.endswith(".safetensors"))
    if not shards:
        raise CheckpointError(
            "NoWeights", f"{files.place} has no safetensors file", "point model.source at the folder with the weights"
        )
    for shard in shards:
        _read_shard(files, shard, headers)
    if INDEX_FILE in files.sizes:
        _compare_index(files, headers, shards)
    return headers


def _read_shard(files: CheckpointFiles, shard: str, headers: CheckpointHeaders) -> None:
    size = files.sizes[shard]
    try:
        end, entries = _read_header(files, shard, size)
        last = 0
        for name, entry in entries.items():
            if name != "__metadata__":
                last = max(last, headers.add(shard, name, entry))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        message = f"{shard} has no valid safetensors header ({error})"
        headers.refuse("BadHeader", message, DOWNLOAD_AGAIN, "fails while loading")
        return
    if end + last > size:
        message = f"{shard} has {size:,} bytes, but its header says {end + last:,}: the file is truncated"
        headers.refuse("TruncatedShard", message, DOWNLOAD_AGAIN, "fails after minutes of loading")


def _read_header(files: CheckpointFiles, shard: str, size: int) -> tuple[int, dict[str, Any]]:
    """The offset at which the data begins, and the header."""
    length = int.from_bytes(files.read(shard, 0, LENGTH_BYTES), "little")
    if size < LENGTH_BYTES or not 2 <= length <= min(HEADER_LIMIT, size - LENGTH_BYTES):  # noqa: PLR2004 - `{}`
        raise ValueError(f"a header of {length:,} bytes in a file of {size:,}")
    text = files.read(shard, LENGTH_BYTES, length)
    entries = json.loads(text)
    if not isinstance(entries, dict):
        raise TypeError("not a JSON object")
    return LENGTH_BYTES + length, entries


def _compare_index(files: CheckpointFiles, headers: CheckpointHeaders, shards: list[str]) -> None:
    """vLLM reads only the files that the index names (weight_utils.filter_duplicate_safetensors_files)."""
    try:
        weight_map = dict(files.read_json(INDEX_FILE)["weight_map"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        headers.refuse("BadIndex", f"{INDEX_FILE} cannot be read ({error})", DOWNLOAD_AGAIN, "fails while loading")
        return
    listed = set(weight_map.values())
    for shard in sorted(listed - set(shards)):
        message = f"the index names {shard}, which is not in {files.place}"
        headers.refuse("MissingShard", message, "download that file, or the whole checkpoint again", "does not start")
    for shard in sorted(set(shards) - listed):
        headers.findings.append(_unlisted(headers, shard))
    headers.findings.extend(_index_mismatches(weight_map, headers, listed))


def _unlisted(headers: CheckpointHeaders, shard: str) -> CheckpointFinding:
    names = tuple(name for name, stored in headers.tensors.items() if stored.shard == shard)
    return CheckpointFinding(
        "UnlistedShard",
        "refused",
        f"{shard} with {len(names)} tensors is not in {INDEX_FILE}",
        f"add its tensors to weight_map in {INDEX_FILE}, or remove the file",
        names,
        "ignores the file, and serves without its tensors",
    )


def _index_mismatches(
    weight_map: dict[str, str], headers: CheckpointHeaders, listed: set[str]
) -> Iterator[CheckpointFinding]:
    present = {stored.shard for stored in headers.tensors.values()}
    lost = tuple(
        name for name, shard in weight_map.items() if name not in headers.tensors and (shard in present or not shard)
    )
    moved = tuple(
        name
        for name, stored in headers.tensors.items()
        if stored.shard in listed and weight_map.get(name, stored.shard) != stored.shard
    )
    if lost:
        message = f"the index lists {len(lost)} tensors that no file has, such as {lost[0]}"
        effect = "serves without them if it can"
        yield CheckpointFinding("IndexMismatch", "refused", message, DOWNLOAD_AGAIN, lost, effect)
    if moved:
        message = f"{len(moved)} tensors are in another file than the index says, such as {moved[0]}"
        yield CheckpointFinding("IndexMismatch", "note", message, "write a new index", moved, "loads them anyway")
