"""Inspects a checkpoint: detects its layout and collects all findings.

refused    vLLM cannot serve it as requested, even with the plugin
repaired   the plugin loads it; vLLM alone would fail or load it incorrectly
note       served as it is, but worth knowing
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from flash_contracts.checkpoint_record import CheckpointFinding
from flash_engine.checkpoint.checkpoint_files import CheckpointFiles, read_config
from flash_engine.checkpoint.finding import CheckpointError
from flash_engine.checkpoint.foreign_quantisation import recognise_quantisation
from flash_engine.checkpoint.format_findings import format_finding
from flash_engine.checkpoint.headers import (
    MISTRAL_CONFIG,
    WHERE_TO_LOOK,
    CheckpointHeaders,
    StoredTensor,
    WeightFiles,
    read_headers,
)
from flash_engine.checkpoint.layout import Layout, detect_layout
from flash_engine.checkpoint.memory import GIB, GPU_BYTES, TENSOR_PARALLEL
from flash_engine.checkpoint.model_config import ModelConfig, is_deepseek_v4, other_model
from flash_engine.checkpoint.model_families import family_of
from flash_engine.checkpoint.model_findings import InspectedModel, Speculation, model_findings
from flash_engine.checkpoint.origin import Origin, another
from flash_engine.checkpoint.tensor_names import TensorNames, canonical_names

UNREADABLE = ("BadHeader", "BadIndex", "MissingShard")
"""If a file cannot be read, only that is reported: any missing tensors would follow from it."""

_OURS = re.compile(r"(?:model\.)?(?:mtp|layers|embed|embed_tokens|head|lm_head|norm|hc_head)[._]")
"""Matches names of a DeepSeek-V4's tensors, as opposed to those of an adapter or another file."""


@dataclass(frozen=True)
class Inspection:
    """The result of an inspection. `config` and `layout` are None if only the files could be checked."""

    place: str
    findings: tuple[CheckpointFinding, ...]
    tensors: Mapping[str, StoredTensor] = field(default_factory=dict)
    """By canonical name."""
    config: ModelConfig | None = None
    layout: Layout | None = None
    commit: str | None = None
    """The commit, if it is a hub repository."""
    unchecked_bytes: int = 0
    """Size of files whose tensors are not read."""

    @property
    def refusals(self) -> tuple[CheckpointFinding, ...]:
        return tuple(finding for finding in self.findings if finding.severity == "refused")

    @property
    def stored_bytes(self) -> int:
        return self.unchecked_bytes + sum(stored.size for stored in self.tensors.values())


def inspect(
    open_files: Callable[[], CheckpointFiles], *, speculation: Speculation = "auto", any_model: bool = False
) -> Inspection:
    """Inspect a checkpoint. A bad one never raises: every problem is a finding.

    `any_model`: accept other models and formats; for those, only the files that vLLM would load are checked.
    """
    try:
        files = open_files()
    except CheckpointError as error:
        return Inspection("", (error.as_finding(),))
    commit, notes = getattr(files, "commit", None), tuple(getattr(files, "findings", ()))
    try:
        found = _inspect_files(files, speculation, any_model=any_model)
    except CheckpointError as error:
        found = Inspection(files.place, (error.as_finding(),))
    return replace(found, findings=(*notes, *found.findings), commit=commit)


def _inspect_files(files: CheckpointFiles, speculation: Speculation, *, any_model: bool) -> Inspection:
    """Raises CheckpointError."""
    raw = read_config(files) if "config.json" in files.sizes else {}
    is_ours = is_deepseek_v4(raw)
    foreign = format_finding(files, is_strict=is_ours or not any_model)
    if foreign:
        return Inspection(files.place, (foreign,), unchecked_bytes=sum(files.sizes.values()))
    if "config.json" not in files.sizes and not WeightFiles.among(files.sizes).loaded:
        raise CheckpointError("NoConfig", f"{files.place} has neither config.json nor weights", WHERE_TO_LOOK)
    raw = {} if any_model and MISTRAL_CONFIG in files.sizes and not raw else read_config(files)
    headers = read_headers(files, is_ours=is_ours)
    unreadable = tuple(finding for finding in headers.findings if finding.code in UNREADABLE)
    if unreadable:
        return Inspection(files.place, unreadable, headers.tensors)
    if not is_ours:
        found = _other_model_findings(raw, headers, files, is_accepted=any_model)
        return Inspection(files.place, (*headers.findings, *found), headers.tensors)
    try:
        config = ModelConfig.parse(raw, files.origin)
    except CheckpointError as error:
        return Inspection(files.place, (*headers.findings, error.as_finding()), headers.tensors)
    return _inspect_model(files, config, headers, speculation)


