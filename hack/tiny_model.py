"""Makes a DeepSeek-V3 model of 1.6 million parameters with one MTP layer, in four variants that fail like real ones.

    good     recites its text; the MTP layer drafts exactly the model's next token
    dead     recites its text, but the MTP projection is zero: no draft is ever accepted, and vLLM does not notice
    nomtp    has no MTP layer: vLLM refuses to start with speculation
    partial  lacks one tensor of the MTP layer: vLLM refuses to start

The weights need no training. Every block's output projection is zero, so the residual stream is the token's embedding.
The rows of the output matrix are the embeddings of each token's predecessor, so the argmax is the token's successor.
Only numpy is needed, and the same configuration gives the same bytes.
"""

import hashlib
import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

import bf16_safetensors
import tiny_tokenizer
from local_cluster.cache import exclusive
from tiny_tokenizer import VOCABULARY, Vocabulary, write_tokenizer

Variant = Literal["good", "dead", "nomtp", "partial"]
VARIANTS: Final[tuple[Variant, ...]] = get_args(Variant)

Floats = NDArray[np.float32]
Tensors = dict[str, Floats]

GOLDEN_PROMPT: Final = "the quick brown fox"
GOLDEN_COMPLETION: Final = " jumps over a lazy dog while seven wizards pack my box with five dozen jugs of"
"""The first 16 tokens at temperature 0 of every variant that starts, by construction."""


@dataclass(frozen=True)
class Shape:
    """The sizes. All are small except kv_lora_rank + rope: vLLM's MLA on a CPU supports only 576."""

    hidden: int = 128
    layers: int = 2
    heads: int = 4
    q_lora_rank: int = 64
    kv_lora_rank: int = 512
    nope: int = 32
    rope: int = 64
    value: int = 32
    dense: int = 256
    experts: int = 8
    experts_per_token: int = 2
    expert: int = 64


@dataclass(frozen=True)
class TinyModel:
    seed: int = 0
    shape: Shape = field(default_factory=Shape)

    def key(self) -> str:
        """A hash of the configuration and of the code that makes the model."""
        digest = hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode())
        for source in (tiny_tokenizer.__file__, bf16_safetensors.__file__, __file__):
            digest.update(Path(source).read_bytes())
        return digest.hexdigest()[:16]


def config_json(shape: Shape) -> dict[str, object]:
    return {
        "architectures": ["DeepseekV3ForCausalLM"],
        "model_type": "deepseek_v3",
        "vocab_size": VOCABULARY,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.dense,
        "moe_intermediate_size": shape.expert,
        "num_hidden_layers": shape.layers,
        "num_nextn_predict_layers": 1,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.heads,
        "n_shared_experts": 1,
        "n_routed_experts": shape.experts,
        "num_experts_per_tok": shape.experts_per_token,
        "ep_size": 1,
        "routed_scaling_factor": 1.0,
        "kv_lora_rank": shape.kv_lora_rank,
        "q_lora_rank": shape.q_lora_rank,
        "qk_rope_head_dim": shape.rope,
        "qk_nope_head_dim": shape.nope,
        "v_head_dim": shape.value,
        "topk_method": "noaux_tc",
        "n_group": 2,
        "topk_group": 1,
        "first_k_dense_replace": 1,
        "moe_layer_freq": 1,
        "norm_topk_prob": True,
        "scoring_func": "sigmoid",
        "hidden_act": "silu",
        "max_position_embeddings": 2048,
        "initializer_range": 0.02,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "attention_bias": False,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "bos_token_id": 0,
        "eos_token_id": 1,
    }


def good_tensors(model: TinyModel) -> Tensors:
    shape, random = model.shape, np.random.default_rng(model.seed)
    embedding = random.standard_normal((VOCABULARY, shape.hidden), dtype=np.float32)
    head = output_matrix(embedding)
    tensors = {"model.embed_tokens.weight": embedding, "lm_head.weight": head, "model.norm.weight": ones(shape.hidden)}
    for layer in range(shape.layers + 1):
        tensors |= block(f"model.layers.{layer}.", shape, random, mixture=layer > 0)
    mtp = mtp_prefix(shape)
    tensors |= {mtp + name: ones(shape.hidden) for name in ("enorm.weight", "hnorm.weight", "shared_head.norm.weight")}
    # The projection's input is [embedding of the token just chosen, hidden state]; it outputs the embedding.
    tensors[mtp + "eh_proj.weight"] = np.eye(shape.hidden, 2 * shape.hidden, dtype=np.float32)
    tensors[mtp + "embed_tokens.weight"] = embedding
    tensors[mtp + "shared_head.head.weight"] = head
    return tensors


