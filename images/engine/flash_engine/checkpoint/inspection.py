"""Inspects a checkpoint: detects its layout and collects all findings.

refused    vLLM cannot serve it as requested, even with the plugin
repaired   the plugin loads it; vLLM alone would fail or load it incorrectly
note       it is served as it is, but worth knowing
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from flash_contracts.checkpoint_record import CheckpointFinding
from flash_engine.checkpoint.finding import CheckpointError, abbreviated
from flash_engine.checkpoint.headers import CheckpointHeaders, StoredTensor, read_headers
from flash_engine.checkpoint.layout import MTP_PREFIX, ExpectedTensor, Layout, detect_layout, expected_of
from flash_engine.checkpoint.model_config import FROM_SOURCE, ModelConfig
from flash_engine.checkpoint.quantisation import TRACELESS_ORDERS, activation_orders, layer_mismatches
from flash_engine.checkpoint.schemes import NARROW, WIDE_TYPE
from flash_engine.checkpoint.source import CheckpointFiles, read_config
from flash_engine.checkpoint.tensor_names import (
    LOADS,
    MTP_VALUE_ERROR,
    SILENT,
    RenamedTensor,
    TensorNames,
    canonical_names,
    worse_effect,
)

Speculation = Literal["auto", "mtp", "dspark", "off"]
"""The speculation method that the checkpoint must support. auto: the one that config.json describes."""

SERVABLE = (
    "official FP4/FP8",
    "official FP8 (Base)",
    "W4A16-FP8",
    "W4A16",
    "NVFP4-FP8",
    "NVFP4-FP8 (compressed-tensors)",
)
UNREADABLE = ("BadHeader", "BadIndex", "MissingShard")
"""If a file cannot be read, only this is reported: all missing tensors would be a consequence of it."""

USE_ANOTHER = "use a checkpoint that has them, or convert the source checkpoint again"
KEY_ERROR = "fails with a KeyError that names one of its own parameters"


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
    """The commit of a hub's repository."""

    @property
    def refusals(self) -> tuple[CheckpointFinding, ...]:
        return tuple(finding for finding in self.findings if finding.severity == "refused")

    @property
    def stored_bytes(self) -> int:
        return sum(stored.size for stored in self.tensors.values())


def inspect(
    open_files: Callable[[], CheckpointFiles], *, speculation: Speculation = "auto", any_model: bool = False
) -> Inspection:
    """Never raises for a bad checkpoint: every problem is a finding.

    `any_model`: accept another architecture, of which only the files are checked.
    """
    try:
        files = open_files()
    except CheckpointError as error:
        return Inspection("", (error.as_finding(),))
    commit = getattr(files, "commit", None)
    try:
        raw, headers = read_config(files), read_headers(files)
    except CheckpointError as error:
        return Inspection(files.place, (error.as_finding(),), commit=commit)
    notes = tuple(getattr(files, "findings", ()))
    unreadable = tuple(finding for finding in headers.findings if finding.code in UNREADABLE)
    if unreadable:
        return Inspection(files.place, (*notes, *unreadable), headers.tensors, commit=commit)
    try:
        config = ModelConfig.parse(raw)
    except CheckpointError as error:
        reported = () if any_model and error.code == "OtherModel" else (error.as_finding(),)
        return Inspection(files.place, (*notes, *headers.findings, *reported), headers.tensors, commit=commit)
    return _inspect_model(files.place, config, headers, speculation, notes, commit)


def _inspect_model(
    place: str,
    config: ModelConfig,
    headers: CheckpointHeaders,
    speculation: Speculation,
    notes: tuple[CheckpointFinding, ...],
    commit: str | None,
) -> Inspection:
    renamed = list(canonical_names(TensorNames(config, headers.tensors), headers.tensors))
    tensors = {one.canonical: headers.tensors[one.name_in_file] for one in renamed}
    layout = detect_layout(config, tensors)
    findings = [
        *notes,
        *headers.findings,
        *_layout_findings(layout),
        *_name_findings(renamed),
        *_tensor_findings(config, layout, tensors, speculation),
        *_drafter_findings(config, layout, speculation),
        *config_findings(config, layout),
    ]
    return Inspection(place, tuple(findings), tensors, config, layout, commit)


