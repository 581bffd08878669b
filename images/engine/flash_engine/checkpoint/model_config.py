"""The sizes of a DeepSeek-V4, from config.json."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flash_engine.checkpoint.finding import CheckpointError

ARCHITECTURES = ("DeepseekV4ForCausalLM",)

FROM_SOURCE = "take config.json from the checkpoint that this one was made of"


@dataclass(frozen=True)
class ModelConfig:
    """All counts are of elements; `raw` is the file as it is."""

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
    """For each layer: 0 or 1 (sliding window only), 4 (with indexer) or 128."""
    mtp_layers: int
    dspark_layers: int
    """Stages of a DSpark drafter, which takes the place of the MTP head; 0 without."""
    dspark_targets: int
    dspark_rank: int

    @classmethod
    def parse(cls, raw: Mapping[str, Any]) -> "ModelConfig":
        """Raises CheckpointError for a config of another model, and for one that lacks a size."""
        architectures = raw.get("architectures")
        if not isinstance(architectures, list) or not set(architectures) & set(ARCHITECTURES):
            told = f"config.json is of {_spoken(architectures)} and not of {ARCHITECTURES[0]}"
            raise CheckpointError(
                "OtherModel", told, "point model.source at a DeepSeek-V4-Flash checkpoint, or use engine.profile Custom"
            )
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
        """`quantization_config`; empty where there is none."""
        found = self.raw.get("quantization_config")
        return found if isinstance(found, dict) else {}

    @property
    def quant_method(self) -> str:
        return str(self.quantisation.get("quant_method") or "")

    def ratio(self, layer: int) -> int:
        """0 for a layer without compressor, which a drafter's layers are too."""
        ratio = self.compress_ratios[layer] if layer < self.layers else 0
        return ratio if ratio > 1 else 0


def _size(raw: Mapping[str, Any], key: str, *, least: int = 1, default: int | None = None) -> int:
    value = raw.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        told = f"config.json has {'no ' if key not in raw else ''}{key}{'' if key not in raw else f' {value!r}'}"
        raise CheckpointError("BadConfig", told, FROM_SOURCE)
    return value


def _ratios(raw: Mapping[str, Any], layers: int) -> tuple[int, ...]:
    """The file's list may go on with the drafter's layers."""
    found = raw.get("compress_ratios")
    if not isinstance(found, list) or len(found) < layers or not set(found[:layers]) <= {0, 1, 4, 128}:
        told = f"config.json needs compress_ratios with 0, 4 or 128 for each of {layers} layers"
        raise CheckpointError("BadConfig", told, FROM_SOURCE)
    return tuple(found[:layers])


def _spoken(architectures: object) -> str:
    return ", ".join(map(str, architectures)) if isinstance(architectures, list) and architectures else "no model"
