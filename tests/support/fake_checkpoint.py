"""Fake DeepSeek-V4-Flash checkpoints: names, types and shapes come from the tensor table, the contents are noise.

Small ones can be loaded by vLLM's loaders; one of real size has only headers, in sparse files. Weights are random and
finite, so that a parameter that was not loaded can be recognised.
"""

import copy
import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from bf16_safetensors import to_bf16
from flash_engine.checkpoint.headers import BITS
from flash_engine.checkpoint.layout import Layout, expected_of
from flash_engine.checkpoint.model_config import ModelConfig
from flash_engine.checkpoint.schemes import FP4, FP8_CT, FP8_SCALE, INT4, NVFP4_MODELOPT, NVFP4A16_CT, PLAIN, Scheme
from flash_engine.checkpoint.tensors import Role
from tiny_tokenizer import VOCABULARY, Vocabulary, write_tokenizer

TINY: dict[str, Any] = {
    "hidden_size": 256, "vocab_size": VOCABULARY, "num_hidden_layers": 3, "num_attention_heads": 8, "head_dim": 512,
    "q_lora_rank": 128, "o_groups": 2, "o_lora_rank": 128, "index_n_heads": 8, "index_head_dim": 128,
    "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 256, "num_hash_layers": 1,
    "compress_ratios": [0, 4, 128, 0], "max_position_embeddings": 4096,
    # vLLM computes a table of all positions for each kind of layer, which takes a second for a million.
    "rope_scaling": {"type": "yarn", "rope_type": "yarn", "factor": 16, "original_max_position_embeddings": 256,
                     "beta_fast": 32, "beta_slow": 1},
}  # fmt: skip
"""The smallest sizes that vLLM's kernels accept: whole blocks of 128 in each quantised matrix, even split in two."""

REAL: dict[str, Any] = {
    "hidden_size": 4096, "vocab_size": 129280, "num_hidden_layers": 43, "num_attention_heads": 64, "head_dim": 512,
    "q_lora_rank": 1024, "o_groups": 8, "o_lora_rank": 1024, "index_n_heads": 64, "index_head_dim": 128,
    "n_routed_experts": 256, "num_experts_per_tok": 6, "moe_intermediate_size": 2048, "num_hash_layers": 3,
    "compress_ratios": [0, 0, *([4, 128] * 20), 4, 0], "max_position_embeddings": 1048576,
}  # fmt: skip

COMMON: dict[str, Any] = {
    "architectures": ["DeepseekV4ForCausalLM"], "model_type": "deepseek_v4", "num_nextn_predict_layers": 1,
    "num_key_value_heads": 1, "qk_rope_head_dim": 64, "n_shared_experts": 1, "norm_topk_prob": True,
    "routed_scaling_factor": 1.5, "scoring_func": "sqrtsoftplus", "topk_method": "noaux_tc", "swiglu_limit": 10.0,
    "hidden_act": "silu", "compress_rope_theta": 160000.0, "rope_theta": 10000.0,
    "rope_scaling": {
        "type": "yarn", "rope_type": "yarn", "factor": 16, "original_max_position_embeddings": 65536, "beta_fast": 32,
        "beta_slow": 1,
    },
    "sliding_window": 128, "index_topk": 512, "hc_mult": 4, "hc_sinkhorn_iters": 20, "hc_eps": 1e-6,
    "rms_norm_eps": 1e-6, "tie_word_embeddings": False, "torch_dtype": "bfloat16", "bos_token_id": 0,
    "eos_token_id": 1, "attention_bias": False, "attention_dropout": 0.0, "initializer_range": 0.02,
}  # fmt: skip

