"""A checkpoint, inspected: its layout, and every finding.

refused    what vLLM, with the plugin, cannot serve as asked
repaired   what the plugin loads although vLLM by itself would not, or not rightly
note       what is worth knowing
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from flash_engine.checkpoint.finding import CheckpointError, Finding, named
from flash_engine.checkpoint.headers import Headers, Stored, read_headers
from flash_engine.checkpoint.layout import MTP_PREFIX, Expected, Layout, expected_of, identify
from flash_engine.checkpoint.model_config import FROM_SOURCE, ModelConfig
from flash_engine.checkpoint.quantisation import NO_ORDER, disagreements, orders
from flash_engine.checkpoint.schemes import NARROW, WIDE_TYPE
from flash_engine.checkpoint.source import Files, config_of
from flash_engine.checkpoint.tensor_names import LOADS, MTP_VALUE_ERROR, SILENT, Names, Renamed, renaming, worse

Speculation = Literal["auto", "mtp", "dspark", "off"]
"""What is to draft; auto: whatever config.json speaks of."""

SERVABLE = (
    "official FP4/FP8",
    "official FP8 (Base)",
    "W4A16-FP8",
    "W4A16",
    "NVFP4-FP8",
    "NVFP4-FP8 (compressed-tensors)",
)
UNREAD = ("BadHeader", "BadIndex", "MissingShard")
"""With a file that cannot be read, all else that is missing is a consequence, and not worth saying."""

TAKE_ANOTHER = "take a checkpoint that has them, or make them anew from its source"
KEY_ERROR = "ends with a KeyError that names a parameter of its own"


@dataclass(frozen=True)
class Inspection:
    """What is known of a checkpoint. Without config and layout only its files were looked at."""

    place: str
    findings: tuple[Finding, ...]
    tensors: Mapping[str, Stored] = field(default_factory=dict)
    """Under their right names."""
    config: ModelConfig | None = None
    layout: Layout | None = None
    commit: str | None = None
    """Of a hub's repository."""

    @property
    def refusals(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.severity == "refused")

    @property
    def stored_bytes(self) -> int:
        return sum(stored.size for stored in self.tensors.values())


def inspect(
    open_files: Callable[[], Files], *, speculation: Speculation = "auto", any_model: bool = False
) -> Inspection:
    """Never raises for a bad checkpoint: what is wrong is a finding.

    `any_model`: one of another architecture is not refused, and only its files are looked at.
    """
    try:
        files = open_files()
    except CheckpointError as error:
        return Inspection("", (error.as_finding(),))
    commit = getattr(files, "commit", None)
    try:
        raw, headers = config_of(files), read_headers(files)
    except CheckpointError as error:
        return Inspection(files.place, (error.as_finding(),), commit=commit)
    notes = tuple(getattr(files, "findings", ()))
    unread = tuple(finding for finding in headers.findings if finding.code in UNREAD)
    if unread:
        return Inspection(files.place, (*notes, *unread), headers.tensors, commit=commit)
    try:
        config = ModelConfig.parse(raw)
    except CheckpointError as error:
        spoken_of = () if any_model and error.code == "OtherModel" else (error.as_finding(),)
        return Inspection(files.place, (*notes, *headers.findings, *spoken_of), headers.tensors, commit=commit)
    return _inspect_model(files.place, config, headers, speculation, notes, commit)


def _inspect_model(
    place: str,
    config: ModelConfig,
    headers: Headers,
    speculation: Speculation,
    notes: tuple[Finding, ...],
    commit: str | None,
) -> Inspection:
    renamed = list(renaming(Names(config, headers.tensors), headers.tensors))
    tensors = {one.right: headers.tensors[one.written] for one in renamed}
    layout = identify(config, tensors)
    found = [
        *notes,
        *headers.findings,
        *_of_layout(layout),
        *_of_names(renamed),
        *_of_tensors(config, layout, tensors, speculation),
        *_of_drafter(config, layout, speculation),
        *config_findings(config, layout),
    ]
    return Inspection(place, tuple(found), tensors, config, layout, commit)


