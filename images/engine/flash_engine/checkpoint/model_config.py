"""Parses the sizes of a DeepSeek-V4 model from config.json."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flash_contracts.checkpoint_record import CheckpointFinding
from flash_engine.checkpoint.finding import CheckpointError
from flash_engine.checkpoint.model_families import architectures, family_of
from flash_engine.checkpoint.origin import VOLUME, Origin, another

ARCHITECTURES = ("DeepseekV4ForCausalLM",)

FROM_SOURCE = "copy config.json from the checkpoint that this one was made from"

MTP_LAYERS = "num_nextn_predict_layers"

MOST_ELEMENTS, MOST_LAYERS, MOST_EXPERTS = 1 << 24, 512, 4096
"""Far above every real model. Larger numbers mean damage, and would make the table of tensors endless."""


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
    def parse(cls, raw: Mapping[str, Any], origin: Origin = VOLUME) -> "ModelConfig":
        """Raises CheckpointError if the config is of another model or lacks a size."""
        if not is_deepseek_v4(raw):
            found = other_model(raw)
            raise CheckpointError(found.code, found.message, found.remedy)
        try:
            return cls._parsed(raw)
        except ValueError as error:
            raise CheckpointError("BadConfig", str(error), origin.change(FROM_SOURCE)) from error

    @classmethod
    def _parsed(cls, raw: Mapping[str, Any]) -> "ModelConfig":
        """Raises ValueError."""
        layers = _size(raw, "num_hidden_layers", most=MOST_LAYERS)
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
            experts=_size(raw, "n_routed_experts", most=MOST_EXPERTS),
            experts_per_token=_size(raw, "num_experts_per_tok"),
            expert=_size(raw, "moe_intermediate_size"),
            shared_experts=_size(raw, "n_shared_experts"),
            hash_layers=_size(raw, "num_hash_layers", least=0),
            hc_mult=_size(raw, "hc_mult"),
            compress_ratios=_ratios(raw, layers),
            mtp_layers=0 if is_dspark else _size(raw, MTP_LAYERS, least=0, default=0, most=MOST_LAYERS),
            dspark_layers=_size(raw, "n_mtp_layers", default=3, most=MOST_LAYERS) if is_dspark else 0,
            dspark_targets=_count(raw, "dspark_target_layer_ids") if is_dspark else 0,
            dspark_rank=_size(raw, "dspark_markov_rank") if is_dspark else 0,
        )

    @property
    def quantisation(self) -> Mapping[str, Any]:
        """`quantization_config`, empty if there is none."""
        return quantisation_of(self.raw)

    @property
    def quantisation_groups(self) -> tuple[Mapping[str, Any], ...]:
        """The groups of a compressed-tensors config."""
        groups = self.quantisation.get("config_groups")
        return tuple(group for group in groups.values() if isinstance(group, dict)) if isinstance(groups, dict) else ()

    @property
    def nvfp4_groups(self) -> list[Mapping[str, Any]]:
        """The groups whose weights are NVFP4."""
        weights = ((group, group.get("weights")) for group in self.quantisation_groups)
        return [
            group
            for group, one in weights
            if isinstance(one, dict) and (one.get("type"), one.get("num_bits")) == ("float", 4)
        ]

    @property
    def quant_method(self) -> str:
        return quant_method(self.raw)

    @property
    def has_drafter(self) -> bool:
        """Whether config.json describes one."""
        return bool(self.mtp_layers or self.dspark_layers)

    @property
    def drafter_entry(self) -> str:
        """The entry of config.json about an MTP head, for messages: 0 differs from absent."""
        return f"{MTP_LAYERS} {json.dumps(self.raw[MTP_LAYERS])}" if MTP_LAYERS in self.raw else f"no {MTP_LAYERS}"

    def ratio(self, layer: int) -> int:
        """The compression ratio, 0 for layers without compressor, such as those of a drafter."""
        ratio = self.compress_ratios[layer] if layer < self.layers else 0
        return ratio if ratio > 1 else 0


def quantisation_of(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """`quantization_config`, or the `compression_config` of older llm-compressor, as in vLLM; empty without either."""
    for key in ("quantization_config", "compression_config"):
        found = raw.get(key)
        if isinstance(found, dict) and found:
            return found
    return {}


def quant_method(raw: Mapping[str, Any]) -> str:
    """In lower case; empty if config.json names none."""
    return str(quantisation_of(raw).get("quant_method") or "").lower()


def is_deepseek_v4(raw: Mapping[str, Any]) -> bool:
    return bool(set(architectures(raw)) & set(ARCHITECTURES))


def other_model(raw: Mapping[str, Any], too_large: str | None = None) -> CheckpointFinding:
    """The finding that names the model and a remedy. `too_large`: why it does not fit, if it does not."""
    family, named = family_of(raw), ", ".join(architectures(raw))
    if not named:
        message = "config.json names no architecture, so it does not describe a language model"
        remedy = "put config.json of the model beside its weights, or check the folder's name in model.source"
        return CheckpointFinding("OtherModel", "refused", message, remedy, without_plugin="does not start")
    described = f"{family.name} ({named})" if family else named
    message = f"config.json describes {described}, not DeepSeek-V4-Flash ({ARCHITECTURES[0]})"
    remedy = another("a DeepSeek-V4-Flash checkpoint")
    if family and family.is_drafter:
        remedy = f"a drafter cannot be served alone; {remedy}"
    elif too_large:
        message += f"; {too_large}"
    else:
        fields = "engine.profile Custom, engine.contextTokens, engine.maxSequences and speculation.method Disabled"
        remedy += f"; to serve this model, if vLLM knows it, set {fields}"
    return CheckpointFinding("OtherModel", "refused", message, remedy, without_plugin="does not start")


def _size(
    raw: Mapping[str, Any], key: str, *, least: int = 1, default: int | None = None, most: int = MOST_ELEMENTS
) -> int:
    """Raises ValueError. `null` counts as absent if there is a default."""
    value = raw.get(key)
    if value is None and default is not None:
        return default
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ValueError(
            f"config.json has an invalid {key}: {value!r:.40}" if key in raw else f"config.json has no {key}"
        )
    return value


def _count(raw: Mapping[str, Any], key: str) -> int:
    """The length of a list. Raises ValueError."""
    found = raw[key]
    if not isinstance(found, list) or not found:
        raise ValueError(f"config.json has an invalid {key}: {found!r:.40}")
    return len(found)


def _ratios(raw: Mapping[str, Any], layers: int) -> tuple[int, ...]:
    """The ratio of each layer. The list in the file may continue with the drafter's. Raises ValueError."""
    found = raw.get("compress_ratios")
    if not isinstance(found, list) or len(found) < layers or any(one not in (0, 1, 4, 128) for one in found[:layers]):
        raise ValueError(
            f"compress_ratios in config.json is missing or does not have 0, 4 or 128 for each of {layers} layers"
        )
    return tuple(int(one) for one in found[:layers])
