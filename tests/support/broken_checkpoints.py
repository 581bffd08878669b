"""Checkpoints that went wrong, each in one way: what is found, what vLLM does with it alone, and what with the plugin.

The rows are those of which people have told, and those that a splice, a download or a tool can make.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fake_checkpoint import Lookalike, Tensor, write_shard

Outcome = Literal["loads", "error", "silent"]
"""silent: no error, and something is missing or wrong in memory."""


@dataclass(frozen=True)
class Spoilt:
    """One row."""

    name: str
    spoil: Callable[[Lookalike], None]
    code: str | None
    """Of the finding; None where nothing is wrong, or it cannot be seen in headers."""
    severity: str
    alone: Outcome
    """vLLM without the plugin."""
    names: str = ""
    """What the finding, or the plugin's error, must name."""
    alone_says: str = ""
    kind: str = "seed"
    after: Callable[[Path], None] | None = None
    """What is done to the saved files."""
    shards: int = 1

    @property
    def served(self) -> bool:
        """With the plugin."""
        return self.severity in ("repaired", "note")

    def save(self, folder: Path) -> Path:
        made = Lookalike.make(self.kind)
        self.spoil(made)
        made.save(folder, shards=self.shards)
        if self.after:
            self.after(folder)
        return folder


def drop(*parts: str) -> Callable[[Lookalike], None]:
    return lambda made: made.drop(*parts)


def rename(old: str, new: str, within: str = "") -> Callable[[Lookalike], None]:
    def change(made: Lookalike) -> None:
        renamed = {n.replace(old, new) if within in n else n: tensor for n, tensor in made.tensors.items()}
        assert renamed.keys() != made.tensors.keys(), "nothing was renamed"
        made.tensors = renamed

    return change


def in_order(*changes: Callable[[Lookalike], None]) -> Callable[[Lookalike], None]:
    def change(made: Lookalike) -> None:
        for one in changes:
            one(made)

    return change


def reshape(name: str, shape: tuple[int, ...], kind: str | None = None) -> Callable[[Lookalike], None]:
    def change(made: Lookalike) -> None:
        made.tensors[name] = Tensor(kind or made.tensors[name].type, shape)

    return change


def fill(name: str, pattern: bytes) -> Callable[[Lookalike], None]:
    """With one value all over."""

    def change(made: Lookalike) -> None:
        tensor = made.tensors[name]
        count = 1
        for size in tensor.shape:
            count *= size
        made.tensors[name] = Tensor(tensor.type, tensor.shape, pattern * count)

    return change


def config(**changes: Any) -> Callable[[Lookalike], None]:
    def change(made: Lookalike) -> None:
        for key, value in changes.items():
            if value is None:
                del made.config[key]
            else:
                made.config[key] = value

    return change


def targets(group: str, *wanted: str) -> Callable[[Lookalike], None]:
    def change(made: Lookalike) -> None:
        made.config["quantization_config"]["config_groups"][group]["targets"] = list(wanted)

    return change


def order(value: str) -> Callable[[Lookalike], None]:
    def change(made: Lookalike) -> None:
        made.config["quantization_config"]["config_groups"]["group_1"]["weights"]["actorder"] = value

    return change


def nothing(_made: Lookalike) -> None:
    pass


def add(name: str, kind: str, shape: tuple[int, ...]) -> Callable[[Lookalike], None]:
    def change(made: Lookalike) -> None:
        made.tensors[name] = Tensor(kind, shape)

    return change


def cut_off(folder: Path) -> None:
    file = folder / "model.safetensors"
    with file.open("r+b") as opened:
        opened.truncate(file.stat().st_size - 1000)


def no_header(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"<!DOCTYPE html><html>not found</html>")


def lose_a_shard(folder: Path) -> None:
    (folder / "model-00002-of-00002.safetensors").unlink()


def unlist_mtp(folder: Path) -> None:
    """As a splice that forgot the index."""
    index = folder / "model.safetensors.index.json"
    read = json.loads(index.read_text())
    read["weight_map"] = {n: file for n, file in read["weight_map"].items() if not n.startswith("mtp.")}
    spliced = Lookalike.make("seed")
    mtp = {n: tensor for n, tensor in spliced.tensors.items() if n.startswith("mtp.")}
    write_shard(folder / "model-mtp-w4a16.safetensors", mtp, with_data=True)
    index.write_text(json.dumps(read))


def apart(folder: Path) -> None:
    """The drafter in a file of its own, as a splice leaves it: vLLM passes over a file that has nothing for a model."""
    made = Lookalike.make("seed")
    draft = {n.replace("mtp.0.", "model.mtp.0."): one for n, one in made.tensors.items() if n.startswith("mtp.")}
    main = {n: one for n, one in made.tensors.items() if not n.startswith("mtp.")}
    files = {"model.safetensors": main, "mtp.safetensors": draft}
    for file, tensors in files.items():
        write_shard(folder / file, tensors, with_data=True)
    weight_map = {name: file for file, tensors in files.items() for name in tensors}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def twice(folder: Path) -> None:
    write_shard(folder / "again.safetensors", {"mtp.0.enorm.weight": Tensor("BF16", (256,))}, with_data=True)