def _other_model_findings(
    raw: Mapping[str, Any], headers: CheckpointHeaders, files: CheckpointFiles, *, is_accepted: bool
) -> Iterator[CheckpointFinding]:
    """What the model is if it is not accepted; otherwise why it is likely to fail."""
    size = _too_large(raw, sum(stored.size for stored in headers.tensors.values()))
    if not is_accepted:
        yield other_model(raw, size)
        return
    if size:
        remedy = f"nothing, if your GPUs have more memory; otherwise {another('a smaller model')}"
        yield CheckpointFinding("TooLarge", "note", size, remedy, without_plugin="runs out of memory")
    foreign = recognise_quantisation(raw, headers.tensors, files.sizes)
    if foreign and not foreign.in_vllm:
        message = f"the weights are quantised with {foreign.name}, which vLLM 0.33 does not read"
        remedy = f"nothing, if the vLLM in engine.image does; otherwise {another('another quantisation')}"
        yield CheckpointFinding("ForeignQuantisation", "note", message, remedy, without_plugin="does not start")


def _too_large(raw: Mapping[str, Any], stored: int) -> str | None:
    """Why a model does not fit, by its files or by the published sizes of its family."""
    capacity = TENSOR_PARALLEL * GPU_BYTES
    family = family_of(raw)
    if stored > capacity:
        size = f"its weights take {stored / GIB:,.0f} GiB"
    elif family and family.published_gib:
        size = f"the published weights of {family.name} take {family.published_gib} GiB"
    else:
        return None
    return f"{size}, and two GPUs of 96 GB hold {capacity // GIB}"


def _inspect_model(
    files: CheckpointFiles, config: ModelConfig, headers: CheckpointHeaders, speculation: Speculation
) -> Inspection:
    unlisted = list(_unlisted_findings(headers, files.origin))
    refused = {name for finding in unlisted if finding.severity == "refused" for name in finding.tensors}
    added = {name: one for tensors in headers.unlisted.values() for name, one in tensors.items() if name in refused}
    stored = {**added, **headers.tensors}
    renamed = list(canonical_names(TensorNames(config, stored), stored))
    tensors = {one.canonical: stored[one.name_in_file] for one in renamed}
    layout = detect_layout(config, tensors)
    model = InspectedModel(config, layout, tensors, speculation, files.origin, tuple(files.sizes))
    findings = (*headers.findings, *unlisted, *model_findings(model, renamed))
    return Inspection(files.place, findings, tensors, config, layout)


def _unlisted_findings(headers: CheckpointHeaders, origin: Origin) -> Iterator[CheckpointFinding]:
    """Findings about files that the index does not name. They matter if they alone have some of the model's tensors."""
    for shard, tensors in headers.unlisted.items():
        lost = tuple(name for name in tensors if name not in headers.tensors and _OURS.match(name))
        if lost:
            message = f"{shard} with {len(lost)} tensors is not in the index"
            remedy = origin.change("add its tensors to weight_map in model.safetensors.index.json, or remove the file")
            effect = "ignores the file, and serves without its tensors"
            yield CheckpointFinding("UnlistedShard", "refused", message, remedy, lost, effect)
        else:
            message = f"{shard} is not in the index, and contains nothing that the model needs"
            effect = "ignores the file"
            yield CheckpointFinding("UnlistedShard", "note", message, "nothing", tuple(tensors), effect)
