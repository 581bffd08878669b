"""Registers the plugin with vLLM."""

import importlib.metadata
import sys

from flash_contracts.engine_record import PLUGIN_LINE
from flash_engine.plugin.versions import require_supported

MODELS = {
    "DeepseekV4ForCausalLM": "StrictDeepseekV4",
    "DeepSeekV4MTPModel": "StrictMtp",
    "DSparkDraftModel": "StrictDspark",
}
"""vLLM's architecture names, and the classes of `models` that replace them."""


def register() -> None:
    """Called by vLLM in each process, possibly more than once. An exception ends vLLM, which is intended."""
    version = importlib.metadata.version("vllm")
    require_supported(version)
    from vllm.model_executor.models.registry import ModelRegistry  # noqa: PLC0415 - vLLM's, see the package

    from flash_engine.plugin.config_repair import install_hooks  # noqa: PLC0415

    for architecture, name in MODELS.items():
        ModelRegistry.register_model(architecture, f"flash_engine.plugin.models:{name}")
    install_hooks()
    # Not through vLLM's logger: plugins load before it is set up, and a user may set it to warnings only.
    print(f"{PLUGIN_LINE}: vLLM {version}", file=sys.stderr, flush=True)  # noqa: T201 - a line of the engine's log
