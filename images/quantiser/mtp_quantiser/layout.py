"""The tensors of an MTP layer: names, types and shapes in the official checkpoint and in the restored one.

Counted for DeepSeek-V4-Flash: 768 FP4 and 10 FP8 matrices with a scale each, 11 FP32 and 8 BF16 tensors, 1,575 in all.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from mtp_quantiser.errors import QuantiserError

PREFIX: Final = "mtp.0."
EXPERT_MATRICES: Final = ("w1", "w2", "w3")
"""Gate, down, up."""

ATTENTION: Final = ("wq_a", "wq_b", "wkv", "wo_a", "wo_b")
ALIASES: Final = {"mtp.0.head.weight": "head.weight", "mtp.0.emb.tok_emb.weight": "embed.weight"}
"""Copies that vLLM before 0.33 needs. Without them, it leaves the draft's head and embedding uninitialised, accepts no
drafts, and reports no error."""


@dataclass(frozen=True)
class TensorSpec:
    dtype: str
    """The safetensors name of the type."""
    shape: tuple[int, ...]


@dataclass(frozen=True)
class MtpShape:
    """The layer's dimensions from config.json."""

    layers: int
    hidden: int
    inner: int
    experts: int
    per_token: int
    heads: int
    head_dim: int
    q_rank: int
    o_rank: int
    o_groups: int
    streams: int
    """hc_mult: residual streams."""
    route_scale: float
    limit: float

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "MtpShape":
        """Raises QuantiserError if the configuration is not of a DeepSeek-V4 model."""
        try:
            shape = cls(
                layers=config["num_hidden_layers"],
                hidden=config["hidden_size"],
                inner=config["moe_intermediate_size"],
                experts=config["n_routed_experts"],
                per_token=config["num_experts_per_tok"],
                heads=config["num_attention_heads"],
                head_dim=config["head_dim"],
                q_rank=config["q_lora_rank"],
                o_rank=config["o_lora_rank"],
                o_groups=config["o_groups"],
                streams=config["hc_mult"],
                route_scale=config["routed_scaling_factor"],
                limit=config["swiglu_limit"],
            )
        except KeyError as error:
            raise QuantiserError(
                f"config.json has no {error.args[0]!r}, so this is not a DeepSeek-V4 checkpoint; give DeepSeek-V4-Flash"
            ) from error
        shape.require_supported_sizes(config)
        return shape

    def require_supported_sizes(self, config: Mapping[str, Any]) -> None:
        if self.hidden % 128 or self.inner % 128:
            raise QuantiserError(
                f"hidden_size {self.hidden} or moe_intermediate_size {self.inner} is not a multiple of 128 (INT4 group)"
            )
        if config.get("scoring_func", "sqrtsoftplus") != "sqrtsoftplus":
            raise QuantiserError(f"scoring_func {config['scoring_func']!r} is not supported; only sqrtsoftplus is")

    def expert_shape(self, matrix: str) -> tuple[int, int]:
        """(out, in) of w1, w2 or w3."""
        return (self.hidden, self.inner) if matrix == "w2" else (self.inner, self.hidden)

    def expert_names(self) -> Iterator[tuple[str, tuple[int, int]]]:
        for expert in range(self.experts):
            for matrix in EXPERT_MATRICES:
                yield f"{PREFIX}ffn.experts.{expert}.{matrix}", self.expert_shape(matrix)

    def dense(self) -> dict[str, tuple[int, int]]:
        """The ten matrices that the official checkpoint stores as FP8."""
        attention = {
            "wq_a": (self.q_rank, self.hidden),
            "wq_b": (self.heads * self.head_dim, self.q_rank),
            "wkv": (self.head_dim, self.hidden),
            "wo_a": (self.o_groups * self.o_rank, self.heads * self.head_dim // self.o_groups),
            "wo_b": (self.hidden, self.o_groups * self.o_rank),
        }
        shared = {f"ffn.shared_experts.{name}": self.expert_shape(name) for name in EXPERT_MATRICES}
        square = dict.fromkeys(("e_proj", "h_proj"), (self.hidden, self.hidden))
        return {f"attn.{name}": shape for name, shape in attention.items()} | shared | square

    def plain(self) -> dict[str, TensorSpec]:
        """The tensors that are BF16 or FP32 in both layouts."""
        mix, wide = (2 + self.streams) * self.streams, self.streams * self.hidden
        found = {
            "attn.attn_sink": TensorSpec("F32", (self.heads,)),
            "attn.q_norm.weight": TensorSpec("BF16", (self.q_rank,)),
            "attn.kv_norm.weight": TensorSpec("BF16", (self.head_dim,)),
            "ffn.gate.weight": TensorSpec("BF16", (self.experts, self.hidden)),
            "ffn.gate.bias": TensorSpec("F32", (self.experts,)),
            "hc_head_fn": TensorSpec("F32", (self.streams, wide)),
            "hc_head_base": TensorSpec("F32", (self.streams,)),
            "hc_head_scale": TensorSpec("F32", (1,)),
        }
        for part in ("hc_attn", "hc_ffn"):
            found |= {
                f"{part}_fn": TensorSpec("F32", (mix, wide)),
                f"{part}_base": TensorSpec("F32", (mix,)),
                f"{part}_scale": TensorSpec("F32", (3,)),
            }
        norms = ("attn_norm", "ffn_norm", "enorm", "hnorm", "norm")
        return found | {f"{name}.weight": TensorSpec("BF16", (self.hidden,)) for name in norms}

    def official(self) -> dict[str, TensorSpec]:
        """Every tensor of the official layout, full names."""
        found: dict[str, TensorSpec] = {}
        for name, (out, into) in self.expert_names():
            found[f"{name}.weight"] = TensorSpec("I8", (out, into // 2))
            found[f"{name}.scale"] = TensorSpec("F8_E8M0", (out, into // 32))
        for name, (out, into) in self.dense().items():
            found[f"{PREFIX}{name}.weight"] = TensorSpec("F8_E4M3", (out, into))
            found[f"{PREFIX}{name}.scale"] = TensorSpec("F8_E8M0", (-(-out // 128), -(-into // 128)))
        return found | {PREFIX + name: expected for name, expected in self.plain().items()}

    def product(self) -> dict[str, TensorSpec]:
        """Every tensor of the INT4 shard, full names, without the aliases."""
        found: dict[str, TensorSpec] = {}
        for name, (out, into) in self.expert_names():
            found[f"{name}.weight_packed"] = TensorSpec("I32", (out, into // 8))
            found[f"{name}.weight_scale"] = TensorSpec("BF16", (out, into // 128))
            found[f"{name}.weight_shape"] = TensorSpec("I64", (2,))
        for name, (out, into) in self.dense().items():
            attention = name.startswith("attn.")
            found[f"{PREFIX}{name}.weight"] = TensorSpec("F8_E4M3" if attention else "BF16", (out, into))
            if attention:
                found[f"{PREFIX}{name}.weight_scale"] = TensorSpec("F32", (-(-out // 128), -(-into // 128)))
        return found | {PREFIX + name: expected for name, expected in self.plain().items()}
