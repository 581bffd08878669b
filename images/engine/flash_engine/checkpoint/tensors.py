"""The table of all tensors of a DeepSeek-V4, independent of how its matrices are stored.

`inspect`, the plugin and the tests all use this table. Sources: `M` is vLLM 0.33.0 models/deepseek_v4/nvidia/model.py,
`A` its attention.py, `C` its compressor.py, `P` its nvidia/mtp.py, `D` its nvidia/dspark.py, all of which were run
with tensors of these shapes (tests/plugin); `docs` is DeepSeek's inference/model.py.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from flash_engine.checkpoint.model_config import ModelConfig
from flash_engine.checkpoint.schemes import WIDE_TYPE, Shape

Role = Literal[
    "attention", "compressor", "indexer query", "indexer weights", "experts", "shared experts", "projection", "plain"
]
QUANTISED: tuple[Role, ...] = ("attention", "indexer query", "experts", "shared experts", "projection")
"""Roles that vLLM builds according to `quantization_config`. It always builds the others plain."""

WIDE = WIDE_TYPE
NORM = ("BF16", "F32", "F16")


@dataclass(frozen=True)
class WeightMatrix:
    """A weight matrix, stored by the scheme of its role."""

    name: str
    role: Role
    rows: int
    columns: int
    source: str
    is_split: bool = False
    """Whether each of two GPUs holds half of it instead of all of it."""


@dataclass(frozen=True)
class PlainTensor:
    """A tensor that is never quantised."""

    name: str
    shape: Shape
    types: tuple[str, ...]
    source: str
    optional: bool = False


Entry = WeightMatrix | PlainTensor


def norm(name: str, size: int, source: str) -> PlainTensor:
    return PlainTensor(f"{name}.weight", (size,), NORM, source)


def top_level_tensors(config: ModelConfig) -> Iterator[Entry]:
    """The tensors outside the layers."""
    yield WeightMatrix("embed", "plain", config.vocabulary, config.hidden, "M embed_tokens", is_split=True)
    yield WeightMatrix("head", "plain", config.vocabulary, config.hidden, "M lm_head", is_split=True)
    yield norm("norm", config.hidden, "M norm")
    yield from hyper_connection_head(config, "", "M hc_head_fn")


def decoder_layer(config: ModelConfig, prefix: str, layer: int) -> Iterator[Entry]:
    """One layer. A drafter's layers are numbered after the model's, and have no compressor."""
    ratio = config.ratio(layer)
    yield from attention(config, f"{prefix}attn.")
    if ratio:
        yield from compressor(config, f"{prefix}attn.compressor.", ratio, config.head_dim)
    if ratio == 4:  # noqa: PLR2004 - only this ratio has an indexer, A Indexer
        yield from indexer(config, f"{prefix}attn.indexer.", ratio)
    yield from mixture_of_experts(config, f"{prefix}ffn.", hashed=layer < config.hash_layers)
    yield norm(f"{prefix}attn_norm", config.hidden, "M attn_norm")
    yield norm(f"{prefix}ffn_norm", config.hidden, "M ffn_norm")
    yield from hyper_connections(config, prefix)


def attention(config: ModelConfig, prefix: str) -> Iterator[Entry]:
    heads_wide = config.heads * config.head_dim
    grouped = config.o_groups * config.o_lora_rank
    yield WeightMatrix(f"{prefix}wq_a", "attention", config.q_lora_rank, config.hidden, "A fused_wqa_wkv")
    yield WeightMatrix(f"{prefix}wkv", "attention", config.head_dim, config.hidden, "A fused_wqa_wkv")
    yield WeightMatrix(f"{prefix}wq_b", "attention", heads_wide, config.q_lora_rank, "A wq_b", is_split=True)
    yield WeightMatrix(f"{prefix}wo_a", "attention", grouped, heads_wide // config.o_groups, "A wo_a", is_split=True)
    yield WeightMatrix(f"{prefix}wo_b", "attention", config.hidden, grouped, "A wo_b", is_split=True)
    yield norm(f"{prefix}q_norm", config.q_lora_rank, "A q_norm")
    yield norm(f"{prefix}kv_norm", config.head_dim, "A kv_norm")
    yield PlainTensor(f"{prefix}attn_sink", (config.heads,), WIDE, "A attn_sink")


def compressor(config: ModelConfig, prefix: str, ratio: int, head_dim: int) -> Iterator[Entry]:
    """A compressor. Blocks of the short ratio overlap, so it has twice as many rows (C coff)."""
    rows = head_dim * (2 if ratio == 4 else 1)  # noqa: PLR2004 - as above
    yield PlainTensor(f"{prefix}ape", (ratio, rows), WIDE, "C ape")
    yield WeightMatrix(f"{prefix}wkv", "compressor", rows, config.hidden, "C fused_wkv_wgate, quant_config=None")
    yield WeightMatrix(f"{prefix}wgate", "compressor", rows, config.hidden, "C fused_wkv_wgate, quant_config=None")
    yield norm(f"{prefix}norm", head_dim, "C norm")


def indexer(config: ModelConfig, prefix: str, ratio: int) -> Iterator[Entry]:
    wide = config.index_heads * config.index_head_dim
    yield WeightMatrix(f"{prefix}wq_b", "indexer query", wide, config.q_lora_rank, "A Indexer.wq_b")
    yield WeightMatrix(
        f"{prefix}weights_proj",
        "indexer weights",
        config.index_heads,
        config.hidden,
        "A Indexer.weights_proj, quant_config=None",
    )
    yield from compressor(config, f"{prefix}compressor.", ratio, config.index_head_dim)


def mixture_of_experts(config: ModelConfig, prefix: str, *, hashed: bool) -> Iterator[Entry]:
    yield WeightMatrix(f"{prefix}gate", "plain", config.experts, config.hidden, "M GateLinear")
    if hashed:
        shape = (config.vocabulary, config.experts_per_token)
        yield PlainTensor(f"{prefix}gate.tid2eid", shape, ("I32", "I64"), "M gate.tid2eid")
    else:
        yield PlainTensor(f"{prefix}gate.bias", (config.experts,), WIDE, "M gate.e_score_correction_bias")
    shared = config.expert * config.shared_experts
    yield from expert(config, f"{prefix}shared_experts.", "shared experts", shared)
    for number in range(config.experts):
        yield from expert(config, f"{prefix}experts.{number}.", "experts", config.expert)


def expert(config: ModelConfig, prefix: str, role: Role, inner: int) -> Iterator[WeightMatrix]:
    yield WeightMatrix(f"{prefix}w1", role, inner, config.hidden, "M DeepseekV4MoE", is_split=True)
    yield WeightMatrix(f"{prefix}w3", role, inner, config.hidden, "M DeepseekV4MoE", is_split=True)
    yield WeightMatrix(f"{prefix}w2", role, config.hidden, inner, "M DeepseekV4MoE", is_split=True)


def hyper_connections(config: ModelConfig, prefix: str) -> Iterator[PlainTensor]:
    mixed = (2 + config.hc_mult) * config.hc_mult
    for part in ("attn", "ffn"):
        shape = (mixed, config.hc_mult * config.hidden)
        yield PlainTensor(f"{prefix}hc_{part}_fn", shape, WIDE, f"M hc_{part}_fn")
        yield PlainTensor(f"{prefix}hc_{part}_base", (mixed,), WIDE, f"M hc_{part}_base")
        yield PlainTensor(f"{prefix}hc_{part}_scale", (3,), WIDE, f"M hc_{part}_scale")


def hyper_connection_head(config: ModelConfig, prefix: str, source: str) -> Iterator[PlainTensor]:
    yield PlainTensor(f"{prefix}hc_head_fn", (config.hc_mult, config.hc_mult * config.hidden), WIDE, source)
    yield PlainTensor(f"{prefix}hc_head_base", (config.hc_mult,), WIDE, source)
    yield PlainTensor(f"{prefix}hc_head_scale", (1,), WIDE, source)


def mtp_layer(config: ModelConfig, number: int) -> Iterator[Entry]:
    """The head shares the model's embedding and output matrix. A file may have its own copies of them."""
    prefix = f"mtp.{number}."
    yield from decoder_layer(config, prefix, config.layers + number)
    for name in ("enorm", "hnorm", "norm"):
        yield norm(f"{prefix}{name}", config.hidden, f"P {name}")
    for name in ("e_proj", "h_proj"):
        yield WeightMatrix(f"{prefix}{name}", "projection", config.hidden, config.hidden, f"P {name}")
    yield from hyper_connection_head(config, prefix, "P hc_head_fn")
    shared = (config.vocabulary, config.hidden)
    yield PlainTensor(f"{prefix}head.weight", shared, NORM, "P shared_head.head", optional=True)
    yield PlainTensor(f"{prefix}emb.tok_emb.weight", shared, NORM, "P embed_tokens", optional=True)


