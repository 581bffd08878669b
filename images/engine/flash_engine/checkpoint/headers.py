"""Reads the headers of a checkpoint's safetensors files: the tensors of each file, with type and shape.

It reads the files that vLLM would load, and lists the others. A real checkpoint has a hundred thousand tensors but only
a few dozen combinations of type and shape, so all tensors of the same kind share one StoredTensor object.
"""

import fnmatch
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from flash_contracts.checkpoint_record import CheckpointFinding
from flash_engine.checkpoint.checkpoint_files import CheckpointFiles
from flash_engine.checkpoint.finding import CheckpointError, Severity
from flash_engine.checkpoint.safetensors_header import HeaderError, TruncatedError, read_header

INDEX_FILE = "model.safetensors.index.json"
CONSOLIDATED, MISTRAL_INDEX = "consolidated*.safetensors", "consolidated.safetensors.index.json"
MISTRAL_CONFIG = "params.json"
"""Replaces config.json in Mistral's format."""

NOT_MODELS = ("adapter_model*.safetensors", "rank[0-9]*.safetensors")
"""Files of a LoRA adapter, and of a TensorRT-LLM checkpoint."""

WHERE_TO_LOOK = "check the folder's name in model.source, and whether the download or copy was complete"

BITS = {
    "F64": 64, "I64": 64, "U64": 64, "C64": 64, "F32": 32, "I32": 32, "U32": 32, "BF16": 16, "F16": 16, "I16": 16,
    "U16": 16, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I8": 8, "U8": 8,
    "BOOL": 8, "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4,
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


@dataclass(frozen=True)
class WeightFiles:
    """The safetensors files of a folder, as vLLM 0.26 to 0.33 chooses among them (default_loader._prepare_weights).

    Those in subfolders are never loaded.
    """

    loaded: tuple[str, ...]
    ignored: tuple[str, ...]
    """If there are `consolidated*.safetensors`, Mistral's format, vLLM ignores all other files."""
    index: str

    @classmethod
    def among(cls, names: Iterable[str]) -> "WeightFiles":
        """Choose among the files of a folder. One with nothing but an adapter has no model weights."""
        files = sorted(name for name in names if name.endswith(".safetensors") and "/" not in name)
        consolidated = tuple(fnmatch.filter(files, CONSOLIDATED))
        if consolidated:
            return cls(consolidated, tuple(name for name in files if name not in consolidated), MISTRAL_INDEX)
        is_no_model = all(any(fnmatch.fnmatch(name, pattern) for pattern in NOT_MODELS) for name in files)
        return cls(() if is_no_model else tuple(files), (), INDEX_FILE)


class CheckpointHeaders:
    """All tensors of a checkpoint by name, and the problems found in its files."""

    def __init__(self, *, is_ours: bool = True) -> None:
        self.is_ours = is_ours
        self.severity: Severity = "refused" if is_ours else "note"
        """Severity of oddities that vLLM loads anyway."""
        self.tensors: dict[str, StoredTensor] = {}
        self.unlisted: dict[str, dict[str, StoredTensor]] = {}
        """By file: tensors of files that the index does not name, so that vLLM does not load them."""
        self.findings: list[CheckpointFinding] = []
        self._kinds: dict[tuple[str, tuple[int, ...], str], StoredTensor] = {}

    def stored(self, shard: str, entry: Mapping[str, Any]) -> StoredTensor:
        key = (entry["dtype"], tuple(entry["shape"]), shard)
        kind = self._kinds.get(key)
        if kind is None:
            kind = self._kinds[key] = StoredTensor(*key)
        return kind

    def refuse(self, code: str, message: str, remedy: str, without_plugin: str) -> None:
        self.findings.append(CheckpointFinding(code, "refused", message, remedy, without_plugin=without_plugin))


def read_headers(files: CheckpointFiles, *, is_ours: bool = True) -> CheckpointHeaders:
    """Read the header of each file, and the index if there is one. Raises CheckpointError if there is no file.

    `is_ours`: the model is a DeepSeek-V4, whose tensors are known. In other models, oddities such as the same tensor in
    two files are accepted, because vLLM loads them.
    """
    headers = CheckpointHeaders(is_ours=is_ours)
    weights = WeightFiles.among(files.sizes)
    if not weights.loaded:
        raise CheckpointError("NoWeights", f"{files.place} has no safetensors file", WHERE_TO_LOOK)
    weight_map = _read_index(files, weights, headers) if weights.index in files.sizes else None
    listed = weights.loaded if weight_map is None else tuple(sorted(set(weight_map.values())))
    for shard in weights.loaded:
        if shard in listed:
            _add_shard(files, shard, headers)
        elif is_ours:
            _add_unlisted(files, shard, headers)
    for shard in sorted(set(listed) - set(weights.loaded)):
        message = f"the index names {shard}, which is not in {files.place}"
        headers.refuse("MissingShard", message, files.origin.again, "does not start")
    if weight_map:
        headers.findings.extend(_index_mismatches(weight_map, headers, files))
    if is_ours and weights.ignored:
        headers.findings.append(_left_out(weights, files))
    return headers


def _add_shard(files: CheckpointFiles, shard: str, headers: CheckpointHeaders) -> None:
    try:
        entries = read_header(files, shard)
    except TruncatedError as error:
        headers.refuse("TruncatedShard", f"{shard}: {error}", files.origin.again, "fails after minutes of loading")
        return
    except HeaderError as error:
        message = f"{shard} is not a valid safetensors file: {error}"
        headers.refuse("BadHeader", message, files.origin.again, "fails while loading")
        return
    for name, entry in entries.items():
        kind = headers.stored(shard, entry)
        other = headers.tensors.get(name)
        if other is not None:
            headers.findings.append(_duplicate(name, (other.shard, shard), files, headers.severity))
        headers.tensors[name] = kind


def _add_unlisted(files: CheckpointFiles, shard: str, headers: CheckpointHeaders) -> None:
    """Record a file that vLLM never opens, so that damage to it is no reason to refuse."""
    try:
        entries = read_header(files, shard)
    except HeaderError:
        entries = {}
    headers.unlisted[shard] = {name: headers.stored(shard, entry) for name, entry in entries.items()}


def _duplicate(name: str, shards: tuple[str, str], files: CheckpointFiles, severity: Severity) -> CheckpointFinding:
    message = f"{name} is in both {shards[0]} and {shards[1]}"
    remedy = files.origin.change("remove one of them; which one is loaded depends on the order of reading")
    return CheckpointFinding("DuplicateTensor", severity, message, remedy, (name,), "uses the one that it reads last")


def _read_index(files: CheckpointFiles, weights: WeightFiles, headers: CheckpointHeaders) -> dict[str, str] | None:
    """The index's `weight_map`, with the file of each tensor. vLLM loads only the files that it names."""
    try:
        return _weight_map(files.read_json(weights.index))
    except (ValueError, RecursionError) as error:
        message = f"{weights.index} cannot be read ({error})"
        headers.refuse("BadIndex", message, files.origin.again, "fails while loading")
        return None


def _weight_map(index: object) -> dict[str, str]:
    """Raises ValueError."""
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
        raise ValueError("it has no weight_map with the file of each tensor")
    return weight_map


def _left_out(weights: WeightFiles, files: CheckpointFiles) -> CheckpointFinding:
    count = len(weights.ignored)
    message = f"{weights.loaded[0]} makes vLLM ignore the {count} safetensors files with other names"
    remedy = files.origin.change(f"remove {weights.loaded[0]}")
    return CheckpointFinding(
        "UnlistedShard", "refused", message, remedy, without_plugin="loads only consolidated files"
    )


def _index_mismatches(
    weight_map: Mapping[str, str], headers: CheckpointHeaders, files: CheckpointFiles
) -> Iterator[CheckpointFinding]:
    present = {stored.shard for stored in headers.tensors.values()}
    lost = tuple(name for name, shard in weight_map.items() if name not in headers.tensors and shard in present)
    moved = tuple(
        name for name, stored in headers.tensors.items() if weight_map.get(name, stored.shard) != stored.shard
    )
    if lost:
        message = f"the index lists {len(lost)} tensors that no file has, such as {lost[0]}"
        effect = "serves without them if it can"
        yield CheckpointFinding("IndexMismatch", headers.severity, message, files.origin.again, lost, effect)
    if moved:
        message = f"{len(moved)} tensors are in another file than the index says, such as {moved[0]}"
        remedy = "nothing; a new index would fix it"
        yield CheckpointFinding("IndexMismatch", "note", message, remedy, moved, "loads them anyway")
