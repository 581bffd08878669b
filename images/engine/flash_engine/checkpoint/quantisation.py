"""Compares the layers that a compressed-tensors `quantization_config` makes vLLM build with the files, and corrects it.

vLLM matches targets against the names of its own modules, not those in the file (vLLM 0.33.0,
model_executor/layers/quantization/compressed_tensors/{compressed_tensors,utils}.py). A target is a regular expression,
matched from the start of the name, a literal name, to which vLLM's weights mapper is applied first, or the class
`Linear`. A layer that no target matches is silently built plain.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from flash_engine.checkpoint.layout import MTP_PREFIX, Layout
from flash_engine.checkpoint.model_config import ModelConfig
from flash_engine.checkpoint.tensors import QUANTISED, WeightMatrix, drafter, main_model

TRACELESS_ORDERS = (None, "static", "weight")
"""Activation orders that need no extra tensors. Others need `weight_g_idx`, which no supported layout has."""

VLLM_NAMES = {
    "wq_a": "fused_wqa_wkv", "wkv": "fused_wqa_wkv", "w1": "gate_proj", "w2": "down_proj", "w3": "up_proj",
}  # fmt: skip
"""The names under which vLLM 0.26 looks up the targets of attention and expert matrices. Later versions use the
matrix's own name, or both. The targets made here match either."""

_REGEX = "re:"
_TYPES = {("int", 4): "int4", ("float", 8): "fp8", ("float", 4): "nvfp4"}

FP8_ACTIVATIONS = {
    "num_bits": 8, "type": "float", "symmetric": True, "strategy": "group", "group_size": 128, "dynamic": True,
}  # fmt: skip
FP8_WEIGHTS = {
    "num_bits": 8, "type": "float", "symmetric": True, "strategy": "block", "block_structure": [128, 128],
    "dynamic": False,
}  # fmt: skip


@dataclass(frozen=True)
class LayerMismatch:
    """A matrix that is stored differently from the layer that vLLM would build for it."""

    name: str
    built: str
    stored: str


def module_of(name: str, config: ModelConfig) -> str:
    """The name of vLLM's module for a matrix. vLLM numbers the drafter's layers after the model's."""
    if name.startswith(MTP_PREFIX):
        _, number, rest = name.split(".", 2)
        name = f"layers.{config.layers + int(number)}.{rest}"
    return f"model.{name.replace('.shared_experts.w2', '.shared_experts.down_proj')}"


class TargetMatcher:
    """Finds which kind of layer a quantization_config gives a module; `plain` if no target matches."""

    def __init__(self, quantisation: Mapping[str, Any]) -> None:
        self._ignored = [_mapped(str(name)) for name in _list(quantisation.get("ignore"))]
        self._groups = [
            (_mapped(str(target)), _kind(group.get("weights")))
            for group in _groups(quantisation)
            for target in _list(group.get("targets"))
        ]

    def kind(self, module: str) -> str:
        if any(_matches(name, module) for name in self._ignored):
            return "plain"
        matched = (kind for target, kind in self._groups if _matches(target, module))
        by_class = (kind for target, kind in self._groups if target == "Linear")
        return next(matched, None) or next(by_class, None) or "plain"


def _list(found: object) -> list[Any]:
    return found if isinstance(found, list) else []


def _groups(quantisation: Mapping[str, Any]) -> list[dict[str, Any]]:
    groups = quantisation.get("config_groups")
    return [group for group in groups.values() if isinstance(group, dict)] if isinstance(groups, dict) else []


def _matches(target: str | None, module: str) -> bool:
    if target is None:
        return False
    if target.startswith(_REGEX):
        try:
            return re.match(target[len(_REGEX) :], module) is not None
        except re.error:
            return False
    return target == module


def _mapped(target: str) -> str | None:
    """A literal name after vLLM's weights mapper, which drops the drafter's names."""
    if target.startswith(_REGEX) or "." not in target:
        return target
    if MTP_PREFIX in target:
        return None
    return f"model.{target}" if target.startswith("layers.") else target


def _kind(weights: object) -> str:
    if not isinstance(weights, dict):
        return "plain"
    return _TYPES.get((str(weights.get("type", "int")), _bits(weights.get("num_bits", 8))), "unknown")


def _bits(found: object) -> int:
    return found if isinstance(found, int) else 0


