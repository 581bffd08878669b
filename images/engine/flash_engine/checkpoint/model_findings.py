"""Findings about a DeepSeek-V4's tensors: how they are stored, which are missing or wrong, and its drafter.

A finding that explains all others is reported alone: a foreign quantisation reports no missing tensors.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from flash_contracts.checkpoint_record import CheckpointFinding
from flash_engine.checkpoint.config_findings import config_findings
from flash_engine.checkpoint.finding import Severity, abbreviated
from flash_engine.checkpoint.foreign_quantisation import described, recognise_quantisation
from flash_engine.checkpoint.headers import StoredTensor
from flash_engine.checkpoint.layout import MTP_PREFIX, SERVABLE, ExpectedTensor, Layout, expected_of
from flash_engine.checkpoint.memory import GIB, GPU_BYTES, TENSOR_PARALLEL
from flash_engine.checkpoint.model_config import FROM_SOURCE, ModelConfig
from flash_engine.checkpoint.origin import Origin, another
from flash_engine.checkpoint.schemes import NARROW, SURPLUS, WIDE_TYPE
from flash_engine.checkpoint.tensor_names import (
    KEY_ERROR,
    LOADS,
    MTP_VALUE_ERROR,
    SILENT,
    RenamedTensor,
    worse_effect,
)

Speculation = Literal["auto", "mtp", "dspark", "off"]
"""The speculation method that the checkpoint must support. auto: the one that config.json describes."""

FLASH_HIDDEN, FLASH_LAYERS, FLASH_EXPERTS = 4096, 43, 256
"""Sizes of the published DeepSeek-V4-Flash."""

CAPACITY = TENSOR_PARALLEL * GPU_BYTES
"""Bytes of both GPUs."""

RESTORABLE = ("W4A16-FP8", "W4A16")
"""Families whose MTP head `model.restoreMtp` can restore."""

WITHOUT_DRAFTS = "set speculation.method to Disabled"

_GATE = re.compile(r"layers\.\d+\.ffn\.gate\.weight")
_DSPARK_PARTS, _MTP_PARTS = (".main_proj.", ".markov_head."), (".e_proj.", ".h_proj.")


@dataclass(frozen=True)
class InspectedModel:
    """A DeepSeek-V4 and the requirements on it."""

    config: ModelConfig
    layout: Layout
    tensors: Mapping[str, StoredTensor]
    """By canonical name."""
    speculation: Speculation
    origin: Origin
    files: tuple[str, ...] = ()

    @property
    def drafter_severity(self) -> Severity:
        """Faults of the drafter count only if speculation is on."""
        return "note" if self.speculation == "off" else "refused"


def model_findings(model: InspectedModel, renamed: Sequence[RenamedTensor]) -> Iterator[CheckpointFinding]:
    foreign = list(_layout_findings(model))
    if foreign:
        yield from foreign
        yield from _drafter_findings(model)
        return
    yield from _repaired_layout(model.layout)
    yield from _name_findings(renamed)
    pruned = _expert_findings(model)
    yield from pruned
    if not any(finding.severity == "refused" for finding in pruned):
        yield from _tensor_findings(model)
    yield from _drafter_findings(model)
    yield from config_findings(model.config, model.layout, model.origin)


def _layout_findings(model: InspectedModel) -> Iterator[CheckpointFinding]:
    """One refusal for a checkpoint that does not fit or whose layout is not supported."""
    layout, config = model.layout, model.config
    stored = sum(tensor.size for tensor in model.tensors.values())
    layouts = another(f"one of these layouts: {', '.join(SERVABLE)}")
    if layout.family in SERVABLE and not layout.built_plain:
        if stored > CAPACITY:
            message = f"the weights take {stored / GIB:,.0f} GiB, and two GPUs of 96 GB hold {CAPACITY // GIB}"
            remedy = another("a smaller one, such as DeepSeek-V4-Flash")
            yield CheckpointFinding("TooLarge", "refused", message, remedy, without_plugin="runs out of memory")
        return
    if layout.family == "BF16":
        message = (
            f"this DeepSeek-V4 is not quantised: in BF16 it takes 529 GiB, and two GPUs of 96 GB hold {CAPACITY // GIB}"
        )
        yield CheckpointFinding("TooLarge", "refused", message, layouts, without_plugin="runs out of memory")
        return
    foreign = recognise_quantisation(config.raw, model.tensors, model.files)
    if foreign:
        message = (
            f"this DeepSeek-V4 is quantised with {foreign.name}, which the engine does not load with any engine.profile"
        )
        effect = "reads it in other models" if foreign.in_vllm else "does not start"
        yield CheckpointFinding("ForeignQuantisation", "refused", message, layouts, without_plugin=effect)
        return
    message = (
        f"this DeepSeek-V4 is stored in an unknown layout ({_stored(model)}; config.json: {described(config.raw)})"
    )
    yield CheckpointFinding("UnknownLayout", "refused", message, layouts, without_plugin="fails, or serves nonsense")


def _stored(model: InspectedModel) -> str:
    """How the weights are stored, or what there is instead of known weights."""
    main = model.layout.main
    if main:
        unknown = [f"{role} in no known scheme" for role in ("attention", "experts") if role not in main]
        return ", ".join((*unknown, *(f"{role} {scheme.name}" for role, scheme in main.items())))
    if model.tensors and all(name.startswith(MTP_PREFIX) for name in model.tensors):
        return "the tensors of a drafter alone, without the model's"
    names = [name for name in model.tensors if ".layers." in f".{name}"]
    return f"tensors with other names, such as {names[0]}" if names else "no layers"


def _repaired_layout(layout: Layout) -> Iterator[CheckpointFinding]:
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


def _name_findings(renamed: Sequence[RenamedTensor]) -> Iterator[CheckpointFinding]:
    """One finding for all names, because a splice misnames thousands of tensors in the same way."""
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


def _expert_findings(model: InspectedModel) -> list[CheckpointFinding]:
    """Findings about the number of experts, which is the number of rows of a layer's router."""
    config = model.config
    rows = Counter(one.shape[0] for name, one in model.tensors.items() if _GATE.fullmatch(name) and one.shape)
    if rows and 2 * rows[config.experts] < rows.total():
        counts = " to ".join(str(count) for count in dict.fromkeys((min(rows), max(rows))))
        message = f"the layers have {counts} experts, but config.json has n_routed_experts {config.experts}"
        if len(rows) > 1:
            message += ", and vLLM needs the same number in all layers"
        remedy = model.origin.change("put config.json of the checkpoint that these files belong to beside them")
        names = tuple(name for name in model.tensors if _GATE.fullmatch(name))
        return [CheckpointFinding("PrunedExperts", "refused", message, remedy, names, KEY_ERROR)]
    if (config.hidden, config.layers) == (FLASH_HIDDEN, FLASH_LAYERS) and config.experts < FLASH_EXPERTS:
        message = f"it is pruned: each layer has {config.experts} of the {FLASH_EXPERTS} experts of DeepSeek-V4-Flash"
        remedy = "nothing; its answers and speed differ from those of the whole model"
        return [CheckpointFinding("PrunedExperts", "note", message, remedy, without_plugin="serves it")]
    return []