def _of_layout(layout: Layout) -> Iterator[Finding]:
    if layout.family not in SERVABLE:
        told = ", ".join(f"{role} {scheme.name}" for role, scheme in layout.main.items()) or "no known weights"
        yield Finding(
            "UnknownLayout",
            "refused",
            f"this way to store a DeepSeek-V4 is not known ({told})",
            f"take a checkpoint of one of these: {', '.join(SERVABLE)}",
            without_plugin="ends, or serves nonsense",
        )
    fp8 = [
        role for role in ("compressor", "indexer weights") if layout.main.get(role) and layout.main[role].kind == "fp8"
    ]
    if fp8:
        yield Finding(
            "Fp8Compressor",
            "repaired",
            f"{' and '.join(fp8)} are FP8, and vLLM builds them unquantised",
            "the plugin turns them into BF16 while loading, for less than 1 GB more",
            without_plugin=f"{KEY_ERROR} (compressor.fused_wkv_wgate.weight_scale)",
        )


def _of_names(renamed: list[Renamed]) -> Iterator[Finding]:
    """One finding for all names: a splice is wrong a thousand times in one way."""
    wrong = [one for one in renamed if one.right != one.written and one.without_plugin != LOADS]
    if not wrong:
        return
    effect = wrong[0].without_plugin
    for one in wrong:
        effect = worse(effect, one.without_plugin)
    yield Finding(
        "MisnamedTensor",
        "repaired",
        f"{len(wrong)} tensors have other names than vLLM looks for, such as {wrong[0].written} for {wrong[0].right}",
        "the plugin renames them while loading",
        tuple(one.written for one in wrong),
        effect,
    )


@dataclass
class _Faults:
    """Names of tensors by what is wrong with them."""

    missing: list[str] = field(default_factory=list)
    shape: list[tuple[str, str]] = field(default_factory=list)
    type: list[tuple[str, str]] = field(default_factory=list)
    downcast: list[str] = field(default_factory=list)


def _of_tensors(
    config: ModelConfig, layout: Layout, tensors: Mapping[str, Stored], speculation: Speculation
) -> Iterator[Finding]:
    """The drafter's tensors are only wanted where it is to draft."""
    main, draft = _Faults(), _Faults()
    known = 0
    left = set(tensors)
    for name, wanted in expected_of(config, layout):
        stored = tensors.get(name)
        if stored is not None:
            known += 1
            left.discard(name)
        _compare(name, wanted, stored, draft if name.startswith(MTP_PREFIX) else main)
    if layout.family == "unknown" and not known:
        return
    yield from _told(main, "the model", needed=True, effect=KEY_ERROR)
    yield from _told(draft, "its drafter", needed=speculation != "off", effect=SILENT)
    unknown = sorted(name for name in left if speculation != "off" or not name.startswith(MTP_PREFIX))
    if unknown:
        yield Finding(
            "UnknownTensor",
            "refused",
            f"{len(unknown)} tensors have no place in the model: {named(unknown)}",
            "remove them from the files and the index; if they are a drafter's, config.json must speak of it",
            tuple(unknown),
            KEY_ERROR,
        )


def _compare(name: str, wanted: Expected, stored: Stored | None, faults: _Faults) -> None:
    if stored is None:
        if not wanted.optional:
            faults.missing.append(name)
    elif stored.shape != wanted.shape:
        faults.shape.append((name, f"{name} is {list(stored.shape)} and must be {list(wanted.shape)}"))
    elif stored.type not in wanted.types:
        if wanted.types == WIDE_TYPE and stored.type in NARROW:
            faults.downcast.append(name)
        else:
            faults.type.append((name, f"{name} is {stored.type} and must be {' or '.join(wanted.types)}"))


