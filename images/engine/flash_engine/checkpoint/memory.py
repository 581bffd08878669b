"""Computes the memory that a checkpoint takes on each of two GPUs, and the KV cache that each profile leaves.

Weights are exact, because the table of tensors says which matrices are split between the GPUs. The KV cache follows
vLLM's own plan for DeepSeek-V4 (0.33.0, v1/core/kv_cache_planning.py and kv_cache_interface.py); a test compares it
with vLLM. Memory for activations, CUDA graphs and NCCL is assumed (OTHER_BYTES).
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from flash_contracts.profiles import Profile
from flash_engine.checkpoint.headers import BITS
from flash_engine.checkpoint.layout import ExpectedTensor, Layout
from flash_engine.checkpoint.model_config import ModelConfig
from flash_engine.checkpoint.tensors import Entry, WeightMatrix, drafter, main_model

GIB = 1 << 30
TENSOR_PARALLEL = 2

GPU_BYTES = 97_887 << 20
"""RTX PRO 6000 Blackwell, as NVML reports it."""

OTHER_BYTES = 8 * GIB
"""Activations, CUDA graphs, NCCL. Assumed, not measured on 0.33.0: with the official checkpoint without MTP, vLLM of
May 2026 used 7.6 GiB that are neither weights nor KV cache (148.66 GiB of weights on two cards, 98.5 %, 12.2 GiB of KV
cache)."""

ALIGNMENT = 576
ENTRY_BYTES = 584
"""448 e4m3 + 128 for rope in BF16 + 8 scales: `fp8_ds_mla`, whatever head_dim is (attention.py, get_kv_cache_spec)."""

INDEX_ENTRY_EXTRA = 4
"""Bytes of the scale of an indexer entry, besides its e4m3 values."""

BLOCK_TOKENS = 256
WINDOW_BLOCK_TOKENS = 64
SHORT, LONG = 4, 128
"""The two compression ratios. A compressor's state spans two of its blocks at the short ratio, one at the long one."""

SHORT_STATE_BLOCK, LONG_STATE_BLOCK = 4, 8
IN_FLIGHT = 2
"""Steps that async scheduling runs at once."""


@dataclass(frozen=True)
class WeightBytes:
    """Bytes of weights on each GPU."""

    model: int
    drafter: int

    @property
    def total(self) -> int:
        return self.model + self.drafter


@dataclass(frozen=True)
class KvCacheBudget:
    """The KV cache that a profile leaves on each GPU."""

    profile: Profile
    kv_bytes: int
    tokens: int
    """As in vLLM's log: the requests with the whole context that fit, times the context."""
    requests: float
    """How many requests with the whole context fit at once."""

    @property
    def fits(self) -> bool:
        return self.requests >= 1


def weight_bytes(config: ModelConfig, layout: Layout) -> WeightBytes:
    """Bytes after loading: layers that vLLM builds plain are BF16; the drafter shares embedding and output matrix."""
    has_drafter = layout.has_drafter
    return WeightBytes(
        model=_bytes(main_model(config), layout), drafter=_bytes(drafter(config), layout) if has_drafter else 0
    )


def _bytes(entries: Iterable[Entry], layout: Layout) -> int:
    total = 0
    sizes: dict[tuple[int, int, str], int] = {}
    for entry in entries:
        if not isinstance(entry, WeightMatrix):
            total += 0 if entry.optional else math.prod(entry.shape) * BITS[entry.types[0]] // 8
            continue
        scheme = layout.scheme(entry.name, entry.role)
        key = (entry.rows, entry.columns, scheme.name)
        if key not in sizes:
            sizes[key] = sum(_size(one) for _, one in layout.expected((entry,)))
        stored = sizes[key]
        if entry.role in ("compressor", "indexer weights"):
            stored = entry.rows * entry.columns * 2
        total += stored // TENSOR_PARALLEL if entry.is_split else stored
    return total


def _size(tensor: ExpectedTensor) -> int:
    return math.prod(tensor.shape) * BITS[tensor.types[0]] // 8


def kv_cache_budget(
    config: ModelConfig, layout: Layout, weights: WeightBytes, profile: Profile, *, gpu_bytes: int = GPU_BYTES
) -> KvCacheBudget:
    """The budget of a GPU with `gpu_bytes`, after `weights`. Zero if not even the weights fit."""
    free = gpu_bytes * profile.memory_percent // 100 - weights.total - OTHER_BYTES
    kv_bytes = max(0, free)
    drafters = config.mtp_layers or config.dspark_layers if layout.has_drafter else 0
    requests = kv_bytes // block_bytes(config, drafters) / blocks_of_request(config, profile, drafters)
    return KvCacheBudget(profile, kv_bytes, int(requests * profile.context_tokens), requests)


def blocks_of_request(config: ModelConfig, profile: Profile, drafters: int) -> int:
    """Blocks that a request with the whole context takes from the pool shared by all cache groups."""
    written = IN_FLIGHT * profile.batched_tokens
    full = -(-profile.context_tokens // BLOCK_TOKENS)

    def window(tokens: int, block: int) -> int:
        return -(-min(tokens - 1 + written, profile.context_tokens) // block) + 1

    sliding = len(_window_groups(config, drafters)) * window(128, WINDOW_BLOCK_TOKENS)
    short = window(2 * SHORT, SHORT_STATE_BLOCK) if SHORT in config.compress_ratios else 0
    long = window(LONG, LONG_STATE_BLOCK) if LONG in config.compress_ratios else 0
    return full + sliding + short + long


def block_bytes(config: ModelConfig, drafters: int) -> int:
    """The size of a block in the shared pool, which is that of the largest group."""
    return max(_group_bytes(config, drafters).values())


def _group_bytes(config: ModelConfig, drafters: int) -> Mapping[str, int]:
    layers = Counter(config.ratio(layer) for layer in range(config.layers))
    index = config.index_head_dim + INDEX_ENTRY_EXTRA
    cached = {
        SHORT: _page(BLOCK_TOKENS // SHORT * ENTRY_BYTES) + _page(BLOCK_TOKENS // SHORT * index),
        LONG: _page(BLOCK_TOKENS // LONG * ENTRY_BYTES),
    }
    wide = max(_window_groups(config, drafters), default=0)
    # Keys and scores of the state in 32 bits, twice because the blocks of the short ratio overlap.
    short_state = _page(SHORT_STATE_BLOCK * 4 * config.head_dim * 4) + _page(
        SHORT_STATE_BLOCK * 4 * config.index_head_dim * 4
    )
    return {
        "full": sum(layers[ratio] * size for ratio, size in cached.items()),
        "window": wide * _page(WINDOW_BLOCK_TOKENS * ENTRY_BYTES),
        "short state": layers[SHORT] * short_state,
        "long state": layers[LONG] * _page(LONG_STATE_BLOCK * 2 * config.head_dim * 4),
    }


def _window_groups(config: ModelConfig, drafters: int) -> list[int]:
    """Layers in each group of sliding windows. Every layer has a window, and vLLM splits them into two groups."""
    count = config.layers + drafters
    return [count - count // 2, count // 2]


def _page(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