@dataclass
class _TensorFaults:
    """Tensors by what is wrong with them."""

    missing: list[str] = field(default_factory=list)
    shape: list[tuple[str, str]] = field(default_factory=list)
    """Name and description."""
    type: list[tuple[str, str]] = field(default_factory=list)
    """Name and description."""
    downcast: list[str] = field(default_factory=list)


def _tensor_findings(model: InspectedModel) -> Iterator[CheckpointFinding]:
    main, draft = _TensorFaults(), _TensorFaults()
    unknown_names = set(model.tensors)
    for name, wanted in expected_of(model.config, model.layout):
        unknown_names.discard(name)
        _compare(name, wanted, model.tensors.get(name), draft if name.startswith(MTP_PREFIX) else main)
    is_other_drafter = bool(_other_drafter(model))
    yield from _otherwise_findings(model, unknown_names, main, draft)
    yield from _fault_findings(main, "the model", "refused", effect=KEY_ERROR)
    if not is_other_drafter:
        yield from _fault_findings(draft, "the drafter", model.drafter_severity, effect=SILENT)
    yield from _surplus_findings(sorted(name for name in unknown_names if name.endswith(SURPLUS)))
    counted = model.speculation != "off" and not is_other_drafter
    unknown = (name for name in unknown_names if counted or not name.startswith(MTP_PREFIX))
    yield from _unknown_findings(model, tuple(sorted(name for name in unknown if not name.endswith(SURPLUS))))


def _otherwise_findings(
    model: InspectedModel, unknown: set[str], main: _TensorFaults, draft: _TensorFaults
) -> Iterator[CheckpointFinding]:
    """Matrices whose tensors are both missing and unknown: they exist, but are stored differently from their kind.

    Removes them from `unknown` and from the faults.
    """
    missing = {name.rpartition(".")[0] for name in (*main.missing, *draft.missing)}
    stored: dict[str, list[str]] = {}
    for name in unknown:
        module, _, part = name.rpartition(".")
        if module in missing and not name.endswith(SURPLUS):
            stored.setdefault(module, []).append(part)
    if not stored:
        return
    unknown.difference_update(f"{module}.{part}" for module, parts in stored.items() for part in parts)
    for faults in (main, draft):
        faults.missing = [name for name in faults.missing if name.rpartition(".")[0] not in stored]
    modules = sorted(stored, key=lambda module: (module.startswith(MTP_PREFIX), module))
    first = f"{modules[0]} is stored as {', '.join(sorted(stored[modules[0]]))}"
    message = f"{len(modules)} matrices are stored differently from how vLLM builds them: {first}"
    is_draft = modules[0].startswith(MTP_PREFIX)
    severity = model.drafter_severity if is_draft else "refused"
    remedy = f"{another('the same model without this')}, or convert the source checkpoint again"
    yield CheckpointFinding("StoredOtherwise", severity, message, remedy, tuple(modules), KEY_ERROR)


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


