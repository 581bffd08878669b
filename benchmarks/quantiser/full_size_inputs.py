"""Writes the inputs of `mtp-quantise restore` in their real size: official shards, a stripped base and a capture.

Values are random, as in synthetic.py. With fewer experts the shapes of
their matrices stay as they are, and the vocabulary shrinks with them.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save_file
from torch import Tensor

import synthetic
from flash_contracts.mtp_capture import (
    FORMAT,
    FORMAT_KEY,
    IDS,
    INPUT,
    REQUEST,
    ROUTER,
    ROUTER_KEY,
    WEIGHTS,
    router_digest,
)
from mtp_quantiser.layout import EXPERT_MATRICES, PREFIX, MtpShape, TensorSpec

CONFIG: Final[Mapping[str, Any]] = {
    "architectures": ["DeepseekV4ForCausalLM"],
    "model_type": "deepseek_v4",
    "vocab_size": 129_280,
    "hidden_size": 4096,
    "moe_intermediate_size": 2048,
    "num_hidden_layers": 43,
    "num_attention_heads": 64,
    "head_dim": 512,
    "q_lora_rank": 1024,
    "o_lora_rank": 1024,
    "o_groups": 8,
    "n_routed_experts": 256,
    "num_experts_per_tok": 6,
    "routed_scaling_factor": 1.5,
    "scoring_func": "sqrtsoftplus",
    "swiglu_limit": 10.0,
    "hc_mult": 4,
}
QUANTIZATION: Final[Mapping[str, Any]] = {"quant_method": "compressed-tensors", "config_groups": {}}
DTYPES: Final = {"F8_E4M3": torch.float8_e4m3fn, "BF16": torch.bfloat16, "F32": torch.float32}
EXPERTS_IN_A_SHARD: Final = 64
ROWS_IN_A_FILE: Final = 131_072
ROWS_OF_A_REQUEST: Final = 400


@dataclass(frozen=True)
class Inputs:
    base: Path
    source: Path
    capture: Path

    def paths(self) -> list[Path]:
        return [path for folder in (self.base, self.source, self.capture) for path in sorted(folder.iterdir())]

    def bytes(self) -> int:
        return sum(path.stat().st_size for path in self.paths())


def write(folder: Path, experts: int, tokens: int, device: torch.device) -> Inputs:
    """The three folders in `folder`, which must not contain them yet."""
    smaller = {
        "n_routed_experts": experts,
        "num_experts_per_tok": min(CONFIG["num_experts_per_tok"], experts),
        "vocab_size": CONFIG["vocab_size"] * experts // CONFIG["n_routed_experts"],
    }
    config = {**CONFIG, **smaller}
    shape = MtpShape.of(config)
    random = torch.Generator(device).manual_seed(0)
    made = Inputs(folder / "base", folder / "official", folder / "capture")
    for one in (made.base, made.source, made.capture):
        one.mkdir(parents=True)
    router = write_official(made.source, config, shape, random)
    write_base(made.base, config, random)
    write_capture(made.capture, shape, tokens, router, random)
    return made


def write_official(folder: Path, config: Mapping[str, Any], shape: MtpShape, random: torch.Generator) -> str:
    """Returns the digest of the router."""
    index: dict[str, str] = {}
    rest = {name: drawn(name, spec, random) for name, spec in shape.official().items() if ".experts." not in name}
    keep(folder, "model-00000.safetensors", rest, index)
    for first in range(0, shape.experts, EXPERTS_IN_A_SHARD):
        some = range(first, min(first + EXPERTS_IN_A_SHARD, shape.experts))
        tensors: dict[str, Tensor] = {}
        for expert in some:
            for matrix in EXPERT_MATRICES:
                stem = f"{PREFIX}ffn.experts.{expert}.{matrix}"
                drawn_matrix = synthetic.fp4_matrices(1, *shape.expert_shape(matrix), random, random.device)
                tensors[f"{stem}.weight"] = drawn_matrix.packed[0].view(torch.int8).cpu()
                tensors[f"{stem}.scale"] = drawn_matrix.exponents[0].view(torch.float8_e8m0fnu).cpu()
        keep(folder, f"model-{1 + first // EXPERTS_IN_A_SHARD:05}.safetensors", tensors, index)
    keep_documents(folder, index, config)
    return router_digest(rest[ROUTER].view(torch.uint8).numpy().tobytes())


def write_base(folder: Path, config: Mapping[str, Any], random: torch.Generator) -> None:
    """Head and embedding alone: the other layers are only linked."""
    index: dict[str, str] = {}
    sizes = TensorSpec("BF16", (config["vocab_size"], config["hidden_size"]))
    tensors = {name: drawn(name, sizes, random) for name in ("head.weight", "embed.weight")}
    keep(folder, "model-00001.safetensors", tensors, index)
    stripped = {**config, "num_nextn_predict_layers": 0, "quantization_config": QUANTIZATION}
    keep_documents(folder, index, stripped)


def write_capture(folder: Path, shape: MtpShape, tokens: int, router: str, random: torch.Generator) -> None:
    """With a choice of experts in which some are chosen hundreds of times as often as others."""
    law = synthetic.Shape(experts=shape.experts, hidden=shape.hidden, tokens=tokens, per_token=shape.per_token)
    popularity = torch.randn(shape.experts, generator=random, device=random.device) * law.spread
    x = synthetic.activations(law, random, random.device, synthetic.VERDICT["gaussian"])
    for number, rows in enumerate(x.split(ROWS_IN_A_FILE)):
        noise = torch.rand(len(rows), shape.experts, generator=random, device=random.device)
        chosen = (popularity - noise.log().neg().log()).topk(shape.per_token, dim=1).indices
        weights = torch.rand(chosen.shape, generator=random, device=random.device) * 0.5 + 0.05
        first = number * ROWS_IN_A_FILE
        requests = torch.arange(first, first + len(rows)) // ROWS_OF_A_REQUEST
        tensors = {
            INPUT: rows.cpu(), REQUEST: requests.to(torch.int32), IDS: chosen.to(torch.int32).cpu(),
            WEIGHTS: weights.float().cpu(),
        }  # fmt: skip
        metadata = {FORMAT_KEY: FORMAT, ROUTER_KEY: router, "recorder": "one"}
        save_file(tensors, folder / f"capture-one-{number:05}.safetensors", metadata=metadata)


def drawn(name: str, spec: TensorSpec, random: torch.Generator) -> Tensor:
    if spec.dtype == "F8_E8M0":
        return torch.full(spec.shape, 120, dtype=torch.uint8).view(torch.float8_e8m0fnu)
    values = torch.randn(spec.shape, generator=random, device=random.device)
    return (1 + 0.1 * values if "norm" in name else 0.02 * values).to(DTYPES[spec.dtype]).cpu()


def keep(folder: Path, shard: str, tensors: dict[str, Tensor], index: dict[str, str]) -> None:
    save_file(tensors, folder / shard, metadata={"format": "pt"})
    index |= dict.fromkeys(tensors, shard)


def keep_documents(folder: Path, index: Mapping[str, str], config: Mapping[str, Any]) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    (folder / "config.json").write_text(json.dumps(config))