_FP8_GROUP = {
    "targets": [
        r"re:.*attn\.(wq_a|wq_b|wkv|wo_a|wo_b|fused_wqa_wkv)$",
        r"re:.*attn\.compressor\.(wgate|wkv|fused_wkv_wgate)$",
        r"re:.*attn\.indexer\.(weights_proj|wq_b)$",
        r"re:.*attn\.indexer\.compressor\.(wgate|wkv)$",
    ],
    "format": "float-quantized",
    "weights": {
        "num_bits": 8, "type": "float", "symmetric": True, "strategy": "block", "block_structure": [128, 128],
        "dynamic": False,
    },
    "input_activations": {
        "num_bits": 8, "type": "float", "symmetric": True, "strategy": "group", "group_size": 128, "dynamic": True,
    },
    "output_activations": None,
}  # fmt: skip
_INT4_GROUP = {
    "targets": [r"re:.*experts\.\d+\.(w1|w2|w3|gate_proj|up_proj|down_proj|gate_up_proj)$"],
    "format": "pack-quantized",
    "weights": {
        "num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 128, "dynamic": False,
    },
    "input_activations": None,
    "output_activations": None,
}  # fmt: skip
COMPRESSED_TENSORS: dict[str, Any] = {
    "quant_method": "compressed-tensors",
    "format": "mixed-precision",
    "quantization_status": "compressed",
    "kv_cache_scheme": None,
    "ignore": ["lm_head", "head", "re:.*shared_experts.*", r"re:.*\.(e_proj|h_proj)$"],
    "config_groups": {"group_0": _FP8_GROUP, "group_1": _INT4_GROUP},
}
NVFP4A16: dict[str, Any] = {
    **COMPRESSED_TENSORS,
    "format": "nvfp4-pack-quantized",
    "config_groups": {
        "group_0": {
            "targets": [r"re:.*experts\.\d+\.(w1|w2|w3|gate_proj|up_proj|down_proj|gate_up_proj)$"],
            "format": "nvfp4-pack-quantized",
            "weights": {
                "num_bits": 4, "type": "float", "symmetric": True, "strategy": "tensor_group", "group_size": 16,
                "dynamic": False,
            },
            "input_activations": None,
            "output_activations": None,
        }
    },
}  # fmt: skip
OFFICIAL: dict[str, Any] = {
    "quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "scale_fmt": "ue8m0",
    "weight_block_size": [128, 128],
}  # fmt: skip

_W4A16: dict[Role, Scheme] = {"attention": FP8_CT, "indexer query": FP8_CT, "experts": INT4}
_OFFICIAL: dict[Role, Scheme] = {
    "attention": FP8_SCALE, "indexer query": FP8_SCALE, "experts": FP4, "shared experts": FP8_SCALE,
    "projection": FP8_SCALE,
}  # fmt: skip
_DSPARK = {
    "dspark_target_layer_ids": [0, 1, 2], "dspark_markov_rank": 256, "dspark_block_size": 5, "n_mtp_layers": 3,
}  # fmt: skip

PLAIN_DRAFT: dict[Role, Scheme] = dict.fromkeys(("attention", "experts", "shared experts", "projection"), PLAIN)


@dataclass(frozen=True)
class Kind:
    """A layout, and the entries of its config.json besides the sizes."""

    layout: Layout
    config: Mapping[str, Any]


def _kind(main: Mapping[Role, Scheme], draft: Mapping[Role, Scheme], **config: Any) -> Kind:
    is_dspark = "dspark_target_layer_ids" in config
    return Kind(Layout(main=main, draft=draft, has_drafter=bool(draft), is_dspark=is_dspark), config)


KINDS = {
    "seed": _kind(_W4A16, _W4A16, quantization_config=COMPRESSED_TENSORS),
    "seed, FP8 compressor": _kind(
        {**_W4A16, "compressor": FP8_CT, "indexer weights": FP8_CT}, _W4A16, quantization_config=COMPRESSED_TENSORS
    ),
    "BF16 experts in MTP": _kind(_W4A16, {**_W4A16, "experts": PLAIN}, quantization_config=COMPRESSED_TENSORS),
    "BF16 MTP": _kind(_W4A16, PLAIN_DRAFT, quantization_config=COMPRESSED_TENSORS),
    "stripped": _kind(_W4A16, {}, quantization_config=COMPRESSED_TENSORS),
    "official": _kind(_OFFICIAL, _OFFICIAL, quantization_config=OFFICIAL, expert_dtype="fp4"),
    "NVFP4": _kind(
        {**_OFFICIAL, "experts": NVFP4_MODELOPT},
        {**_OFFICIAL, "experts": NVFP4_MODELOPT},
        quantization_config={**OFFICIAL, "moe_quant_algo": "NVFP4"},
        expert_dtype="fp4",
    ),
    "NVFP4A16": _kind(
        {"experts": NVFP4A16_CT, "attention": PLAIN}, {}, quantization_config=NVFP4A16, num_nextn_predict_layers=0
    ),
    "DSpark": _kind(_OFFICIAL, _OFFICIAL, quantization_config=OFFICIAL, expert_dtype="fp4", **_DSPARK),
}