def _fault_findings(
    faults: _TensorFaults, whose: str, severity: Severity, *, effect: str
) -> Iterator[CheckpointFinding]:
    remedy = f"{another('them')}, or convert the source checkpoint again"
    if faults.missing:
        message = f"{_of(faults.missing, whose)} missing: {abbreviated(faults.missing)}"
        yield CheckpointFinding("MissingTensor", severity, message, remedy, tuple(faults.missing), effect)
    for code, wrong in (("WrongShape", faults.shape), ("WrongType", faults.type)):
        if wrong:
            names, descriptions = zip(*wrong, strict=True)
            message = f"{_of(wrong, whose)} wrong: {abbreviated(descriptions)}"
            yield CheckpointFinding(code, severity, message, remedy, names, "copies whatever fits")
    if faults.downcast:
        message = f"{_of(faults.downcast, whose)} stored with less than 32 bits: {abbreviated(faults.downcast)}"
        remedy = "copy them unchanged from the source checkpoint; otherwise routing and mixing lose precision"
        yield CheckpointFinding("Downcast", "note", message, remedy, tuple(faults.downcast), "widens them to 32 bits")


def _surplus_findings(surplus: list[str]) -> Iterator[CheckpointFinding]:
    if surplus:
        message = (
            f"{len(surplus)} tensors are scales of activations that the model does not use: {abbreviated(surplus)}"
        )
        remedy = "nothing; the plugin skips them while loading"
        yield CheckpointFinding("SurplusTensor", "repaired", message, remedy, tuple(surplus), KEY_ERROR)


def _unknown_findings(model: InspectedModel, unknown: tuple[str, ...]) -> Iterator[CheckpointFinding]:
    if not unknown:
        return
    message = f"the model does not have {len(unknown)} of the tensors: {abbreviated(unknown)}"
    change = "remove them from the files and the index"
    if all(name.startswith(MTP_PREFIX) for name in unknown) and not model.config.has_drafter:
        message = f"config.json has {model.config.drafter_entry}, but the files have a drafter: {abbreviated(unknown)}"
        change = FROM_SOURCE
    remedy = model.origin.change(change)
    if change == FROM_SOURCE:
        remedy = f"{WITHOUT_DRAFTS}, or {remedy}"
    yield CheckpointFinding("UnknownTensor", "refused", message, remedy, unknown, KEY_ERROR)


def _other_drafter(model: InspectedModel) -> str | None:
    """How the drafter in the files differs from the one that config.json describes; None if it does not."""
    names = [name for name in model.tensors if name.startswith(MTP_PREFIX)]
    is_dspark = any(part in name for name in names for part in _DSPARK_PARTS)
    is_mtp = any(part in name for name in names for part in _MTP_PARTS)
    if is_dspark and not is_mtp and model.config.mtp_layers:
        return f"the files have a DSpark drafter, but config.json has {model.config.drafter_entry}"
    if is_mtp and not is_dspark and model.config.dspark_layers:
        return (
            "the files have an MTP head, but config.json has dspark_target_layer_ids, which describe a DSpark drafter"
        )
    return None


def _drafter_findings(model: InspectedModel) -> Iterator[CheckpointFinding]:
    config, layout, speculation = model.config, model.layout, model.speculation
    other = _other_drafter(model)
    if other:
        remedy = f"{WITHOUT_DRAFTS}, or {model.origin.change(FROM_SOURCE)}"
        yield CheckpointFinding("DrafterMismatch", model.drafter_severity, other, remedy, without_plugin=KEY_ERROR)
    elif speculation == "off":
        return
    elif not layout.has_drafter:
        yield _without_drafter(model)
    elif speculation == "mtp" and config.dspark_layers:
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


def _without_drafter(model: InspectedModel) -> CheckpointFinding:
    config = model.config
    entry = f", and config.json has {config.drafter_entry}" if not config.has_drafter else ""
    restore = "; on a claim, model.restoreMtp restores it" if model.layout.family in RESTORABLE else ""
    remedy = f"{WITHOUT_DRAFTS}, or {another('the model with its drafter')}{restore}"
    message = f"the drafter was stripped: there is no mtp.* tensor{entry}"
    return CheckpointFinding("MtpMissing", "refused", message, remedy, without_plugin=MTP_VALUE_ERROR)


def _of(tensors: Sequence[object], whose: str) -> str:
    """The subject of a sentence, such as "2 tensors of the model are"."""
    return f"1 tensor of {whose} is" if len(tensors) == 1 else f"{len(tensors)} tensors of {whose} are"