def tensors_of(variant: Variant, model: TinyModel) -> Tensors:
    tensors = good_tensors(model)
    mtp = mtp_prefix(model.shape)
    projection = mtp + "eh_proj.weight"
    match variant:
        case "good":
            return tensors
        case "dead":
            return tensors | {projection: np.zeros_like(tensors[projection])}
        case "nomtp":
            return {name: values for name, values in tensors.items() if not name.startswith(mtp)}
        case "partial":
            return {name: values for name, values in tensors.items() if name != projection}


def mtp_prefix(shape: Shape) -> str:
    """DeepSeek-V3 stores the MTP block as an additional layer."""
    return f"model.layers.{shape.layers}."


def output_matrix(embedding: Floats) -> Floats:
    head = np.empty_like(embedding)
    head[Vocabulary.make().successors()] = embedding * np.float32(0.1)
    return head


def ones(size: int) -> Floats:
    return np.ones(size, dtype=np.float32)


def block(prefix: str, shape: Shape, random: np.random.Generator, *, mixture: bool) -> Tensors:
    norms = ("input_layernorm", "post_attention_layernorm")
    tensors = {f"{prefix}{name}.weight": ones(shape.hidden) for name in norms}
    tensors |= attention(prefix + "self_attn.", shape, random)
    if not mixture:
        return tensors | feed_forward(prefix + "mlp.", shape.hidden, shape.dense, random)
    tensors[prefix + "mlp.gate.weight"] = weights(random, shape.experts, shape.hidden)
    tensors[prefix + "mlp.gate.e_score_correction_bias"] = np.zeros(shape.experts, dtype=np.float32)
    for expert in expert_names(shape):
        tensors |= feed_forward(f"{prefix}mlp.{expert}.", shape.hidden, shape.expert, random)
    return tensors


def expert_names(shape: Shape) -> Iterator[str]:
    yield "shared_experts"
    for expert in range(shape.experts):
        yield f"experts.{expert}"


def attention(prefix: str, shape: Shape, random: np.random.Generator) -> Tensors:
    query = shape.heads * (shape.nope + shape.rope)
    key_value = shape.heads * (shape.nope + shape.value)
    return {
        prefix + "q_a_proj.weight": weights(random, shape.q_lora_rank, shape.hidden),
        prefix + "q_a_layernorm.weight": ones(shape.q_lora_rank),
        prefix + "q_b_proj.weight": weights(random, query, shape.q_lora_rank),
        prefix + "kv_a_proj_with_mqa.weight": weights(random, shape.kv_lora_rank + shape.rope, shape.hidden),
        prefix + "kv_a_layernorm.weight": ones(shape.kv_lora_rank),
        prefix + "kv_b_proj.weight": weights(random, key_value, shape.kv_lora_rank),
        prefix + "o_proj.weight": np.zeros((shape.hidden, shape.heads * shape.value), dtype=np.float32),
    }


def feed_forward(prefix: str, hidden: int, inner: int, random: np.random.Generator) -> Tensors:
    return {
        prefix + "gate_proj.weight": weights(random, inner, hidden),
        prefix + "up_proj.weight": weights(random, inner, hidden),
        prefix + "down_proj.weight": np.zeros((hidden, inner), dtype=np.float32),
    }


def weights(random: np.random.Generator, rows: int, columns: int) -> Floats:
    return random.standard_normal((rows, columns), dtype=np.float32) * np.float32(0.05)


def write_variant(variant: Variant, directory: Path, model: TinyModel) -> None:
    directory.mkdir(parents=True)
    write_tokenizer(Vocabulary.make(), directory)
    (directory / "config.json").write_text(json.dumps(config_json(model.shape), indent=1))
    tensors = tensors_of(variant, model)
    bf16_safetensors.write(directory / "model.safetensors", tensors, keep_float32="e_score_correction_bias")


def build(root: Path, model: TinyModel | None = None) -> Path:
    """Makes all variants in `root`/KEY unless they exist. Returns that folder."""
    model = model or TinyModel()
    finished = root / model.key()
    if not finished.exists():
        with exclusive(root / ".lock", "another process that makes the tiny models"):
            _make(finished, model)
    return finished


def _make(finished: Path, model: TinyModel) -> None:
    if finished.exists():
        return  # another process made them while this one waited
    scratch = finished.with_name(f".{finished.name}.part")
    shutil.rmtree(scratch, ignore_errors=True)
    for variant in VARIANTS:
        write_variant(variant, scratch / variant, model)
    scratch.rename(finished)


def main() -> None:
    if len(sys.argv[1:]) != 1 or sys.argv[1].startswith("-"):
        sys.exit("usage: python -m tiny_model DIR    (makes DIR/KEY/{good,dead,nomtp,partial} and prints DIR/KEY)")
    print(build(Path(sys.argv[1])))


if __name__ == "__main__":
    main()