@dataclass
class Tensor:
    """A tensor to write. If `data` is None, noise is written."""

    type: str
    shape: tuple[int, ...]
    data: bytes | None = None

    @property
    def size_bytes(self) -> int:
        return math.prod(self.shape) * BITS[self.type] // 8


@dataclass
class FakeCheckpoint:
    """A checkpoint in memory, to be changed and saved."""

    config: dict[str, Any]
    tensors: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def make(cls, kind: str, sizes: Mapping[str, Any] = TINY, **config: Any) -> "FakeCheckpoint":
        made = copy.deepcopy({**COMMON, **sizes, **KINDS[kind].config, **config})
        parsed = ModelConfig.parse(made)
        table = expected_of(parsed, KINDS[kind].layout)
        tensors = {name: Tensor(one.types[0], one.shape) for name, one in table if not one.optional}
        return cls(made, tensors)

    def rename(self, old: str, new: str) -> None:
        """Replaces `old` in all names."""
        self.tensors = {name.replace(old, new): tensor for name, tensor in self.tensors.items()}

    def drop(self, *parts: str) -> None:
        """Removes every tensor whose name contains one of `parts`."""
        kept = {name: tensor for name, tensor in self.tensors.items() if not any(part in name for part in parts)}
        assert len(kept) < len(self.tensors), "nothing was dropped"
        self.tensors = kept

    def save(self, folder: Path, *, shards: int = 1, with_data: bool = True) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(self.config, indent=1))
        if shards == 1 and with_data:
            write_shard(folder / "model.safetensors", self.tensors, with_data=True)
            return folder
        names = list(self.tensors)
        each = math.ceil(len(names) / shards)
        weight_map = {}
        for number in range(shards):
            file = f"model-{number + 1:05}-of-{shards:05}.safetensors"
            part = {name: self.tensors[name] for name in names[number * each : (number + 1) * each]}
            write_shard(folder / file, part, with_data=with_data)
            weight_map.update(dict.fromkeys(part, file))
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
        return folder

    def save_to_serve(self, folder: Path) -> Path:
        """Also writes a tokenizer, which vLLM needs to serve it."""
        self.save(folder)
        write_tokenizer(Vocabulary.make(), folder)
        return folder


def write_shard(path: Path, tensors: Mapping[str, Tensor], *, with_data: bool) -> None:
    """Without data, the file has its full size but is sparse."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in tensors.items():
        size = tensor.size_bytes
        header[name] = {"dtype": tensor.type, "shape": list(tensor.shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        if not with_data:
            file.truncate(8 + len(text) + end)
            return
        for number, (name, tensor) in enumerate(tensors.items()):
            file.write(tensor.data if tensor.data is not None else noise_at(number, name, tensor))


def noise_at(number: int, name: str, tensor: Tensor) -> bytes:
    """Noise that depends on the tensor's position in the file, not its name, so that renaming does not change it."""
    kinds = ("scale", "norm", ".weight_shape", ".tid2eid")
    kind = next((kind for kind in kinds if kind in name), "")
    return _kept_noise(number, kind, tensor.type, math.prod(tensor.shape))


@lru_cache(maxsize=2048)
def _kept_noise(number: int, kind: str, type_: str, count: int) -> bytes:
    """Cached, because the tests save hundreds of small checkpoints that hardly differ."""
    return noise(kind, Tensor(type_, (count,)), np.random.default_rng(number))


def noise(name: str, tensor: Tensor, random: np.random.Generator) -> bytes:
    """Finite random values, small enough to keep sums small."""
    count = math.prod(tensor.shape)
    if tensor.type in ("BF16", "F32"):
        values = (random.standard_normal(count) * 0.05).astype(np.float32)
        values = np.abs(values) + np.float32(0.001) if "scale" in name or "norm" in name else values
        return to_bf16(values).tobytes() if tensor.type == "BF16" else values.tobytes()
    if tensor.type == "F8_E4M3":  # 0x7f and 0xff are NaN
        return ((random.integers(0, 0x70, count) | (random.integers(0, 2, count) << 7)).astype(np.uint8)).tobytes()
    if tensor.type == "F8_E8M0":  # 2^(byte - 127)
        return random.integers(118, 124, count).astype(np.uint8).tobytes()
    if name.endswith(".weight_shape"):
        return np.ones(count, np.int64).tobytes()
    if name.endswith(".tid2eid"):
        return random.integers(0, 4, count).astype(np.int32 if tensor.type == "I32" else np.int64).tobytes()
    return random.bytes(count * BITS[tensor.type] // 8)