def layer_mismatches(config: ModelConfig, layout: Layout) -> Iterator[LayerMismatch]:
    """Checks only expert 0 of each layer, because vLLM applies its kind to all experts."""
    matcher = TargetMatcher(config.quantisation)
    for matrix in _quantised(config, layout):
        stored = layout.scheme(matrix.name, matrix.role).kind
        built = matcher.kind(module_of(matrix.name, config))
        if built != stored:
            yield LayerMismatch(matrix.name, built, stored)


def _quantised(config: ModelConfig, layout: Layout) -> Iterator[WeightMatrix]:
    first = replace(config, experts=1)
    for entry in main_model(first):
        if isinstance(entry, WeightMatrix) and entry.role in QUANTISED:
            yield entry
    for entry in drafter(first) if layout.has_drafter else ():
        if isinstance(entry, WeightMatrix) and entry.role in QUANTISED:
            yield entry


def activation_orders(quantisation: Mapping[str, Any]) -> list[str]:
    """The activation orders that the config names."""
    weights = [group.get("weights") for group in _groups(quantisation)]
    return [str(one["actorder"]) for one in weights if isinstance(one, dict) and one.get("actorder") is not None]


def without_activation_order(quantisation: Mapping[str, Any]) -> dict[str, Any]:
    """A copy with `actorder` null. For static order this is equivalent, because the reader has nothing to undo."""
    copied: dict[str, Any] = json.loads(json.dumps(quantisation))
    for group in _groups(copied):
        if isinstance(group.get("weights"), dict):
            group["weights"]["actorder"] = None
    return copied


def matching_quantization_config(config: ModelConfig, layout: Layout) -> dict[str, Any]:
    """A quantization_config for compressed-tensors that makes vLLM build the layers that the files contain."""
    kept = {key: value for key, value in config.quantisation.items() if key not in ("ignore", "config_groups")}
    groups: dict[str, Any] = {}
    matrices = list(_quantised(config, layout))
    for kind, group in (("fp8", _fp8_group), ("int4", _int4_group), ("nvfp4", _nvfp4_group)):
        targets = sorted({_target(m, config) for m in matrices if layout.scheme(m.name, m.role).kind == kind})
        if targets:
            groups[f"group_{len(groups)}"] = {"targets": targets, "output_activations": None, **group(config, layout)}
    return {**kept, "ignore": ["lm_head"], "config_groups": groups}


def _target(matrix: WeightMatrix, config: ModelConfig) -> str:
    """A regular expression for the same matrix in all layers of the model, or in this layer of the drafter."""
    module = module_of(matrix.name, config)
    found = re.match(r"model\.layers\.(\d+)\.(.+)$", module)
    if found is None:
        return f"{_REGEX}{re.escape(module)}$"
    number, rest = int(found[1]), found[2].replace("experts.0.", "experts.EXPERT.")
    layer = str(number) if number >= config.layers else _below(config.layers)
    parent, _, last = rest.rpartition(".")
    other = VLLM_NAMES.get(last) if parent == "attn" or parent.endswith(".EXPERT") else None
    pattern = re.escape(parent).replace("EXPERT", r"\d+")
    return rf"{_REGEX}model\.layers\.{layer}\.{pattern}\.{f'(?:{last}|{other})' if other else last}$"


def _below(layers: int) -> str:
    """An expression for the numbers of the model's layers, without the drafter's."""
    return rf"(?:{'|'.join(str(number) for number in range(layers))})"


def _fp8_group(_config: ModelConfig, _layout: Layout) -> dict[str, Any]:
    return {"format": "float-quantized", "weights": FP8_WEIGHTS, "input_activations": FP8_ACTIVATIONS}


def _int4_group(_config: ModelConfig, layout: Layout) -> dict[str, Any]:
    weights = {
        "num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": layout.group,
        "dynamic": False,
    }  # fmt: skip
    return {"format": "pack-quantized", "weights": weights, "input_activations": None}


def _nvfp4_group(config: ModelConfig, _layout: Layout) -> dict[str, Any]:
    """The group from the file; only its targets are replaced."""
    default = {"format": "nvfp4-pack-quantized", "weights": None, "input_activations": None}
    group = next(iter(config.nvfp4_groups), default)
    return {key: group.get(key) for key in default}
