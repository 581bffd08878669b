"""The vLLM plugin: DeepSeek-V4 checkpoints are loaded whole or not at all, and what can be mended is mended.

vLLM loads it in each of its processes by the entry point group `vllm.general_plugins`. It goes on without a plugin that
cannot be imported, and only logs that; so `register` says one line (records.PLUGIN_LINE) that the gate looks for.

    versions         which vLLM versions it supports
    config_repair    topk_method and quantization_config, before vLLM decides what to build
    weight_stream    names, types and scales of the tensors, on their way from the files to vLLM's loader
    strict_loading   every tensor of the table, and every parameter of the model, or the start ends with their names
    scale_names      a scale's name, where a supported vLLM reads another
    models           vLLM's three classes, with that around `load_weights`

Nothing is imported at the top that is not in every engine image: vLLM's own modules are imported when it calls.
"""

from flash_engine.plugin.registration import register

__all__ = ["register"]
