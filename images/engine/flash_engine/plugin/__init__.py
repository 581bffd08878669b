"""The vLLM plugin: loads DeepSeek-V4 checkpoints completely or not at all, and repairs what it can.

vLLM loads it in each of its processes through the entry point group `vllm.general_plugins`. If a plugin cannot be
imported, vLLM only logs that; so `register` logs one line (engine_record.PLUGIN_LINE) that the gate looks for.

    versions         which vLLM versions it supports
    config_repair    topk_method and quantization_config, before vLLM decides what to build
    weight_stream    names, types and scales of the tensors, on their way from the files to vLLM's loader
    strict_loading   every tensor of the table, and every parameter of the model, or the start ends with their names
    scale_names      a scale's name, where a supported vLLM reads another
    models           vLLM's three classes, with that around `load_weights`

vLLM's own modules are imported when vLLM calls the plugin, not at the top.
"""

from flash_engine.plugin.registration import register

__all__ = ["register"]