def _layout_findings(layout: Layout) -> Iterator[CheckpointFinding]:
    if layout.family not in SERVABLE:
        detected = ", ".join(f"{role} {scheme.name}" for role, scheme in layout.main.items()) or "no known weights"
        yield CheckpointFinding(
            "UnknownLayout",
            "refused",
            f"this DeepSeek-V4 is stored in an unknown layout ({detected})",
            f"use a checkpoint with one of these layouts: {', '.join(SERVABLE)}",
            without_plugin="fails, or serves nonsense",
        )
    fp8 = [
        role for role in ("compressor", "indexer weights") if layout.main.get(role) and layout.main[role].kind == "fp8"
    ]
    if fp8:
        yield CheckpointFinding(
            "Fp8Compressor",
            "repaired",
            f"{' and '.join(fp8)} are FP8, but vLLM builds them unquantised",
            "nothing; the plugin converts them to BF16 while loading, which takes less than 1 GB more",
            without_plugin=f"{KEY_ERROR} (compressor.fused_wkv_wgate.weight_scale)",
        )


def _name_findings(renamed: list[RenamedTensor]) -> Iterator[CheckpointFinding]:
    """One finding for all names, because a splice gets thousands of names wrong in the same way."""
    wrong = [one for one in renamed if one.canonical != one.name_in_file and one.without_plugin != LOADS]
    if not wrong:
        return
    effect = wrong[0].without_plugin
    for one in wrong:
        effect = worse_effect(effect, one.without_plugin)
    example = f"{wrong[0].name_in_file} for {wrong[0].canonical}"
    yield CheckpointFinding(
        "MisnamedTensor",
        "repaired",
        f"{len(wrong)} tensors have names that vLLM does not look for, such as {example}",
        "nothing; the plugin renames them while loading",
        tuple(one.name_in_file for one in wrong),
        effect,
    )


@dataclass
class _TensorFaults:
    """Tensors by what is wrong with them."""

    missing: list[str] = field(default_factory=list)
    shape: list[tuple[str, str]] = field(default_factory=list)
    """Name and description."""
    type: list[tuple[str, str]] = field(default_factory=list)
    """Name and description."""
    downcast: list[str] = field(default_factory=list)


def _tensor_findings(
    config: ModelConfig, layout: Layout, tensors: Mapping[str, StoredTensor], speculation: Speculation
) -> Iterator[CheckpointFinding]:
    """Faults of the drafter's tensors count only if speculation is on."""
    main, draft = _TensorFaults(), _TensorFaults()
    known = 0
    unknown_names = set(tensors)
    for name, wanted in expected_of(config, layout):
        stored = tensors.get(name)
        if stored is not None:
            known += 1
            unknown_names.discard(name)
        _compare(name, wanted, stored, draft if name.startswith(MTP_PREFIX) else main)
    if layout.family == "unknown" and not known:
        return
    yield from _fault_findings(main, "the model", needed=True, effect=KEY_ERROR)
    yield from _fault_findings(draft, "the drafter", needed=speculation != "off", effect=SILENT)
    unknown = sorted(name for name in unknown_names if speculation != "off" or not name.startswith(MTP_PREFIX))
    if unknown:
        yield CheckpointFinding(
            "UnknownTensor",
            "refused",
            f"the model has no place for {len(unknown)} tensors: {abbreviated(unknown)}",
            "remove them from the files and the index; if they belong to a drafter, describe it in config.json",
            tuple(unknown),
            KEY_ERROR,
        )


def _compare(name: str, wanted: ExpectedTensor, stored: StoredTensor | None, faults: _TensorFaults) -> None:
    if stored is None:
        if not wanted.optional:
            faults.missing.append(name)
    elif stored.shape != wanted.shape:
        faults.shape.append((name, f"{name} has shape {list(stored.shape)}, expected {list(wanted.shape)}"))
    elif stored.type not in wanted.types:
        if wanted.types == WIDE_TYPE and stored.type in NARROW:
            faults.downcast.append(name)
        else:
            faults.type.append((name, f"{name} has type {stored.type}, expected {' or '.join(wanted.types)}"))


def _fault_findings(faults: _TensorFaults, whose: str, *, needed: bool, effect: str) -> Iterator[CheckpointFinding]:
    severity = "refused" if needed else "note"
    if faults.missing:
        message = f"{_of(faults.missing, whose)} missing: {abbreviated(faults.missing)}"
        yield CheckpointFinding("MissingTensor", severity, message, USE_ANOTHER, tuple(faults.missing), effect)
    for code, wrong in (("WrongShape", faults.shape), ("WrongType", faults.type)):
        if wrong:
            names, descriptions = zip(*wrong, strict=True)
            message = f"{_of(wrong, whose)} wrong: {abbreviated(descriptions)}"
            yield CheckpointFinding(code, severity, message, USE_ANOTHER, names, "copies whatever fits")
    if faults.downcast:
        message = f"{_of(faults.downcast, whose)} stored with less than 32 bits: {abbreviated(faults.downcast)}"
        remedy = "copy them unchanged from the source checkpoint; otherwise routing and mixing lose precision"
        yield CheckpointFinding("Downcast", "note", message, remedy, tuple(faults.downcast), "widens them to 32 bits")


