"""Mending what config.json says, before vLLM decides what to build by it.

vLLM has a hook for each architecture, in MODELS_CONFIG_MAP; it is called for the model's configuration and for the
drafter's, which vLLM reads anew from the same file.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from flash_engine.checkpoint.finding import Finding
from flash_engine.checkpoint.inspection import Inspection, Speculation, config_findings
from flash_engine.checkpoint.layout import Layout
from flash_engine.checkpoint.model_config import ModelConfig
from flash_engine.checkpoint.quantisation import agreeing, without_order
from flash_engine.plugin.checkpoint_of import ModelRejectedError, checkpoint_of

TOPK_METHOD = "noaux_tc"

SPECULATION: dict[str, Speculation] = {
    "DeepseekV4ForCausalLM": "off",
    "DeepSeekV4MTPModel": "auto",
}
"""What each architecture needs of the checkpoint. Every drafter is an MTP head to vLLM at first, a DSpark one too."""


def hook_into() -> None:
    """Around vLLM's own hooks, once."""
    from vllm.model_executor.models import config as vllm_hooks  # noqa: PLC0415 - vLLM's, see the package

    for architecture, speculation in SPECULATION.items():
        before = vllm_hooks.MODELS_CONFIG_MAP.get(architecture, vllm_hooks.VerifyAndUpdateConfig)
        if not hasattr(before, "flash_speculation"):
            vllm_hooks.MODELS_CONFIG_MAP[architecture] = _hook(before, speculation)


def _hook(before: Any, speculation: Speculation) -> Any:
    class Mended(before):  # type: ignore[misc] # a class of vLLM, which mypy does not see
        """vLLM's hook, on a configuration that agrees with the files."""

        flash_speculation = speculation

        @staticmethod
        def verify_and_update_model_config(model_config: Any) -> None:
            mend(model_config, checkpoint_of(model_config, speculation))
            before.verify_and_update_model_config(model_config)

    return Mended


def mend(model_config: Any, checkpoint: Inspection) -> None:
    """Change vLLM's `model_config` in place, and say so. Raises ModelRejectedError for what cannot be mended."""
    if checkpoint.config is None or checkpoint.layout is None:
        return
    given = as_given(checkpoint.config, model_config.hf_config)
    found = tuple(config_findings(given, checkpoint.layout))
    refused = tuple(finding for finding in found if finding.severity == "refused")
    if refused:
        raise ModelRejectedError(refused)
    changes = mended(given, checkpoint.layout, {finding.code for finding in found})
    for target in (model_config.hf_config, model_config.hf_text_config, model_config.model_arch_config):
        for key, value in changes.items():
            if hasattr(target, key) or target is model_config.hf_config:
                setattr(target, key, value)
    in_files = (finding for finding in checkpoint.findings if finding.code not in FROM_CONFIG)
    tell(finding for finding in (*in_files, *found) if finding.severity == "repaired")


def tell(findings: Iterable[Finding]) -> None:
    """Loud, and once in each process: the drafter's configuration is the model's."""
    for finding in findings:
        if finding.sentence not in TOLD:
            TOLD.add(finding.sentence)
            _log().warning("checkpoint repaired (%s): %s", finding.code, finding.sentence)


FROM_CONFIG = ("TopkMethod", "QuantisationTargets", "ActivationOrder")
"""What is found in config.json alone, and so again in what the user laid over it."""

TOLD: set[str] = set()


def as_given(config: ModelConfig, hf_config: Any) -> ModelConfig:
    """With what the user laid over config.json by --hf-overrides."""
    quantisation = getattr(hf_config, "quantization_config", None)
    topk_method = getattr(hf_config, "topk_method", None)
    raw = {**config.raw, "topk_method": topk_method}
    return replace(config, raw={**raw, "quantization_config": quantisation} if isinstance(quantisation, dict) else raw)


def mended(config: ModelConfig, layout: Layout, codes: set[str]) -> dict[str, Any]:
    """The values that the findings of `codes` call for."""
    changes: dict[str, Any] = {}
    if "TopkMethod" in codes:
        changes["topk_method"] = TOPK_METHOD
    if "ActivationOrder" in codes:
        changes["quantization_config"] = without_order(config.quantisation)
    if "QuantisationTargets" in codes:
        changes["quantization_config"] = agreeing(config, layout)
    return changes


def _log() -> Any:
    from vllm.logger import init_logger  # noqa: PLC0415 - vLLM's, see the package

    return init_logger("vllm.flash_engine.plugin")
