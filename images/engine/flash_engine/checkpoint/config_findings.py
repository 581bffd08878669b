"""Findings about config.json alone. The plugin checks them again after --hf-overrides."""

from collections.abc import Iterator

from flash_contracts.checkpoint_record import CheckpointFinding
from flash_engine.checkpoint.layout import Layout
from flash_engine.checkpoint.model_config import FROM_SOURCE, ModelConfig
from flash_engine.checkpoint.origin import VOLUME, Origin
from flash_engine.checkpoint.quantisation import TRACELESS_ORDERS, activation_orders, layer_mismatches
from flash_engine.checkpoint.schemes import FP4, FP8_SCALE, NVFP4_MODELOPT, PLAIN
from flash_engine.checkpoint.tensor_names import KEY_ERROR, SILENT
from flash_engine.checkpoint.tensors import QUANTISED


def config_findings(config: ModelConfig, layout: Layout, origin: Origin = VOLUME) -> Iterator[CheckpointFinding]:
    """The findings for a checkpoint with a known layout."""
    topk_method = config.raw.get("topk_method")
    if topk_method != "noaux_tc":
        entry = f"topk_method {topk_method!r}" if topk_method is not None else "no topk_method"
        yield CheckpointFinding(
            "TopkMethod",
            "repaired",
            f"config.json has {entry}, but the router's bias needs noaux_tc",
            "nothing; the plugin sets it",
            without_plugin=f"{KEY_ERROR} (ffn.gate.e_score_correction_bias)",
        )
    if not config.quantisation:
        if any(scheme.kind != "plain" for scheme in layout.main.values()):
            message = "config.json has no quantization_config, but the weights are quantised"
            remedy = f"{origin.change(FROM_SOURCE)}; without it vLLM would build 568 GB of BF16 layers"
            effect = "runs out of memory, or fails with a KeyError"
            yield CheckpointFinding("NoQuantisation", "refused", message, remedy, without_plugin=effect)
    elif config.quant_method == "compressed-tensors":
        yield from _compressed_tensors_findings(config, layout)
    elif config.quant_method == "fp8":
        yield from _fp8_findings(config, layout, origin)
    else:
        named = f"quant_method {config.quant_method!r}" if config.quant_method else "no quant_method"
        message = f"quantization_config has {named}, but the weights are stored as {layout.family}"
        remedy = origin.change(FROM_SOURCE)
        yield CheckpointFinding("NoQuantisation", "refused", message, remedy, without_plugin="does not start")


EXPERT_ENTRIES = {FP4: ("fp4", ""), FP8_SCALE: ("fp8", ""), NVFP4_MODELOPT: ("fp4", "NVFP4")}
"""For each scheme of the experts, the expert_dtype and moe_quant_algo that make vLLM's DeepseekV4FP8Config build it."""


def _fp8_findings(config: ModelConfig, layout: Layout, origin: Origin) -> Iterator[CheckpointFinding]:
    """Check the experts' entries. vLLM builds all other matrices in FP8, except those that the config excludes."""
    remedy = origin.change(FROM_SOURCE)
    scheme = layout.main.get("experts", PLAIN)
    found = (str(config.raw.get("expert_dtype", "fp4")), str(config.quantisation.get("moe_quant_algo") or "").upper())
    if found != EXPERT_ENTRIES.get(scheme, found):
        built = " and ".join(filter(None, found))
        message = f"the experts are {scheme.name}, but expert_dtype or moe_quant_algo in config.json ask for {built}"
        yield CheckpointFinding("QuantisationTargets", "refused", message, remedy, without_plugin=KEY_ERROR)
    if any(config.quantisation.get(key) for key in ("ignored_layers", "modules_to_not_convert")):
        return
    for whose, side in (("the model", layout.main), ("the drafter", layout.draft)):
        plain = [role for role, one in side.items() if role in QUANTISED and role != "experts" and one.kind == "plain"]
        if plain:
            message = f"of {whose}, {' and '.join(plain)} are BF16, but quant_method fp8 makes vLLM build them in FP8"
            yield CheckpointFinding("QuantisationTargets", "refused", message, remedy, without_plugin=SILENT)


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
                "nothing; the plugin sets it to null, which is equivalent. Older versions of vLLM mistake it for "
                "'group' and halve the scales of w2"
            )
            effect = "loads it correctly since #41161"
            yield CheckpointFinding("ActivationOrder", "repaired", message, remedy, without_plugin=effect)
        else:
            message += ", which needs g_idx tensors that vLLM no longer reads"
            remedy = "quantise again with static activation order or none"
            yield CheckpointFinding("ActivationOrder", "refused", message, remedy, without_plugin="does not start")
