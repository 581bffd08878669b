"""vLLM's own plan of the KV cache: how many tokens fit, and how many requests of the whole context."""

import copy
import tempfile
from typing import Any

import torch

from vllm_walk import fake_cuda

fake_cuda.install()

from vllm.config import replace, set_current_vllm_config  # noqa: E402 - after the platform
from vllm.distributed import init_distributed_environment, initialize_model_parallel  # noqa: E402
from vllm.engine.arg_utils import EngineArgs  # noqa: E402
from vllm.model_executor.layers.attention_layer_base import AttentionLayerBase  # noqa: E402
from vllm.model_executor.model_loader.utils import initialize_model  # noqa: E402
from vllm.v1.attention.backends.utils import (  # noqa: E402
    get_supported_kv_cache_layouts,
    resolve_kv_cache_layout,
)
from vllm.v1.core.kv_cache_planning import get_global_kv_cache_groups, get_kv_cache_configs  # noqa: E402
from vllm.v1.core.kv_cache_utils import get_kv_cache_capacity  # noqa: E402
from vllm.v1.worker.worker_base import get_current_attn_backends  # noqa: E402


def specs_of(config: Any) -> dict[str, Any]:
    """Of every cache of the model and its drafter, as the workers tell the engine."""
    initialize_model(vllm_config=config)
    if config.speculative_config is not None:
        drafting = replace(config, attention_config=replace(config.attention_config, backend=None))
        with set_current_vllm_config(drafting):
            initialize_model(vllm_config=drafting, model_config=config.speculative_config.draft_model_config)
    layers = config.compilation_config.static_forward_context.items()
    found = {name: layer.get_kv_cache_spec(config) for name, layer in layers if isinstance(layer, AttentionLayerBase)}
    supported = [layout.name for layout in get_supported_kv_cache_layouts(get_current_attn_backends(config))]
    specs = {name: spec for name, spec in found.items() if spec is not None}
    resolve_kv_cache_layout(config, [supported], specs.values())
    return specs


def plan(config: Any, specs: dict[str, Any], one: list[int]) -> dict[str, Any]:
    context, sequences, batched, available = one
    config.model_config.max_model_len = context
    config.scheduler_config.max_num_seqs = sequences
    config.scheduler_config.max_num_batched_tokens = batched
    workers = [copy.deepcopy(specs)]
    try:
        groups = get_global_kv_cache_groups(config, workers)
        (planned,) = get_kv_cache_configs(config, workers, [available], groups)
    except ValueError as error:
        return {"error": str(error)}
    tokens, requests = get_kv_cache_capacity(config, planned)
    return {"tokens": tokens, "requests": requests}


def plan_all(asked: dict[str, Any]) -> list[dict[str, Any]]:
    """Of `checkpoint` with `speculation`, for each [context, sequences, batched tokens, bytes] in `budgets`."""
    config = EngineArgs(
        model=asked["checkpoint"], tokenizer=asked["checkpoint"], skip_tokenizer_init=True, dtype="bfloat16",
        max_model_len=1024, enforce_eager=True, tokenizer_mode="deepseek_v4", kv_cache_dtype="fp8", block_size=256,
        speculative_config=asked["speculation"],
    ).create_engine_config()  # fmt: skip
    with set_current_vllm_config(config), tempfile.NamedTemporaryFile() as rendezvous:
        init_distributed_environment(1, 0, f"file://{rendezvous.name}.store", 0, backend="gloo")
        initialize_model_parallel(1, 1)
        torch.set_default_dtype(torch.bfloat16)
        fake_cuda.answer_for_missing_kernels()
        specs = specs_of(config)
        return [plan(config, specs, one) for one in asked["budgets"]]
