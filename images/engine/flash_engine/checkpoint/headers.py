"""The headers of safetensors files: which tensors are where, of which type and shape.

Format: https://github.com/huggingface/safetensors, "Format": the header's length as a little-endian u64, the header as
JSON, the data. A real checkpoint has a hundred thousand tensors and a few dozen kinds of them: each kind is kept once.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from flash_engine.checkpoint.finding import CheckpointError, Finding
from flash_engine.checkpoint.source import Files

LENGTH_BYTES = 8
HEADER_LIMIT = 100_000_000
"""As in the safetensors library: a longer header is none."""

INDEX_FILE = "model.safetensors.index.json"
DOWNLOAD_AGAIN = "download it again and compare its checksum with the source's"

BITS = {
    "F64": 64, "I64": 64, "U64": 64, "F32": 32, "I32": 32, "U32": 32, "BF16": 16, "F16": 16, "I16": 16, "U16": 16,
    "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "I8": 8, "U8": 8, "BOOL": 8, "F4": 4,
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Stored:
    """What is stored under a name. One for all tensors of a kind in a file."""

    type: str
    shape: tuple[int, ...]
    shard: str

    @cached_property
    def size(self) -> int:
        """In bytes."""
        return math.prod(self.shape) * BITS.get(self.type, 8) // 8


class Headers:
    """All tensors of a checkpoint by name, and what is wrong with the files that hold them."""

    def __init__(self) -> None:
        self.tensors: dict[str, Stored] = {}
        self.findings: list[Finding] = []
        self._kinds: dict[tuple[str, tuple[int, ...], str], Stored] = {}

    def add(self, shard: str, name: str, entry: dict[str, Any]) -> int:
        """Returns where its data end. Raises ValueError, KeyError or TypeError for an entry that is none."""
        key = (entry["dtype"], tuple(entry["shape"]), shard)
        kind = self._kinds.get(key)
        if kind is None:
            kind = self._kinds[key] = Stored(*key)
        begin, end = entry["data_offsets"]
        if kind.type in BITS and end - begin != kind.size:
            raise ValueError(f"{name} has {end - begin:,} bytes for {kind.type} {list(kind.shape)}")
        other = self.tensors.get(name)
        if other is not None:
            self.findings.append(_twice(name, other.shard, shard))
        self.tensors[name] = kind
        return int(end)


def _twice(name: str, one: str, other: str) -> Finding:
    told = f"{name} is in {one} and in {other}"
    remedy = "remove one of them: which one counts is chance"
    return Finding("DuplicateTensor", "refused", told, remedy, (name,), "takes the one that it reads last")


def read_headers(files: Files) -> Headers:
    """Reads each file's header, and the index where there is one. Raises CheckpointError where nothing can be read."""
    found = Headers()
    shards = sorted(name for name in files.sizes if name.endswith(".safetensors"))
    if not shards:
        raise CheckpointError(
            "NoWeights", f"no safetensors file is in {files.place}", "point model.source at the checkpoint's own folder"
        )
    for shard in shards:
        _read_shard(files, shard, found)
    if INDEX_FILE in files.sizes:
        _compare_index(files, found, shards)
    return found


def _read_shard(files: Files, shard: str, found: Headers) -> None:
    size = files.sizes[shard]
    try:
        end, entries = _header(files, shard, size)
        last = 0
        for name, entry in entries.items():
            if name != "__metadata__":
                last = max(last, found.add(shard, name, entry))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        told = f"{shard} has no safetensors header: {error}"
        found.findings.append(
            Finding("BadHeader", "refused", told, DOWNLOAD_AGAIN, without_plugin="ends while loading")
        )
        return
    if end + last > size:
        told = f"{shard} has {size:,} bytes, and its header says {end + last:,}: it was cut off"
        found.findings.append(
            Finding("TruncatedShard", "refused", told, DOWNLOAD_AGAIN, without_plugin="ends after minutes of loading")
        )


def _header(files: Files, shard: str, size: int) -> tuple[int, dict[str, Any]]:
    length = int.from_bytes(files.read(shard, 0, LENGTH_BYTES), "little")
    if size < LENGTH_BYTES or not 2 <= length <= min(HEADER_LIMIT, size - LENGTH_BYTES):  # noqa: PLR2004 - `{}`
        raise ValueError(f"a header of {length:,} bytes in a file of {size:,}")
    text = files.read(shard, LENGTH_BYTES, length)
    entries = json.loads(text)
    if not isinstance(entries, dict):
        raise TypeError("it is no object")
    return LENGTH_BYTES + length, entries


def _compare_index(files: Files, found: Headers, shards: list[str]) -> None:
    """vLLM reads the files that the index names, and no others (weight_utils.filter_duplicate_safetensors_files)."""
    try:
        weight_map = dict(files.read_json(INDEX_FILE)["weight_map"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        told = f"{INDEX_FILE} cannot be read: {error}"
        found.findings.append(Finding("BadIndex", "refused", told, DOWNLOAD_AGAIN, without_plugin="ends while loading"))
        return
    listed = set(weight_map.values())
    for shard in sorted(listed - set(shards)):
        told = f"the index names {shard}, which is not in {files.place}"
        found.findings.append(
            Finding(
                "MissingShard", "refused", told, "download it, or the whole checkpoint again", without_plugin="ends"
            )
        )
    for shard in sorted(set(shards) - listed):
        found.findings.append(_unlisted(found, shard))
    found.findings.extend(_disagreements(weight_map, found, listed))


def _unlisted(found: Headers, shard: str) -> Finding:
    names = tuple(name for name, stored in found.tensors.items() if stored.shard == shard)
    return Finding(
        "UnlistedShard",
        "refused",
        f"{shard} with {len(names)} tensors is not in {INDEX_FILE}",
        f"add its tensors to weight_map in {INDEX_FILE}, or remove the file",
        names,
        "does not read it, and serves without what is in it",
    )


def _disagreements(weight_map: dict[str, str], found: Headers, listed: set[str]) -> Iterator[Finding]:
    present = {stored.shard for stored in found.tensors.values()}
    lost = tuple(
        name for name, shard in weight_map.items() if name not in found.tensors and (shard in present or not shard)
    )
    moved = tuple(
        name
        for name, stored in found.tensors.items()
        if stored.shard in listed and weight_map.get(name, stored.shard) != stored.shard
    )
    if lost:
        told = f"the index has {len(lost)} tensors that are in no file, such as {lost[0]}"
        yield Finding("IndexMismatch", "refused", told, DOWNLOAD_AGAIN, lost, "serves without them where it can")
    if moved:
        told = f"{len(moved)} tensors are in another file than the index says, such as {moved[0]}"
        yield Finding("IndexMismatch", "note", told, "write the index anew", moved, "loads them all the same")
