"""Parses the sizes of a DeepSeek-V4 model from config.json."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flash_engine.checkpoint.finding import CheckpointError

ARCHITECTURES = ("DeepseekV4ForCausalLM",)

FROM_SOURCE = "copy config.json from the checkpoint that this one was made from"


@dataclass(frozen=True)
class ModelConfig:
    """All sizes count elements; `raw` is the parsed file."""

    raw: Mapping[str, Any]
    hidden: int
    layers: int
    vocabulary: int
    heads: int
    head_dim: int
    q_lora_rank: int
    o_groups: int
    o_lora_rank: int
    index_heads: int
    index_head_dim: int
    experts: int
    experts_per_token: int
    expert: int
    """Inner size of one routed expert."""
    shared_experts: int
    hash_layers: int
    hc_mult: int
    compress_ratios: tuple[int, ...]
    """One for each layer: 0 or 1 (sliding window only), 4 (with indexer) or 128."""
    mtp_layers: int
    dspark_layers: int
    """Stages of the DSpark drafter, which replaces the MTP head; 0 if there is none."""
    dspark_targets: int
    dspark_rank: int

    @classmethod
    def parse(cls, raw: Mapping[str, Any]) -> "ModelConfig":
        """Raises CheckpointError if the config is of another model or lacks a size."""
        architectures = raw.get("architectures")
        if not isinstance(architectures, list) or not set(architectures) & set(ARCHITECTURES):
            message = f"config.json describes {_names(architectures)}, not {ARCHITECTURES[0]}"
            remedy = "point model.source at a DeepSeek-V4-Flash checkpoint, or set engine.profile to Custom"
            raise CheckpointError("OtherModel", message, remedy)
        layers = _size(raw, "num_hidden_layers")
        is_dspark = raw.get("dspark_target_layer_ids") is not None
        return cls(
            raw=raw,
            hidden=_size(raw, "hidden_size"),
            layers=layers,
            vocabulary=_size(raw, "vocab_size"),
            heads=_size(raw, "num_attention_heads"),
            head_dim=_size(raw, "head_dim"),
            q_lora_rank=_size(raw, "q_lora_rank"),
            o_groups=_size(raw, "o_groups"),
            o_lora_rank=_size(raw, "o_lora_rank"),
            index_heads=_size(raw, "index_n_heads"),
            index_head_dim=_size(raw, "index_head_dim"),
            experts=_size(raw, "n_routed_experts"),
            experts_per_token=_size(raw, "num_experts_per_tok"),
            expert=_size(raw, "moe_intermediate_size"),
            shared_experts=_size(raw, "n_shared_experts"),
            hash_layers=_size(raw, "num_hash_layers", least=0),
            hc_mult=_size(raw, "hc_mult"),
            compress_ratios=_ratios(raw, layers),
            mtp_layers=0 if is_dspark else _size(raw, "num_nextn_predict_layers", least=0, default=0),
            dspark_layers=_size(raw, "n_mtp_layers", default=3) if is_dspark else 0,
            dspark_targets=len(raw["dspark_target_layer_ids"]) if is_dspark else 0,
            dspark_rank=_size(raw, "dspark_markov_rank") if is_dspark else 0,
        )

    @property
    def quantisation(self) -> Mapping[str, Any]:
        """`quantization_config`, empty if there is none."""
        found = self.raw.get("quantization_config")
        return found if isinstance(found, dict) else {}

    @property
    def quant_method(self) -> str:
        return str(self.quantisation.get("quant_method") or "")

    def ratio(self, layer: int) -> int:
        """The compression ratio, 0 for layers without compressor, such as those of a drafter."""
        ratio = self.compress_ratios[layer] if layer < self.layers else 0
        return ratio if ratio > 1 else 0


def _size(raw: Mapping[str, Any], key: str, *, least: int = 1, default: int | None = None) -> int:
    value = raw.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        message = f"config.json has an invalid {key}: {value!r}" if key in raw else f"config.json has no {key}"
        raise CheckpointError("BadConfig", message, FROM_SOURCE)
    return value


def _ratios(raw: Mapping[str, Any], layers: int) -> tuple[int, ...]:
    """The list in the file may continue with the drafter's layers."""
    found = raw.get("compress_ratios")
    if not isinstance(found, list) or len(found) < layers or not set(found[:layers]) <= {0, 1, 4, 128}:
        message = f"compress_ratios in config.json is missing or does not have 0, 4 or 128 for each of {layers} layers"
        raise CheckpointError("BadConfig", message, FROM_SOURCE)
    return tuple(found[:layers])


def _names(architectures: object) -> str:
    return (
        ", ".join(map(str, architectures)) if isinstance(architectures, list) and architectures else "no architecture"
    )
