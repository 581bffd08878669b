"""vLLM's DeepSeek-V4 classes with strict loading. vLLM imports this module when it builds the model."""

# mypy: disable-error-code="misc,no-any-return"
# vLLM's classes exist only in the engine image, so mypy cannot check against them.

import importlib.metadata
from typing import Any

from vllm.models.deepseek_v4 import DeepseekV4ForCausalLM, DeepSeekV4MTP, DSparkDeepseekV4ForCausalLM

from flash_engine.checkpoint.model_findings import Speculation
from flash_engine.plugin.checkpoint_of import checkpoint_of
from flash_engine.plugin.scale_names import name_scales_as_read
from flash_engine.plugin.strict_loading import Load, StrictLoading, parameters_of
from flash_engine.plugin.weight_stream import Weights


class StrictDeepseekV4(DeepseekV4ForCausalLM):
    """The model."""

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        self._flash_strict = strict_loading(vllm_config, vllm_config.model_config, "off")

    def load_weights(self, weights: Weights) -> set[str]:
        return load_strictly(self, weights, super().load_weights)


class StrictMtp(DeepSeekV4MTP):
    """Its MTP head."""

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        self._flash_strict = strict_loading(vllm_config, draft_model_config(vllm_config), "mtp")
        super().__init__(vllm_config=vllm_config, prefix=prefix)

    def is_unused_checkpoint_weight(self, name: str) -> bool:
        """vLLM uses this to skip files without useful tensors; it needs canonical names."""
        return super().is_unused_checkpoint_weight(self._flash_strict.canonical_name(name))

    def load_weights(self, weights: Weights) -> set[str]:
        return load_strictly(self, weights, super().load_weights)


class StrictDspark(DSparkDeepseekV4ForCausalLM):
    """A DSpark drafter, which the 0731 checkpoint has instead of the MTP head."""

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        self._flash_strict = strict_loading(vllm_config, draft_model_config(vllm_config), "dspark")

    def load_weights(self, weights: Weights) -> set[str]:
        return load_strictly(self, weights, super().load_weights)


def load_strictly(model: Any, weights: Weights, load: Load) -> set[str]:
    """Load the weights. Returns the names of all loaded parameters. Raises what StrictLoading.load raises."""
    loaded = model._flash_strict.load(weights, load, parameters_of(model))  # noqa: SLF001 - of the classes here
    return loaded | name_scales_as_read(model, importlib.metadata.version("vllm"))


def draft_model_config(vllm_config: Any) -> Any:
    return vllm_config.speculative_config.draft_model_config


def strict_loading(vllm_config: Any, model_config: Any, speculation: Speculation) -> StrictLoading:
    """Raises ModelRejectedError."""
    parallel = vllm_config.parallel_config
    return StrictLoading(
        checkpoint_of(model_config, speculation),
        drafter=speculation != "off",
        experts_are_divided=parallel.enable_expert_parallel and parallel.enable_ep_weight_filter,
    )
