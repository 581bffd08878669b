"""Renames the scale of wo_a, the grouped output projection, which vLLM multiplies outside its linear layer."""

from typing import Any

from flash_engine.plugin.versions import release_of

READ_BY_OFFICIAL_NAME = ((0, 26),)
"""vLLM releases that read only `weight_scale_inv` (models/deepseek_v4/nvidia/ops/o_proj.py:66 of 0.26.0); 0.32 and 0.33
try `weight_scale` first (o_proj.py:84). A layer of compressed-tensors has only `weight_scale`."""


def name_scales_as_read(model: Any, version: str) -> set[str]:
    """Rename each wo_a's scale to the name that this vLLM reads, and return those names.

    Call it after loading, before vLLM rearranges the weights for the GPU; other readers accept either name. Without it,
    the first step of every checkpoint in the original layout fails with an AttributeError (seen on a GPU).
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