def dspark_layer(config: ModelConfig, number: int) -> Iterator[Entry]:
    """One stage of a DSpark drafter. The first joins the target's hidden states; the last has the heads."""
    prefix = f"mtp.{number}."
    yield from decoder_layer(config, prefix, config.layers + number)
    if number == 0:
        joined = config.hidden * config.dspark_targets
        yield WeightMatrix(f"{prefix}main_proj", "projection", config.hidden, joined, "D main_proj")
        yield norm(f"{prefix}main_norm", config.hidden, "D main_norm")
    if number == config.dspark_layers - 1:
        rank = (config.vocabulary, config.dspark_rank)
        yield norm(f"{prefix}norm", config.hidden, "D norm")
        yield from hyper_connection_head(config, prefix, "D hc_head_fn")
        yield PlainTensor(f"{prefix}markov_head.markov_w1.weight", rank, NORM, "D DSparkMarkovHead")
        yield PlainTensor(f"{prefix}markov_head.markov_w2.weight", rank, NORM, "D DSparkMarkovHead")
        wide = (1, config.hidden + config.dspark_rank)
        yield PlainTensor(f"{prefix}confidence_head.proj.weight", wide, NORM, "D DSparkConfidenceHead", optional=True)


def main_model(config: ModelConfig) -> Iterator[Entry]:
    yield from top_level_tensors(config)
    for layer in range(config.layers):
        yield from decoder_layer(config, f"layers.{layer}.", layer)


def drafter(config: ModelConfig) -> Iterator[Entry]:
    """The tensors of the drafter that config.json describes, if any."""
    for number in range(config.mtp_layers):
        yield from mtp_layer(config, number)
    for number in range(config.dspark_layers):
        yield from dspark_layer(config, number)
