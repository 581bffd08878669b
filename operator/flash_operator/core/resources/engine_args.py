"""Translates the CR's engine fields into vLLM arguments.

These arguments are the same on every node. Flags that depend on a node's links are derived by `flash_contracts.flags`
after the pod is bound.
"""

import json

from flash_contracts.profiles import PROFILES
from flash_operator.api.v1alpha1 import EngineSpec, FlashSpec, SpeculationSpec
from flash_operator.core.resources.api_keys import api_key_arguments
from flash_operator.core.resources.model_source import ModelSource

TENSOR_PARALLEL_SIZE = 2
"""Fixed: 149 GiB of weights need two cards, and a third brings no gain."""

PORT = 8000

DEEPSEEK_V4_ARGUMENTS = (
    # The only KV-cache layout that V4's sparse attention has on sm_120.
    "--kv-cache-dtype=fp8",
    # Mandatory for V4-Flash: its compressors assume blocks of 256 tokens.
    "--block-size=256",
    "--tokenizer-mode=deepseek_v4",
    "--tool-call-parser=deepseek_v4",
    "--enable-auto-tool-choice",
    "--reasoning-parser=deepseek_v4",
)


METHODS = {"Mtp": "mtp", "Dspark": "dspark"}


def max_sequences(engine: EngineSpec) -> int:
    """Requests decoded concurrently. The schema requires the field for Custom engines."""
    profile = PROFILES.get(engine.profile)
    return engine.max_sequences or (profile.max_sequences if profile else 1)


def context_tokens(engine: EngineSpec) -> int | None:
    profile = PROFILES.get(engine.profile)
    return engine.context_tokens or (profile.context_tokens if profile else None)


def vllm_arguments(spec: FlashSpec) -> list[str]:
    """The arguments after `vllm`. `extraArgs` come last, so argparse lets them win."""
    return [
        "serve",
        ModelSource(spec.model).argument,
        f"--port={PORT}",
        *_served_names(spec.model.served_names),
        f"--tensor-parallel-size={TENSOR_PARALLEL_SIZE}",
        *_capacity(spec.engine),
        *_capture_sizes(spec),
        *(() if spec.engine.profile == "Custom" else DEEPSEEK_V4_ARGUMENTS),
        *_speculation(spec.speculation),
        *api_key_arguments(spec.engine),
        *spec.engine.extra_args,
    ]


def _served_names(names: list[str]) -> list[str]:
    return ["--served-model-name", *names]


def _capacity(engine: EngineSpec) -> list[str]:
    """Explicit fields win over the profile; a Custom engine gets explicit fields only."""
    profile = PROFILES.get(engine.profile)
    batched = engine.batched_tokens or (profile.batched_tokens if profile else None)
    memory = engine.memory_percent or (profile.memory_percent if profile else None)
    wanted = {
        "--max-model-len": context_tokens(engine),
        "--max-num-seqs": engine.max_sequences or (profile.max_sequences if profile else None),
        "--max-num-batched-tokens": batched,
        "--gpu-memory-utilization": None if memory is None else f"{memory / 100:.2f}",
    }
    return [f"{name}={value}" for name, value in wanted.items() if value is not None]


def _capture_sizes(spec: FlashSpec) -> list[str]:
    """One CUDA graph for each number of streams.

    Every stream decodes one token and its drafts per step. Other sizes would be replayed padded, which hung with MTP at
    four streams (jasl/vllm, 2026-05), and each graph costs time and memory at the start.
    """
    profile = PROFILES.get(spec.engine.profile)
    if profile is None:
        return []
    streams = spec.engine.max_sequences or profile.max_sequences
    step = 1 if spec.speculation.method == "Disabled" else 1 + spec.speculation.drafted_tokens
    return ["--cudagraph-capture-sizes", *(str(step * number) for number in range(1, min(streams, MOST_GRAPHS) + 1))]


MOST_GRAPHS = 32


def _speculation(speculation: SpeculationSpec) -> list[str]:
    if speculation.method == "Disabled":
        return []
    config = {"method": METHODS[speculation.method], "num_speculative_tokens": speculation.drafted_tokens}
    return [f"--speculative-config={json.dumps(config, separators=(',', ':'))}"]
