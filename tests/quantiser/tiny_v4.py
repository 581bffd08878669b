"""A whole DeepSeek-V4 of three layers in the layout of the W4A16-FP8 checkpoints, without its MTP layer.

Its values are random: it can be loaded, not run.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save_file
from torch import Tensor

import tiny_checkpoints

RATIOS: Final = (0, 4, 128)
"""compress_ratios of the three layers; the first is hash-routed."""

INDEX_HEADS: Final = 8
INDEX_DIM: Final = 128

CONFIG: Final[Mapping[str, Any]] = {
    **tiny_checkpoints.CONFIG,
    "vocab_size": 512,
    "moe_intermediate_size": 256,
    "num_hidden_layers": len(RATIOS),
    "num_attention_heads": 8,
    "num_key_value_heads": 1,
    "head_dim": 512,
    "qk_rope_head_dim": 64,
    "q_lora_rank": 128,
    "o_lora_rank": 128,
    "o_groups": 2,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "norm_topk_prob": True,
    "topk_method": "noaux_tc",
    "hidden_act": "silu",
    "num_hash_layers": 1,
    "compress_ratios": [*RATIOS, 0],
    "compress_rope_theta": 160000.0,
    "rope_theta": 10000.0,
    "rope_scaling": {
        "type": "yarn", "rope_type": "yarn", "factor": 16, "original_max_position_embeddings": 65536,
        "beta_fast": 32, "beta_slow": 1,
    },
    "sliding_window": 128,
    "index_n_heads": INDEX_HEADS,
    "index_head_dim": INDEX_DIM,
    "index_topk": 512,
    "hc_sinkhorn_iters": 20,
    "hc_eps": 1e-6,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 1048576,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "bos_token_id": 0,
    "eos_token_id": 1,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "initializer_range": 0.02,
}  # fmt: skip

HIDDEN: Final = int(CONFIG["hidden_size"])
STREAMS: Final = int(CONFIG["hc_mult"])


class Base:
    """Collects the tensors of the main model."""

    def __init__(self) -> None:
        self.random = torch.Generator().manual_seed(3)
        self.tensors: dict[str, Tensor] = {}

    def bf16(self, name: str, *shape: int) -> None:
        self.tensors[name] = torch.randn(shape, generator=self.random).mul(0.05).bfloat16()

    def fp32(self, name: str, *shape: int) -> None:
        self.tensors[name] = torch.randn(shape, generator=self.random).mul(0.05)

    def fp8(self, name: str, out: int, into: int) -> None:
        self.tensors[f"{name}.weight"] = torch.randn(out, into, generator=self.random).to(torch.float8_e4m3fn)
        self.tensors[f"{name}.weight_scale"] = torch.ones(-(-out // 128), -(-into // 128))

    def int4(self, name: str, out: int, into: int) -> None:
        words = torch.randint(-(2**31), 2**31, (out, into // 8), generator=self.random)
        self.tensors[f"{name}.weight_packed"] = words.to(torch.int32)
        self.tensors[f"{name}.weight_scale"] = torch.full((out, into // 128), 0.01, dtype=torch.bfloat16)
        self.tensors[f"{name}.weight_shape"] = torch.tensor([out, into])

    def whole(self) -> dict[str, Tensor]:
        vocabulary = int(CONFIG["vocab_size"])
        self.bf16("embed.weight", vocabulary, HIDDEN)
        self.bf16("head.weight", vocabulary, HIDDEN)
        self.bf16("norm.weight", HIDDEN)
        self.streams("hc_head", STREAMS, 1)
        for number, ratio in enumerate(RATIOS):
            self.layer(f"layers.{number}.", ratio, hashed=number < CONFIG["num_hash_layers"])
        return self.tensors

    def streams(self, name: str, mixed: int, scales: int) -> None:
        self.fp32(f"{name}_fn", mixed, STREAMS * HIDDEN)
        self.fp32(f"{name}_base", mixed)
        self.fp32(f"{name}_scale", scales)

    def layer(self, prefix: str, ratio: int, *, hashed: bool) -> None:
        for part in ("attn", "ffn"):
            self.streams(f"{prefix}hc_{part}", (2 + STREAMS) * STREAMS, 3)
            self.bf16(f"{prefix}{part}_norm.weight", HIDDEN)
        self.attention(f"{prefix}attn.", ratio)
        self.experts(f"{prefix}ffn.", hashed=hashed)

    def attention(self, prefix: str, ratio: int) -> None:
        heads, dim, rank = (int(CONFIG[key]) for key in ("num_attention_heads", "head_dim", "q_lora_rank"))
        groups, out = int(CONFIG["o_groups"]), int(CONFIG["o_lora_rank"])
        self.fp8(f"{prefix}wq_a", rank, HIDDEN)
        self.fp8(f"{prefix}wq_b", heads * dim, rank)
        self.fp8(f"{prefix}wkv", dim, HIDDEN)
        self.fp8(f"{prefix}wo_a", groups * out, heads * dim // groups)
        self.fp8(f"{prefix}wo_b", HIDDEN, groups * out)
        self.bf16(f"{prefix}q_norm.weight", rank)
        self.bf16(f"{prefix}kv_norm.weight", dim)
        self.fp32(f"{prefix}attn_sink", heads)
        if ratio:
            self.compressor(f"{prefix}compressor.", ratio, dim)
        if ratio == min(filter(None, RATIOS)):
            self.fp8(f"{prefix}indexer.wq_b", INDEX_HEADS * INDEX_DIM, rank)
            self.bf16(f"{prefix}indexer.weights_proj.weight", INDEX_HEADS, HIDDEN)
            self.compressor(f"{prefix}indexer.compressor.", ratio, INDEX_DIM)

    def compressor(self, prefix: str, ratio: int, dim: int) -> None:
        wide = 2 * dim if ratio == min(filter(None, RATIOS)) else dim
        self.fp32(f"{prefix}ape", ratio, wide)
        self.bf16(f"{prefix}wkv.weight", wide, HIDDEN)
        self.bf16(f"{prefix}wgate.weight", wide, HIDDEN)
        self.bf16(f"{prefix}norm.weight", dim)

    def experts(self, prefix: str, *, hashed: bool) -> None:
        count, inner = int(CONFIG["n_routed_experts"]), int(CONFIG["moe_intermediate_size"])
        self.bf16(f"{prefix}gate.weight", count, HIDDEN)
        if hashed:
            shape = (int(CONFIG["vocab_size"]), int(CONFIG["num_experts_per_tok"]))
            chosen = torch.randint(0, count, shape, generator=self.random)
            self.tensors[f"{prefix}gate.tid2eid"] = chosen.to(torch.int32)
        else:
            self.fp32(f"{prefix}gate.bias", count)
        for matrix, (out, into) in {"w1": (inner, HIDDEN), "w3": (inner, HIDDEN), "w2": (HIDDEN, inner)}.items():
            self.bf16(f"{prefix}shared_experts.{matrix}.weight", out, into)
            for expert in range(count):
                self.int4(f"{prefix}experts.{expert}.{matrix}", out, into)


def write_base(folder: Path) -> Path:
    folder.mkdir(parents=True)
    tensors = Base().whole()
    save_file(tensors, folder / "model-00001-of-00001.safetensors", metadata={"format": "pt"})
    index = dict.fromkeys(tensors, "model-00001-of-00001.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    quantization = json.loads(json.dumps(tiny_checkpoints.BASE_QUANTIZATION))
    quantization["config_groups"]["group_0"]["targets"].append(r"re:.*attn\.indexer\.wq_b$")
    config = {**CONFIG, "num_nextn_predict_layers": 0, "quantization_config": quantization}
    (folder / "config.json").write_text(json.dumps(config))
    return folder