EXPERT = "mtp.0.ffn.experts.2.w2"
MISSING = ("MissingTensor", "refused")

SPOILT = (
    Spoilt("whole", nothing, None, "note", "loads"),
    Spoilt(
        "with the head's own copies of embedding and output matrix",
        in_order(add("mtp.0.head.weight", "BF16", (512, 256)), add("mtp.0.emb.tok_emb.weight", "BF16", (512, 256))),
        None, "note", "loads",
    ),
    Spoilt(
        "router's bias under vLLM's name", rename("gate.bias", "gate.e_score_correction_bias"), None, "note", "loads"
    ),
    # What the plugin mends.
    Spoilt(
        "FP8 compressor", nothing, "Fp8Compressor", "repaired", "error", alone_says="compressor.fused_wkv_wgate",
        kind="seed, FP8 compressor",
    ),
    Spoilt(
        "no topk_method", config(topk_method=None), "TopkMethod", "repaired", "error",
        alone_says="e_score_correction_bias",
    ),
    Spoilt(
        "scales under older names", rename(".weight_scale", ".weight_scale_inv", within="attn."), "MisnamedTensor",
        "repaired", "error", names="weight_scale_inv", alone_says="KeyError",
    ),
    Spoilt(
        "scales under DeepSeek's own name", rename(".weight_scale", ".scale", within="attn."), "MisnamedTensor",
        "repaired", "error", names=".scale for", alone_says="KeyError",
    ),
    Spoilt(
        "experts of MTP in BF16 under broad targets", nothing, "QuantisationTargets", "repaired", "error",
        names="mtp.0.ffn.experts", alone_says="w13_weight", kind="BF16 experts in MTP",
    ),
    Spoilt(
        "all of MTP in BF16", nothing, "QuantisationTargets", "repaired", "error", names="mtp.0.attn", kind="BF16 MTP"
    ),
    Spoilt(
        "targets with the file's names", targets("group_0", r"re:^layers\..*attn\..*", r"re:^mtp\.0\..*attn\..*"),
        "QuantisationTargets", "repaired", "error", alone_says="KeyError",
    ),
    Spoilt(
        "targets that are single names of the file",
        targets("group_1", r"re:.*layers\.[012]\.ffn\.experts\.\d+\.w[123]$",
                *(f"mtp.0.ffn.experts.{expert}.w{number}" for expert in range(4) for number in (1, 2, 3))),
        "QuantisationTargets", "repaired", "error", names="mtp.0.ffn.experts", alone_says="KeyError",
    ),
    Spoilt(
        "experts of MTP under other names",
        in_order(*(rename(f".{old}.", f".{new}.", within="mtp.0.ffn.experts")
                   for old, new in (("w1", "gate_proj"), ("w2", "down_proj"), ("w3", "up_proj")))),
        "MisnamedTensor", "repaired", "silent", names="gate_proj",
    ),
    Spoilt(
        "MTP with a prefix", rename("mtp.0.", "model.mtp.0."), "MisnamedTensor", "repaired", "error",
        alone_says="weights missing from checkpoint",
    ),
    Spoilt(
        "MTP with a prefix, in another file", nothing, "MisnamedTensor", "repaired", "error",
        alone_says="weights missing from checkpoint", after=apart,
    ),
    Spoilt(
        "MTP as one more layer", rename("mtp.0.", "model.layers.3."), "MisnamedTensor", "repaired", "error"
    ),
    Spoilt(
        "MTP's embedding under another name", add("mtp.0.embed.weight", "BF16", (512, 256)), "MisnamedTensor",
        "repaired", "error", alone_says="mtp_block.embed.weight",
    ),
    Spoilt(
        "static order that is written down", order("static"), "ActivationOrder", "repaired", "loads", names="static"
    ),
    Spoilt(
        "wide tensors saved narrow", reshape("mtp.0.hc_attn_fn", (24, 1024), "BF16"), "Downcast", "note", "loads",
        names="mtp.0.hc_attn_fn",
    ),
    # What nothing can mend.
    Spoilt("MTP without e_proj", drop("mtp.0.e_proj"), *MISSING, "silent", names="mtp.0.e_proj.weight"),
    Spoilt("MTP without a mixing tensor", drop("mtp.0.hc_ffn_fn"), *MISSING, "silent", names="mtp.0.hc_ffn_fn"),
    Spoilt("MTP without its last norm", drop("mtp.0.norm.weight"), *MISSING, "silent", names="mtp.0.norm.weight"),
    Spoilt("MTP without one matrix of one expert", drop(EXPERT), *MISSING, "silent", names=f"{EXPERT}.weight_packed"),
    Spoilt(
        "MTP without the scale of one matrix", drop(f"{EXPERT}.weight_scale"), *MISSING, "silent",
        names=f"{EXPERT}.weight_scale",
    ),
    Spoilt(
        "MTP without all experts", drop("mtp.0.ffn.experts"), *MISSING, "silent",
        names="mtp.0.ffn.experts.0.w1.weight_packed",
    ),
    Spoilt(
        "MTP's attention without a scale", drop("mtp.0.attn.wq_b.weight_scale"), *MISSING, "silent",
        names="mtp.0.attn.wq_b.weight_scale",
    ),
    Spoilt(
        "MTP stripped", drop("mtp."), "MtpMissing", "refused", "error", names="stripped",
        alone_says="weights missing from checkpoint",
    ),
    Spoilt(
        "one expert of a layer without a scale", drop("layers.1.ffn.experts.3.w1.weight_scale"), *MISSING, "silent",
        names="layers.1.ffn.experts.3.w1.weight_scale",
    ),
    Spoilt(
        "a layer without a norm", drop("layers.2.attn_norm.weight"), *MISSING, "silent",
        names="layers.2.attn_norm.weight",
    ),
    Spoilt(
        "a layer without a scale of its attention", drop("layers.2.attn.wo_b.weight_scale"), *MISSING, "silent",
        names="layers.2.attn.wo_b.weight_scale",
    ),
    Spoilt(
        "scales for whole rows", reshape(f"{EXPERT}.weight_scale", (256, 1)), "WrongShape", "refused", "silent",
        names=f"{EXPERT}.weight_scale",
    ),
    Spoilt(
        "a matrix that is half as wide", reshape("mtp.0.e_proj.weight", (256, 128)), "WrongShape", "refused", "error",
        names="mtp.0.e_proj.weight",
    ),
    Spoilt(
        "codes stored as floats", reshape(f"{EXPERT}.weight_packed", (256, 32), "F32"), "WrongType", "refused",
        "silent", names=f"{EXPERT}.weight_packed",
    ),
    Spoilt(
        "FP8 weights stored as bytes", reshape("mtp.0.attn.wo_b.weight", (256, 256), "U8"), "WrongType", "refused",
        "silent", names="mtp.0.attn.wo_b.weight",
    ),
    Spoilt(
        "scales that are no numbers", fill(f"{EXPERT}.weight_scale", b"\xc0\x7f"), None, "refused", "silent",
        names=f"{EXPERT}.weight_scale",
    ),
    Spoilt(
        "block scales that are no numbers", fill("layers.0.attn.wq_a.scale", b"\xff"), None, "refused", "silent",
        names="layers.0.attn.wq_a.scale", kind="official",
    ),
    Spoilt(
        "a tensor that nobody knows", add("mtp.0.adapter.weight", "BF16", (4, 4)), "UnknownTensor", "refused",
        "error", names="mtp.0.adapter.weight",
    ),
    Spoilt(
        "config.json of a larger model", config(n_routed_experts=8), *MISSING, "error", names="layers.0.ffn.experts.4"
    ),
    Spoilt(
        "config.json that speaks of no MTP", config(num_nextn_predict_layers=0), "UnknownTensor", "refused", "error",
        names="mtp.0.",
    ),
    Spoilt(
        "config.json without quantization_config", config(quantization_config=None), "NoQuantisation", "refused",
        "error", names="quantization_config",
    ),
    Spoilt("an order that is gone", order("group"), "ActivationOrder", "refused", "error", names="group"),
    Spoilt(
        "a DSpark checkpoint, and MTP wanted", nothing, "DsparkWanted", "refused", "error", names="DSpark",
        kind="DSpark",
    ),
    Spoilt("a file that was cut off", nothing, "TruncatedShard", "refused", "error", names="model.safetensors",
           after=cut_off),
    Spoilt("a page of a proxy in place of a file", nothing, "BadHeader", "refused", "error",
           names="model.safetensors", after=no_header),
    Spoilt("an index that names a missing file", nothing, "MissingShard", "refused", "error",
           names="model-00002-of-00002.safetensors", after=lose_a_shard, shards=2),
    Spoilt("MTP spliced in, and not in the index", drop("mtp."), "UnlistedShard", "refused", "error",
           names="model-mtp-w4a16.safetensors", after=unlist_mtp, shards=2),
    Spoilt("a tensor in two files", nothing, "DuplicateTensor", "refused", "silent", names="mtp.0.enorm.weight",
           after=twice),
)  # fmt: skip


def page_rows() -> list[str]:
    """As docs/checkpoint.md has them."""
    treated = {"repaired": "mended", "note": "loads", "refused": "refused by name"}
    return [f"| {row.name} | {row.alone} | {treated[row.severity]} |" for row in SPOILT]
