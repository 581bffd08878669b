"""Small checkpoints in the real layouts: DeepSeek's official one, and the stripped W4A16-FP8 one to be restored."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save_file

from flash_contracts.mtp_capture import FORMAT, INPUT
from mtp_quantiser.layout import PREFIX, MtpShape, TensorSpec

CONFIG: Final[Mapping[str, Any]] = {
    "architectures": ["DeepseekV4ForCausalLM"],
    "model_type": "deepseek_v4",
    "vocab_size": 64,
    "hidden_size": 256,
    "moe_intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_nextn_predict_layers": 1,
    "num_attention_heads": 2,
    "head_dim": 128,
    "q_lora_rank": 128,
    "o_lora_rank": 64,
    "o_groups": 2,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "routed_scaling_factor": 1.5,
    "scoring_func": "sqrtsoftplus",
    "swiglu_limit": 10.0,
    "hc_mult": 4,
}
SHAPE: Final = MtpShape.of(CONFIG)

BASE_QUANTIZATION: Final[Mapping[str, Any]] = {
    "quant_method": "compressed-tensors",
    "format": "mixed-precision",
    "quantization_status": "compressed",
    "kv_cache_scheme": None,
    "ignore": ["lm_head", "head"],
    "config_groups": {
        "group_0": {
            "targets": [r"re:.*attn\.(wq_a|wq_b|wkv|wo_a|wo_b|fused_wqa_wkv)$"],
            "format": "float-quantized",
            "weights": {
                "num_bits": 8, "type": "float", "symmetric": True, "strategy": "block", "block_structure": [128, 128],
                "dynamic": False,
            },
            "input_activations": {
                "num_bits": 8, "type": "float", "symmetric": True, "strategy": "group", "group_size": 128,
                "dynamic": True,
            },
            "output_activations": None,
        },
        "group_1": {
            "targets": [r"re:.*ffn\.experts\.\d+\.(w1|w2|w3)$"],
            "format": "pack-quantized",
            "weights": {
                "num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 128,
                "dynamic": False, "actorder": "static",
            },
            "input_activations": None,
            "output_activations": None,
        },
    },
}  # fmt: skip

Change = Callable[[dict[str, torch.Tensor]], None]


def drawn(name: str, expected: TensorSpec, random: torch.Generator) -> torch.Tensor:
    shape = expected.shape
    if expected.dtype == "I8":
        return torch.randint(-128, 128, shape, dtype=torch.int8, generator=random)
    if expected.dtype == "F8_E8M0":
        return torch.randint(118, 122, shape, dtype=torch.uint8, generator=random).view(torch.float8_e8m0fnu)
    values = torch.randn(shape, generator=random)
    if "norm" in name:
        values = 1 + 0.1 * values
    if "gate.weight" in name:
        values *= 0.02
    kinds = {"F8_E4M3": torch.float8_e4m3fn, "BF16": torch.bfloat16, "F32": torch.float32}
    return values.to(kinds[expected.dtype])


def official_tensors(shape: MtpShape = SHAPE) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    return {name: drawn(name, expected, random) for name, expected in shape.official().items()}


def write_official(folder: Path, change: Change = lambda _: None, config: Mapping[str, Any] = CONFIG) -> Path:
    """Two shards and an index, as a download is; `change` may corrupt the tensors."""
    folder.mkdir(parents=True)
    tensors = official_tensors(MtpShape.of({**CONFIG, **config}))
    change(tensors)
    names = sorted(tensors)
    parts = {"model-00001.safetensors": names[::2], "model-00002.safetensors": names[1::2]}
    for shard, some in parts.items():
        save_file({name: tensors[name] for name in some}, folder / shard, metadata={"format": "pt"})
    index = {name: shard for shard, some in parts.items() for name in some}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def write_base(folder: Path, quantization: Mapping[str, Any] = BASE_QUANTIZATION) -> Path:
    """A stripped checkpoint: no mtp.*, and a file that has nothing to do with weights."""
    folder.mkdir(parents=True)
    random = torch.Generator().manual_seed(7)
    tensors = {
        name: torch.randn(64, 256, generator=random).bfloat16()
        for name in ("head.weight", "embed.weight", "layers.0.x")
    }
    save_file(tensors, folder / "model-00001-of-00001.safetensors", metadata={"format": "pt"})
    index = dict.fromkeys(tensors, "model-00001-of-00001.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    config = {**CONFIG, "num_nextn_predict_layers": 0, "quantization_config": quantization}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text("{}")
    return folder


def inputs(tokens: int, seed: int = 1) -> torch.Tensor:
    """BF16 [tokens, hidden]: correlated, with two strong channels."""
    random = torch.Generator().manual_seed(seed)
    mixing = torch.randn(256, 256, generator=random) * torch.arange(1, 257)[:, None] ** -0.6
    x = torch.randn(tokens, 256, generator=random) @ mixing + 0.1 * torch.randn(tokens, 256, generator=random)
    x[:, [3, 77]] *= 10
    return x.bfloat16()


def write_capture(folder: Path, *parts: torch.Tensor) -> Path:
    folder.mkdir(parents=True)
    for number, part in enumerate(parts or (inputs(500, 1), inputs(300, 2))):
        save_file({INPUT: part}, folder / f"capture-{number}.safetensors", metadata={"format": FORMAT})
    return folder


def expert(number: int, matrix: str) -> str:
    return f"{PREFIX}ffn.experts.{number}.{matrix}"
