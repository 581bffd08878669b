"""A tiny DeepSeek-V3 whose drafts come from the routed experts of its MTP layer, and from nothing else.

In `tiny_model` those experts add nothing, so a mistake in them would not show. Here the layer's projection rotates the
embedding away from the head, and its experts are trained to rotate it back: without them no draft is accepted. They
learn a wrong successor for some of the tokens, so that acceptance is below 100 %, as with a real model.

The experts are trained as the official checkpoint holds them, in FP4 with a power of two for each 32 columns.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor

import bf16_safetensors
import tiny_model
from mtp_quantiser.formats.fp4 import GROUP, VALUES, decode_fp4
from tiny_tokenizer import Vocabulary, write_tokenizer

SHAPE: Final = replace(tiny_model.Shape(), expert=128)
"""A multiple of INT4's groups of 128."""

MODEL: Final = tiny_model.TinyModel(shape=SHAPE)
CONFIG: Final = {**tiny_model.config_json(SHAPE), "n_group": 1, "topk_group": 1}
"""One group: then the two experts of the highest score are those that DeepSeek-V4's router would choose."""

RIGHT: Final = 0.85
STEPS: Final = 40
TURNED: Final = 0.1
"""Norm of the projection's part besides that of the experts: enough for routing, too small for drafting."""

ROUTER: Final = tiny_model.mtp_prefix(SHAPE) + "mlp.gate.weight"
MATRICES: Final = {"w1": "gate_proj", "w3": "up_proj", "w2": "down_proj"}
LEVELS: Final = torch.tensor(VALUES[:8])
BETWEEN: Final = (LEVELS[1:] + LEVELS[:-1]) / 2


@dataclass(frozen=True)
class Fp4Matrix:
    """As the official checkpoint stores it."""

    packed: Tensor
    """uint8 [out, in/2]."""
    exponents: Tensor
    """uint8 [out, in/32]."""

    @classmethod
    def nearest(cls, weights: Tensor) -> "Fp4Matrix":
        out, columns = weights.shape
        groups = weights.reshape(out, columns // GROUP, GROUP)
        exponents = torch.ceil(torch.log2(groups.abs().amax(2).clamp_min(1e-30) / max(VALUES))).clamp(-120, 120)
        scaled = groups / torch.exp2(exponents)[..., None]
        codes = torch.bucketize(scaled.abs(), BETWEEN) + 8 * (scaled < 0)
        nibbles = codes.reshape(out, columns).to(torch.uint8)
        return cls(nibbles[:, ::2] | nibbles[:, 1::2] << 4, (exponents + 127).to(torch.uint8))

    def decoded(self) -> Tensor:
        return decode_fp4(self.packed, self.exponents)


Experts = Mapping[str, Fp4Matrix]
"""By the stem of the name in the official layout, such as mtp.0.ffn.experts.3.w1."""


@dataclass(frozen=True)
class Layer:
    """The layer's fixed weights, and the input of its experts for each token of the vocabulary."""

    tensors: tiny_model.Tensors
    handed_on: Tensor
    x: Tensor
    ids: Tensor
    shares: Tensor
    head: Tensor

    @classmethod
    def make(cls) -> "Layer":
        tensors = tiny_model.good_tensors(MODEL)
        prefix = tiny_model.mtp_prefix(SHAPE)
        random = torch.Generator().manual_seed(5)
        turn = torch.linalg.qr(torch.randn(SHAPE.hidden, SHAPE.hidden, generator=random))[0] * TURNED
        projection = torch.cat([turn, torch.zeros_like(turn)], 1).bfloat16().float()
        tensors[prefix + "eh_proj.weight"] = projection.numpy()
        embedding = torch.from_numpy(tensors["model.embed_tokens.weight"]).bfloat16().float()
        handed_on = normal(embedding) @ projection[:, : SHAPE.hidden].T
        x = normal(handed_on).bfloat16().float()
        scores = torch.sigmoid(x @ torch.from_numpy(tensors[ROUTER]).bfloat16().float().T)
        best, ids = scores.topk(SHAPE.experts_per_token, dim=1)
        return cls(
            tensors, handed_on, x, ids, best / best.sum(1, keepdim=True), torch.from_numpy(tensors["lm_head.weight"])
        )

    def logits(self, w1: Tensor, w3: Tensor, w2: Tensor) -> Tensor:
        """Of the draft after each token; matrices [experts, out, in]."""
        inner = torch.nn.functional.silu(self.x @ w1.mT) * (self.x @ w3.mT)
        made = inner @ w2.mT
        tokens = torch.arange(len(self.x))[:, None]
        mixed = (made[self.ids, tokens] * self.shares[..., None]).sum(1)
        return normal(self.handed_on + mixed) @ self.head.T


def normal(x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)


def trained(layer: Layer) -> Experts:
    """Deterministic: one seed, one thread, and no data except the vocabulary."""
    random = torch.Generator().manual_seed(6)
    sizes = {"w1": (SHAPE.expert, SHAPE.hidden), "w3": (SHAPE.expert, SHAPE.hidden), "w2": (SHAPE.hidden, SHAPE.expert)}
    weights = {
        name: (torch.randn(SHAPE.experts, *size, generator=random) * 0.1).requires_grad_()
        for name, size in sizes.items()
    }
    wanted = torch.tensor(Vocabulary.make().successors())
    wrong = torch.rand(len(wanted), generator=random) > RIGHT
    wanted[wrong] = wanted[wrong].roll(1)
    optimiser = torch.optim.Adam(weights.values(), lr=0.03)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
    for _ in range(STEPS):
        logits = layer.logits(*(through(weights[name]) for name in ("w1", "w3", "w2")))
        loss = torch.nn.functional.cross_entropy(logits, wanted)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return {
        f"mtp.0.ffn.experts.{expert}.{name}": Fp4Matrix.nearest(matrix[expert].detach())
        for name, matrix in weights.items()
        for expert in range(SHAPE.experts)
    }


def through(weights: Tensor) -> Tensor:
    """Straight-through estimator: FP4 values forward, an unchanged gradient backward."""
    flat = weights.detach().reshape(-1, weights.shape[2])
    return weights + (Fp4Matrix.nearest(flat).decoded().float().reshape(weights.shape) - weights).detach()


def write(folder: Path, layer: Layer, experts: Mapping[str, Tensor]) -> Path:
    """A checkpoint that vLLM serves on a CPU, under DeepSeek-V3's names; `experts` by their official stems."""
    folder.mkdir(parents=True)
    write_tokenizer(Vocabulary.make(), folder)
    (folder / "config.json").write_text(json.dumps(CONFIG, indent=1))
    tensors = dict(layer.tensors)
    for stem, values in experts.items():
        *_, expert, matrix = stem.split(".")
        name = f"{tiny_model.mtp_prefix(SHAPE)}mlp.experts.{expert}.{MATRICES[matrix]}.weight"
        tensors[name] = np.ascontiguousarray(values.float().numpy())
    bf16_safetensors.write(folder / "model.safetensors", tensors, keep_float32="e_score_correction_bias")
    return folder