def _told(faults: _Faults, whose: str, *, needed: bool, effect: str) -> Iterator[Finding]:
    severity: Literal["refused", "note"] = "refused" if needed else "note"
    if faults.missing:
        told = f"{len(faults.missing)} tensors of {whose} are missing: {named(faults.missing)}"
        yield Finding("MissingTensor", severity, told, TAKE_ANOTHER, tuple(faults.missing), effect)
    for code, found in (("WrongShape", faults.shape), ("WrongType", faults.type)):
        if found:
            told = f"{len(found)} tensors of {whose} do not fit: {named([sentence for _, sentence in found])}"
            yield Finding(code, severity, told, TAKE_ANOTHER, tuple(name for name, _ in found), "copies what it can")
    if faults.downcast:
        told = f"{len(faults.downcast)} tensors of {whose} were saved narrower than 32 bits: {named(faults.downcast)}"
        remedy = "take them from the source as they were: routing and mixing lose precision"
        yield Finding("Downcast", "note", told, remedy, tuple(faults.downcast), "widens them again")


def _of_drafter(config: ModelConfig, layout: Layout, speculation: Speculation) -> Iterator[Finding]:
    if speculation == "off":
        return
    if speculation == "mtp" and config.dspark_layers:
        yield Finding(
            "DsparkWanted",
            "refused",
            "this checkpoint drafts with DSpark and has no MTP head",
            "set speculation.method to Dspark, or to Disabled",
            without_plugin=KEY_ERROR,
        )
    elif speculation == "dspark" and not config.dspark_layers:
        told = "DSpark is wanted, and config.json has no dspark_target_layer_ids"
        yield Finding(
            "MtpMissing", "refused", told, "set speculation.method to Mtp, or to Disabled", without_plugin="ends"
        )
    elif not layout.has_drafter:
        where = "" if config.mtp_layers or config.dspark_layers else " and config.json has no num_nextn_predict_layers"
        yield Finding(
            "MtpMissing",
            "refused",
            f"the MTP head was stripped: no mtp.* tensor is there{where}",
            "serve a checkpoint that has it, splice one in, or set speculation.method to Disabled",
            without_plugin=MTP_VALUE_ERROR,
        )


def config_findings(config: ModelConfig, layout: Layout) -> Iterator[Finding]:
    if config.raw.get("topk_method") != "noaux_tc":
        yield Finding(
            "TopkMethod",
            "repaired",
            f"config.json has topk_method {config.raw.get('topk_method')!r}, and the router's bias needs noaux_tc",
            "the plugin sets it",
            without_plugin=f"{KEY_ERROR} (ffn.gate.e_score_correction_bias)",
        )
    if not config.quantisation:
        if any(scheme.kind != "plain" for scheme in layout.main.values()):
            told = "config.json has no quantization_config, and the weights are quantised"
            remedy = f"vLLM would build 568 GB of BF16 layers; {FROM_SOURCE}"
            yield Finding(
                "NoQuantisation", "refused", told, remedy, without_plugin="ends out of memory or with a KeyError"
            )
    elif config.quant_method == "compressed-tensors":
        yield from _of_compressed_tensors(config, layout)
    elif config.quant_method != "fp8":
        told = f"quantization_config has quant_method {config.quant_method!r}, which is not known for a DeepSeek-V4"
        yield Finding("NoQuantisation", "refused", told, FROM_SOURCE, without_plugin="ends")


def _of_compressed_tensors(config: ModelConfig, layout: Layout) -> Iterator[Finding]:
    wrong = list(disagreements(config, layout))
    if wrong:
        first = wrong[0]
        told = (
            f"quantization_config makes vLLM build {len(wrong)} layers otherwise than they are stored, such as "
            f"{first.name}: {first.built} for {first.stored}"
        )
        yield Finding(
            "QuantisationTargets",
            "repaired",
            told,
            "the plugin gives vLLM targets that fit the files",
            tuple(one.name for one in wrong),
            f"{KEY_ERROR}, for what it silently built plain",
        )
    for order in sorted(set(orders(config.quantisation))):
        if order in NO_ORDER:
            remedy = "the plugin takes it for null, which it is: older vLLM took it for grouped, and halved w2's scales"
            told = f"quantization_config has actorder {order!r}"
            yield Finding("ActivationOrder", "repaired", told, remedy, without_plugin="loads it right since #41161")
        else:
            told = f"quantization_config has actorder {order!r}, which needs g_idx tensors that vLLM no longer reads"
            remedy = "quantise again with static order or none"
            yield Finding("ActivationOrder", "refused", told, remedy, without_plugin="ends")