def _drafter_findings(config: ModelConfig, layout: Layout, speculation: Speculation) -> Iterator[CheckpointFinding]:
    if speculation == "off":
        return
    if speculation == "mtp" and config.dspark_layers:
        yield CheckpointFinding(
            "DsparkWanted",
            "refused",
            "this checkpoint drafts with DSpark and has no MTP head",
            "set speculation.method to Dspark or Disabled",
            without_plugin=KEY_ERROR,
        )
    elif speculation == "dspark" and not config.dspark_layers:
        message = "speculation with DSpark is requested, but config.json has no dspark_target_layer_ids"
        remedy = "set speculation.method to Mtp or Disabled"
        yield CheckpointFinding("MtpMissing", "refused", message, remedy, without_plugin="does not start")
    elif not layout.has_drafter:
        described = config.mtp_layers or config.dspark_layers
        yield CheckpointFinding(
            "MtpMissing",
            "refused",
            "the MTP head was stripped: there is no mtp.* tensor"
            f"{'' if described else ', and config.json has no num_nextn_predict_layers'}",
            "use a checkpoint with the head, splice one in, or set speculation.method to Disabled",
            without_plugin=MTP_VALUE_ERROR,
        )


def config_findings(config: ModelConfig, layout: Layout) -> Iterator[CheckpointFinding]:
    """Findings about config.json alone. The plugin checks them again after --hf-overrides."""
    if config.raw.get("topk_method") != "noaux_tc":
        yield CheckpointFinding(
            "TopkMethod",
            "repaired",
            f"config.json has topk_method {config.raw.get('topk_method')!r}, but the router's bias needs noaux_tc",
            "nothing; the plugin sets it",
            without_plugin=f"{KEY_ERROR} (ffn.gate.e_score_correction_bias)",
        )
    if not config.quantisation:
        if any(scheme.kind != "plain" for scheme in layout.main.values()):
            message = "config.json has no quantization_config, but the weights are quantised"
            remedy = f"{FROM_SOURCE}; without it vLLM would build 568 GB of BF16 layers"
            effect = "runs out of memory, or fails with a KeyError"
            yield CheckpointFinding("NoQuantisation", "refused", message, remedy, without_plugin=effect)
    elif config.quant_method == "compressed-tensors":
        yield from _compressed_tensors_findings(config, layout)
    elif config.quant_method != "fp8":
        message = f"quantization_config has quant_method {config.quant_method!r}, which no known DeepSeek-V4 uses"
        yield CheckpointFinding("NoQuantisation", "refused", message, FROM_SOURCE, without_plugin="does not start")


def _compressed_tensors_findings(config: ModelConfig, layout: Layout) -> Iterator[CheckpointFinding]:
    wrong = list(layer_mismatches(config, layout))
    if wrong:
        first = wrong[0]
        yield CheckpointFinding(
            "QuantisationTargets",
            "repaired",
            f"quantization_config does not match how {len(wrong)} layers are stored, such as {first.name}: vLLM would "
            f"build {first.built}, but the file has {first.stored}",
            "nothing; the plugin gives vLLM targets that match the files",
            tuple(one.name for one in wrong),
            f"{KEY_ERROR}, because it silently builds the layers unquantised",
        )
    for order in sorted(set(activation_orders(config.quantisation))):
        message = f"quantization_config has actorder {order!r}"
        if order in TRACELESS_ORDERS:
            remedy = (
                "nothing; the plugin sets it to null, which is equivalent. Older versions of vLLM take it for 'group' "
                "and halve the scales of w2"
            )
            effect = "loads it correctly since #41161"
            yield CheckpointFinding("ActivationOrder", "repaired", message, remedy, without_plugin=effect)
        else:
            message += ", which needs g_idx tensors that vLLM no longer reads"
            remedy = "quantise again with static activation order or none"
            yield CheckpointFinding("ActivationOrder", "refused", message, remedy, without_plugin="does not start")


def _of(tensors: Sequence[object], whose: str) -> str:
    """The subject of a sentence, such as "2 tensors of the model are"."""
    return f"1 tensor of {whose} is" if len(tensors) == 1 else f"{len(tensors)} tensors of {whose} are"
