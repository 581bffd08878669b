"""The vLLM plugin: loads DeepSeek-V4 checkpoints completely or not at all, and repairs what it can.

vLLM loads it in each of its processes through the entry point group `vllm.general_plugins`. If a plugin cannot be
imported, vLLM only logs that. So `register` logs a line (engine_record.PLUGIN_LINE) that the gate looks for.

    versions         which vLLM versions it supports
    config_repair    repairs topk_method and quantization_config before vLLM decides what to build
    weight_stream    repairs names, types and scales of the tensors on their way from the files to vLLM's loader
    strict_loading   requires every tensor of the table and every parameter of the model, or ends the start with names
    scale_names      renames a scale if a supported vLLM reads it by another name
    models           wraps `load_weights` of vLLM's three classes in all of this

vLLM's own modules are imported when vLLM calls the plugin, not at the top.
"""

from flash_engine.plugin.registration import register

__all__ = ["register"]
