"""A DeepSeek-V4 with few layers, each of the real shapes, that recites its text; and how often its drafts are right.

    good      every draft is what the model says next
    half      every third token is followed by a wrong draft: half of the drafts of one token are right
    dead      the text is the same, and the MTP head's projection is zero: no draft is ever right
    lacking   one tensor of the MTP head is missing, which its headers show
    poisoned  one scale of the MTP head is NaN, which is detected only while the tensors are loaded

By construction, as in hack/tiny_model.py: every block's last matrix is zero, so that all streams of the residual are
the token's embedding, and the output matrix makes of that the token's successor. The head's projection hands on the
embedding of the token just said, and its block adds nothing. All other weights are noise: what they cost is real.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, get_args

import numpy as np

from bf16_safetensors import from_bf16, to_bf16
from fake_checkpoint import REAL, FakeCheckpoint, Tensor, noise, write_shard
from tiny_tokenizer import VOCABULARY, Vocabulary, write_tokenizer

Variant = Literal["good", "half", "dead", "lacking", "poisoned"]
VARIANTS: Final[tuple[Variant, ...]] = get_args(Variant)

SHALLOW: Final[dict[str, Any]] = {
    **REAL, "num_hidden_layers": 4, "num_hash_layers": 1, "compress_ratios": [0, 4, 128, 4, 0],
}  # fmt: skip
"""One layer of each kind and one more: 17 GiB with all 256 experts."""

PROJECTION: Final = "mtp.0.e_proj.weight"
POISONED: Final = "mtp.0.attn.wq_a.weight_scale"
HEAD_OF_ITS_OWN: Final = (PROJECTION, POISONED)
"""The part in which the variants differ, in a file of its own. Hard links share the other files."""

ONE_BF16: Final = b"\x80\x3f"
NAN_BF16: Final = b"\xc0\x7f"
INT4_ZEROS: Final = 0x88
"""Packed INT4 is stored with 8 added, so this is two zeros."""


def build(root: Path, sizes: Mapping[str, Any] = SHALLOW) -> Path:
    """Write all variants below `root`, and return it. The large files are written once."""
    made = FakeCheckpoint.make("seed", sizes)
    fill(made)
    layers: dict[str, dict[str, Tensor]] = {}
    for name, tensor in made.tensors.items():
        if name not in HEAD_OF_ITS_OWN:
            layers.setdefault(file_of(name), {})[name] = tensor
    first = root / VARIANTS[0]
    first.mkdir(parents=True)
    for file, tensors in layers.items():
        write_shard(first / file, tensors, with_data=True)
    for variant in VARIANTS:
        write_variant(root / variant, variant, made, layers, first)
    return root


def file_of(name: str) -> str:
    parts = name.split(".")
    part = "-".join(parts[:2]) if parts[0] in ("layers", "mtp") else "top"
    return f"model-{part}.safetensors"


def write_variant(
    folder: Path, variant: Variant, made: FakeCheckpoint, layers: Mapping[str, Mapping[str, Tensor]], first: Path
) -> None:
    folder.mkdir(exist_ok=True)
    own = {name: made.tensors[name] for name in HEAD_OF_ITS_OWN}
    match variant:
        case "half":
            own[PROJECTION] = misleading(own[PROJECTION], made.tensors["embed.weight"])
        case "dead":
            own[PROJECTION] = zeros(own[PROJECTION])
        case "lacking":
            del own[PROJECTION]
        case "poisoned":
            own[POISONED] = repeated(own[POISONED], NAN_BF16)
    for file in layers if folder != first else ():
        os.link(first / file, folder / file)
    write_shard(folder / "model-head.safetensors", own, with_data=True)
    weight_map = {name: file for file, tensors in layers.items() for name in tensors}
    weight_map |= dict.fromkeys(own, "model-head.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (folder / "config.json").write_text(json.dumps(made.config, indent=1))
    write_tokenizer(Vocabulary.make(), folder)


def fill(made: FakeCheckpoint) -> None:
    """Give every tensor its data. Tensors of one kind and shape share theirs: experts are many, and all alike."""
    random = np.random.default_rng(0)
    shared: dict[object, Tensor] = {}
    for name, tensor in list(made.tensors.items()):
        kind = (tensor.type, tensor.shape, name.rpartition(".")[2], is_last_of_block(name))
        message = decided(name, tensor, made) or shared.get(kind)
        if message is None:
            message = shared[kind] = filled(name, tensor, random)
        made.tensors[name] = message
    embedding = random.standard_normal((VOCABULARY, made.config["hidden_size"]), dtype=np.float32)
    head = np.empty_like(embedding)
    head[Vocabulary.make().successors()] = embedding * np.float32(0.1)
    for name, rows in (("embed.weight", embedding), ("head.weight", head)):
        made.tensors[name] = padded(made.tensors[name], to_bf16(rows).tobytes())


def misleading(projection: Tensor, embedding: Tensor) -> Tensor:
    """One that takes every third token for its successor, and hands on the others as they are.

    A draft that is accepted skips a token and one that is not does not, so from wherever a text starts, every second
    draft of one token is soon one that begins at a third token.
    """
    order = Vocabulary.make().successors()
    raw = np.frombuffer(embedding.data or b"", np.uint16)
    rows = from_bf16(raw).reshape(embedding.shape)[: len(order)]
    mistaken = mistaken_tokens(order)
    known, taken_for = rows[mistaken], rows[[order[token] for token in mistaken]]
    lengths = (known**2).sum(axis=1, keepdims=True)
    matrix = np.eye(projection.shape[0], dtype=np.float32) + (taken_for - known).T @ (known / lengths)
    return Tensor(projection.type, projection.shape, to_bf16(matrix).tobytes())


def mistaken_tokens(order: Sequence[int]) -> list[int]:
    """Every third token of each ring in which they follow one another."""
    left, mistaken = set(range(len(order))), []
    while left:
        ring = [min(left)]
        while order[ring[-1]] != ring[0]:
            ring.append(order[ring[-1]])
        mistaken += ring[2::3]
        left -= set(ring)
    return mistaken


def decided(name: str, tensor: Tensor, made: FakeCheckpoint) -> Tensor | None:
    """The values that the construction needs; None for noise."""
    if name == PROJECTION:
        return Tensor(tensor.type, tensor.shape, to_bf16(np.eye(tensor.shape[0], dtype=np.float32)).tobytes())
    if name.endswith("norm.weight"):
        return repeated(tensor, ONE_BF16)
    if name.endswith(".weight_shape"):
        rows, packed = made.tensors[name.replace(".weight_shape", ".weight_packed")].shape
        return Tensor(tensor.type, tensor.shape, np.array([rows, packed * 8], np.int64).tobytes())
    if name.endswith(".tid2eid"):
        return Tensor(tensor.type, tensor.shape, distinct_experts(tensor, made.config["n_routed_experts"]))
    if is_last_of_block(name):
        return repeated(tensor, bytes([INT4_ZEROS])) if name.endswith("_packed") else zeros(tensor)
    return None


def is_last_of_block(name: str) -> bool:
    """Of the matrices, not of their scales: those stay noise."""
    weights = name.endswith((".weight", ".weight_packed"))
    return weights and (name == "mtp.0.h_proj.weight" or ".attn.wo_b." in name or ".w2." in name)


def filled(name: str, tensor: Tensor, random: np.random.Generator) -> Tensor:
    if tensor.type == "F8_E4M3":
        # No exponent above that of 1: sums of thousands stay far from what BF16 can hold.
        small = np.frombuffer(random.bytes(tensor.size_bytes), np.uint8) & np.uint8(0xBF)
        return Tensor(tensor.type, tensor.shape, small.tobytes())
    return Tensor(tensor.type, tensor.shape, noise(name, tensor, random))


def distinct_experts(tensor: Tensor, experts: int) -> bytes:
    """For each token, as many different experts as it is routed to."""
    tokens, chosen = tensor.shape
    table = (np.arange(tokens)[:, None] * chosen + np.arange(chosen)) % experts
    return table.astype(np.int32 if tensor.type == "I32" else np.int64).tobytes()


def zeros(tensor: Tensor) -> Tensor:
    return Tensor(tensor.type, tensor.shape, bytes(tensor.size_bytes))


def repeated(tensor: Tensor, value: bytes) -> Tensor:
    return Tensor(tensor.type, tensor.shape, value * (tensor.size_bytes // len(value)))


def padded(tensor: Tensor, rows: bytes) -> Tensor:
    """With zeros for the tokens that the tokenizer does not know."""
    return Tensor(tensor.type, tensor.shape, rows + bytes(tensor.size_bytes - len(rows)))
