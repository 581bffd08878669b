"""The attention's grouped output projection, wo_a, which vLLM multiplies by itself and not through its linear layer."""

from typing import Any

from flash_engine.plugin.versions import release_of

READ_BY_OFFICIAL_NAME = ((0, 26),)
"""vLLM releases whose product reads `weight_scale_inv` alone (models/deepseek_v4/nvidia/ops/o_proj.py:66 of 0.26.0);
0.32 and 0.33 ask for `weight_scale` first (o_proj.py:84). A layer of compressed-tensors has only that."""


def name_scales_as_read(model: Any, version: str) -> set[str]:
    """Give each wo_a's scale the name that this vLLM's product reads, and return those names.

    For once it is loaded, and before vLLM lays it out for the GPU; whatever else reads such a scale takes either name.
    Without this the first step of every checkpoint in the seed's layout ends in an AttributeError, as a GPU showed.
    """
    if release_of(version) not in READ_BY_OFFICIAL_NAME:
        return set()
    renamed = set()
    for name, module in model.named_modules():
        if getattr(module, "is_bmm", False) and hasattr(module, "weight_scale"):
            scale = module.weight_scale
            del module.weight_scale
            module.register_parameter("weight_scale_inv", scale)
            renamed.add(f"{name}.weight_scale_inv")
    return renamed
