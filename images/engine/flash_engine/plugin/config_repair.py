"""Repairs the model's configuration before vLLM builds the model from it.

vLLM has a hook per architecture, in MODELS_CONFIG_MAP. It is called for the model's configuration, and for the
drafter's, which vLLM reads again from the same file.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from flash_contracts.checkpoint_record import CheckpointFinding
from flash_engine.checkpoint.config_findings import config_findings
from flash_engine.checkpoint.inspection import Inspection
from flash_engine.checkpoint.layout import Layout
from flash_engine.checkpoint.model_config import ModelConfig
from flash_engine.checkpoint.model_findings import Speculation
from flash_engine.checkpoint.quantisation import matching_quantization_config, without_activation_order
from flash_engine.plugin.checkpoint_of import ModelRejectedError, checkpoint_of

TOPK_METHOD = "noaux_tc"

SPECULATION: dict[str, Speculation] = {
    "DeepseekV4ForCausalLM": "off",
    "DeepSeekV4MTPModel": "auto",
}
"""The speculation that the inspection checks. vLLM first treats every drafter as an MTP head, even DSpark's."""


def install_hooks() -> None:
    """Wrap vLLM's own hooks, once."""
    from vllm.model_executor.models import config as vllm_hooks  # noqa: PLC0415 - vLLM's, see the package

    for architecture, speculation in SPECULATION.items():
        before = vllm_hooks.MODELS_CONFIG_MAP.get(architecture, vllm_hooks.VerifyAndUpdateConfig)
        if not hasattr(before, "flash_speculation"):
            vllm_hooks.MODELS_CONFIG_MAP[architecture] = _hook(before, speculation)


def _hook(before: Any, speculation: Speculation) -> Any:
    class RepairedConfig(before):  # type: ignore[misc] # a class of vLLM, which mypy does not see
        """vLLM's hook, called with a configuration that matches the files."""

        flash_speculation = speculation

        @staticmethod
        def verify_and_update_model_config(model_config: Any) -> None:
            repair(model_config, checkpoint_of(model_config, speculation))
            before.verify_and_update_model_config(model_config)

    return RepairedConfig


def repair(model_config: Any, checkpoint: Inspection) -> None:
    """Repair vLLM's `model_config` in place and log it. Raises ModelRejectedError for what it cannot repair."""
    if checkpoint.config is None or checkpoint.layout is None:
        return
    given = as_given(checkpoint.config, model_config.hf_config)
    found = tuple(config_findings(given, checkpoint.layout))
    refused = tuple(finding for finding in found if finding.severity == "refused")
    if refused:
        raise ModelRejectedError(refused)
    changes = repaired_values(given, checkpoint.layout, {finding.code for finding in found})
    for target in (model_config.hf_config, model_config.hf_text_config, model_config.model_arch_config):
        for key, value in changes.items():
            if hasattr(target, key) or target is model_config.hf_config:
                setattr(target, key, value)
    in_files = (finding for finding in checkpoint.findings if finding.code not in FROM_CONFIG)
    log_repairs(finding for finding in (*in_files, *found) if finding.severity == "repaired")


def log_repairs(findings: Iterable[CheckpointFinding]) -> None:
    """Log a warning for each repair, once per process, because the drafter has the same configuration."""
    for finding in findings:
        if finding.sentence not in LOGGED:
            LOGGED.add(finding.sentence)
            _log().warning("checkpoint repaired (%s): %s", finding.code, finding.sentence)


FROM_CONFIG = ("TopkMethod", "QuantisationTargets", "ActivationOrder")
"""Findings about config.json alone, which are checked again for the user's overrides."""

LOGGED: set[str] = set()


def as_given(config: ModelConfig, hf_config: Any) -> ModelConfig:
    """The configuration with the user's --hf-overrides."""
    quantisation = getattr(hf_config, "quantization_config", None)
    topk_method = getattr(hf_config, "topk_method", None)
    raw = {**config.raw, "topk_method": topk_method}
    if hasattr(hf_config, "expert_dtype"):
        raw["expert_dtype"] = hf_config.expert_dtype
    return replace(config, raw={**raw, "quantization_config": quantisation} if isinstance(quantisation, dict) else raw)


def repaired_values(config: ModelConfig, layout: Layout, codes: set[str]) -> dict[str, Any]:
    """The values that repair the findings with these codes."""
    changes: dict[str, Any] = {}
    if "TopkMethod" in codes:
        changes["topk_method"] = TOPK_METHOD
    if "ActivationOrder" in codes:
        changes["quantization_config"] = without_activation_order(config.quantisation)
    if "QuantisationTargets" in codes:
        changes["quantization_config"] = matching_quantization_config(config, layout)
    return changes


def _log() -> Any:
    from vllm.logger import init_logger  # noqa: PLC0415 - vLLM's, see the package

    return init_logger("vllm.flash_engine.plugin")
