"""Declares the restored layer in config.json: quantisation groups that match its modules, and no `actorder`."""

import copy
import re
from collections.abc import Mapping
from typing import Any, Final

from mtp_quantiser.errors import QuantiserError
from mtp_quantiser.layout import ATTENTION, MtpShape

EXPERT_TARGET: Final = r"re:.*ffn\.experts\.\d+\.(w1|w2|w3)$"
ATTENTION_TARGET: Final = r"re:.*attn\.(wq_a|wq_b|wkv|wo_a|wo_b|fused_wqa_wkv)$"
UNQUANTISED: Final = (r"re:.*\.(e_proj|h_proj)$", r"re:.*\.shared_experts\..*")
"""Modules stored in BF16. Without the dot, e_proj would match gate_proj too."""

INT4: Final = {"num_bits": 4, "type": "int", "symmetric": True, "group_size": 128, "strategy": "group"}
FP8: Final = {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "block", "block_structure": [128, 128]}
FP8_INPUTS: Final = {
    "num_bits": 8, "type": "float", "symmetric": True, "strategy": "group", "group_size": 128, "dynamic": True,
}  # fmt: skip


def with_mtp(config: Mapping[str, Any], shape: MtpShape) -> dict[str, Any]:
    """The base's config.json with the MTP layer declared. Raises QuantiserError if the base is not W4A16-FP8.

    `actorder` is removed from every group: static order needs no index in the file, and vLLM before its PR 41161
    treated any value as grouped, with wrong scales of w2 under tensor parallelism (vllm-project/vllm#41511).
    """
    made = copy.deepcopy(dict(config))
    quantization = made.get("quantization_config")
    if not quantization or quantization.get("quant_method") != "compressed-tensors":
        raise QuantiserError(
            "the base's config.json has no compressed-tensors quantization_config; give a W4A16-FP8 checkpoint as base"
        )
    made["num_nextn_predict_layers"] = 1
    made.setdefault("topk_method", "noaux_tc")
    quantization.setdefault("scale_fmt", "ue8m0")
    quantization["format"] = "mixed-precision"
    groups = quantization.setdefault("config_groups", {})
    for group in groups.values():
        (group.get("weights") or {}).pop("actorder", None)
    layer = f"model.layers.{shape.layers}"
    experts = [f"{layer}.ffn.experts.0.{name}" for name in ("w1", "w2", "w3")]
    attention = [f"{layer}.attn.{name}" for name in ATTENTION]
    cover(groups, experts, INT4, EXPERT_TARGET, {"format": "pack-quantized", "input_activations": None})
    cover(groups, attention, FP8, ATTENTION_TARGET, {"format": "float-quantized", "input_activations": FP8_INPUTS})
    ignored = quantization.setdefault("ignore", [])
    ignored += [pattern for pattern in UNQUANTISED if pattern not in ignored]
    return made


def cover(
    groups: dict[str, Any], modules: list[str], weights: Mapping[str, Any], target: str, rest: Mapping[str, Any]
) -> None:
    """Make one group of the right kind match every module: extend the base's own group, or add one."""
    matching = [name for name, group in groups.items() if any(matches(group, module) for module in modules)]
    wrong = [name for name in matching if not same_kind(groups[name], weights)]
    if wrong:
        raise QuantiserError(
            f"{wrong[0]} of the base's quantization_config matches {modules[0]} as {groups[wrong[0]].get('weights')}; "
            "the base is not quantised as W4A16-FP8"
        )
    if matching and all(any(matches(groups[name], module) for name in matching) for module in modules):
        return
    own = next((name for name, group in groups.items() if same_kind(group, weights)), None)
    if own is not None:
        groups[own]["targets"] = [*groups[own]["targets"], target]
    else:
        full = {"targets": [target], "weights": {**weights, "dynamic": False}, "output_activations": None, **rest}
        groups[f"group_{len(groups)}"] = full


def matches(group: Mapping[str, Any], module: str) -> bool:
    """Matches like compressed-tensors: `re:` targets are regular expressions from the start, others whole names."""
    for target in group.get("targets", ()):
        pattern = target.removeprefix("re:")
        if re.match(pattern, module) if target.startswith("re:") else target == module:
            return True
    return False


def same_kind(group: Mapping[str, Any], weights: Mapping[str, Any]) -> bool:
    theirs = group.get("weights") or {}
    return all(theirs.get(key) == value for key, value in weights.items())
