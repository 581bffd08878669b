"""Checkpoints that are broken in one way each, with the expected finding and the outcome with and without the plugin.

The rows come from users' reports, and from possible faults of splices, downloads and quantising tools.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fake_checkpoint import FakeCheckpoint, Tensor, write_shard

Outcome = Literal["loads", "error", "silent"]
"""silent: no error, but something is missing or wrong in memory."""


@dataclass(frozen=True)
class BrokenCheckpoint:
    """One way to break a checkpoint, and what is expected then."""

    name: str
    change: Callable[[FakeCheckpoint], None]
    code: str | None
    """The code of the finding; None if nothing is wrong, or if headers cannot show it."""
    severity: str
    without_plugin: Outcome
    """What vLLM does without the plugin."""
    names: str = ""
    """A name that the finding, or the plugin's error, must contain."""
    error_without_plugin: str = ""
    kind: str = "seed"
    after: Callable[[Path], None] | None = None
    """Changes the saved files."""
    shards: int = 1

    @property
    def served(self) -> bool:
        """Whether it is served with the plugin."""
        return self.severity in ("repaired", "note")

    def save(self, folder: Path) -> Path:
        made = FakeCheckpoint.make(self.kind)
        self.change(made)
        made.save(folder, shards=self.shards)
        if self.after:
            self.after(folder)
        return folder


def drop(*parts: str) -> Callable[[FakeCheckpoint], None]:
    return lambda made: made.drop(*parts)


def rename(old: str, new: str, within: str = "") -> Callable[[FakeCheckpoint], None]:
    def change(made: FakeCheckpoint) -> None:
        renamed = {n.replace(old, new) if within in n else n: tensor for n, tensor in made.tensors.items()}
        assert renamed.keys() != made.tensors.keys(), "nothing was renamed"
        made.tensors = renamed

    return change


def in_order(*changes: Callable[[FakeCheckpoint], None]) -> Callable[[FakeCheckpoint], None]:
    def change(made: FakeCheckpoint) -> None:
        for one in changes:
            one(made)

    return change


def reshape(name: str, shape: tuple[int, ...], kind: str | None = None) -> Callable[[FakeCheckpoint], None]:
    def change(made: FakeCheckpoint) -> None:
        made.tensors[name] = Tensor(kind or made.tensors[name].type, shape)

    return change


def fill(name: str, pattern: bytes) -> Callable[[FakeCheckpoint], None]:
    """Repeats one value everywhere."""

    def change(made: FakeCheckpoint) -> None:
        tensor = made.tensors[name]
        count = 1
        for size in tensor.shape:
            count *= size
        made.tensors[name] = Tensor(tensor.type, tensor.shape, pattern * count)

    return change


def config(**changes: Any) -> Callable[[FakeCheckpoint], None]:
    def change(made: FakeCheckpoint) -> None:
        for key, value in changes.items():
            if value is None:
                del made.config[key]
            else:
                made.config[key] = value

    return change


def targets(group: str, *wanted: str) -> Callable[[FakeCheckpoint], None]:
    def change(made: FakeCheckpoint) -> None:
        made.config["quantization_config"]["config_groups"][group]["targets"] = list(wanted)

    return change


def order(value: str) -> Callable[[FakeCheckpoint], None]:
    def change(made: FakeCheckpoint) -> None:
        made.config["quantization_config"]["config_groups"]["group_1"]["weights"]["actorder"] = value

    return change


def nothing(_made: FakeCheckpoint) -> None:
    pass


def add(name: str, kind: str, shape: tuple[int, ...]) -> Callable[[FakeCheckpoint], None]:
    def change(made: FakeCheckpoint) -> None:
        made.tensors[name] = Tensor(kind, shape)

    return change


def add_beside(within: str, beside: str, suffix: str) -> Callable[[FakeCheckpoint], None]:
    """A tensor with one value beside each that ends with `beside`."""

    def change(made: FakeCheckpoint) -> None:
        beside_which = [name for name in made.tensors if within in name and name.endswith(beside)]
        made.tensors.update({f"{name.removesuffix(beside)}{suffix}": Tensor("F32", (1,)) for name in beside_which})

    return change


def truncate(folder: Path) -> None:
    file = folder / "model.safetensors"
    with file.open("r+b") as opened:
        opened.truncate(file.stat().st_size - 1000)


def html_instead(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"<!DOCTYPE html><html>not found</html>")


def lose_a_shard(folder: Path) -> None:
    (folder / "model-00002-of-00002.safetensors").unlink()


def unlist_mtp(folder: Path) -> None:
    """Like a splice that forgot the index."""
    index = folder / "model.safetensors.index.json"
    read = json.loads(index.read_text())
    read["weight_map"] = {n: file for n, file in read["weight_map"].items() if not n.startswith("mtp.")}
    spliced = FakeCheckpoint.make("seed")
    mtp = {n: tensor for n, tensor in spliced.tensors.items() if n.startswith("mtp.")}
    write_shard(folder / "model-mtp-w4a16.safetensors", mtp, with_data=True)
    index.write_text(json.dumps(read))


def mtp_in_own_file(folder: Path) -> None:
    """Moves the drafter to its own file, like a splice. vLLM skips files without tensors for the model being loaded."""
    made = FakeCheckpoint.make("seed")
    draft = {n.replace("mtp.0.", "model.mtp.0."): one for n, one in made.tensors.items() if n.startswith("mtp.")}
    main = {n: one for n, one in made.tensors.items() if not n.startswith("mtp.")}
    files = {"model.safetensors": main, "mtp.safetensors": draft}
    for file, tensors in files.items():
        write_shard(folder / file, tensors, with_data=True)
    weight_map = {name: file for file, tensors in files.items() for name in tensors}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def duplicate_a_tensor(folder: Path) -> None:
    write_shard(folder / "again.safetensors", {"mtp.0.enorm.weight": Tensor("BF16", (256,))}, with_data=True)


EXPERT = "mtp.0.ffn.experts.2.w2"
MISSING = ("MissingTensor", "refused")

BROKEN_CHECKPOINTS = (
    BrokenCheckpoint("intact", nothing, None, "note", "loads"),
    BrokenCheckpoint(
        "MTP with its own copies of embedding and output matrix",
        in_order(add("mtp.0.head.weight", "BF16", (512, 256)), add("mtp.0.emb.tok_emb.weight", "BF16", (512, 256))),
        None, "note", "loads",
    ),
    BrokenCheckpoint(
        "router's bias under vLLM's name", rename("gate.bias", "gate.e_score_correction_bias"), None, "note", "loads"
    ),
    # The plugin repairs these.
    BrokenCheckpoint(
        "FP8 compressor", nothing, "Fp8Compressor", "repaired", "error",
        error_without_plugin="compressor.fused_wkv_wgate",
        kind="seed, FP8 compressor",
    ),
    BrokenCheckpoint(
        "config.json without topk_method", config(topk_method=None), "TopkMethod", "repaired", "error",
        error_without_plugin="e_score_correction_bias",
    ),
    BrokenCheckpoint(
        "attention scales under an older name", rename(".weight_scale", ".weight_scale_inv", within="attn."),
        "MisnamedTensor",
        "repaired", "error", names="weight_scale_inv", error_without_plugin="KeyError",
    ),
    BrokenCheckpoint(
        "attention scales under DeepSeek's name", rename(".weight_scale", ".scale", within="attn."), "MisnamedTensor",
        "repaired", "error", names=".scale for", error_without_plugin="KeyError",
    ),
    BrokenCheckpoint(
        "BF16 experts in MTP, targets match all experts", nothing, "QuantisationTargets", "repaired", "error",
        names="mtp.0.ffn.experts", error_without_plugin="w13_weight", kind="BF16 experts in MTP",
    ),
    BrokenCheckpoint(
        "BF16 MTP", nothing, "QuantisationTargets", "repaired", "error", names="mtp.0.attn", kind="BF16 MTP"
    ),
    BrokenCheckpoint(
        "targets are patterns of the file's names", targets("group_0", r"re:^layers\..*attn\..*",
        r"re:^mtp\.0\..*attn\..*"),
        "QuantisationTargets", "repaired", "error", error_without_plugin="KeyError",
    ),
    BrokenCheckpoint(
        "targets are literal names of the file",
        targets("group_1", r"re:.*layers\.[012]\.ffn\.experts\.\d+\.w[123]$",
                *(f"mtp.0.ffn.experts.{expert}.w{number}" for expert in range(4) for number in (1, 2, 3))),
        "QuantisationTargets", "repaired", "error", names="mtp.0.ffn.experts", error_without_plugin="KeyError",
    ),
    BrokenCheckpoint(
        "MTP experts under other names",
        in_order(*(rename(f".{old}.", f".{new}.", within="mtp.0.ffn.experts")
                   for old, new in (("w1", "gate_proj"), ("w2", "down_proj"), ("w3", "up_proj")))),
        "MisnamedTensor", "repaired", "silent", names="gate_proj",
    ),
    BrokenCheckpoint(
        "MTP with the prefix model.", rename("mtp.0.", "model.mtp.0."), "MisnamedTensor", "repaired", "error",
        error_without_plugin="weights missing from checkpoint",
    ),
    BrokenCheckpoint(
        "MTP with the prefix model., in its own file", nothing, "MisnamedTensor", "repaired", "error",
        error_without_plugin="weights missing from checkpoint", after=mtp_in_own_file,
    ),
    BrokenCheckpoint(
        "MTP as an additional layer", rename("mtp.0.", "model.layers.3."), "MisnamedTensor", "repaired", "error"
    ),
    BrokenCheckpoint(
        "MTP's embedding under another name", add("mtp.0.embed.weight", "BF16", (512, 256)), "MisnamedTensor",
        "repaired", "error", error_without_plugin="mtp_block.embed.weight",
    ),
    BrokenCheckpoint(
        "static activation order in config.json", order("static"), "ActivationOrder", "repaired", "loads",
        names="static"
    ),
    BrokenCheckpoint(
        "F32 tensor stored as BF16", reshape("mtp.0.hc_attn_fn", (24, 1024), "BF16"), "Downcast", "note", "loads",
        names="mtp.0.hc_attn_fn",
    ),
    BrokenCheckpoint(
        "scales of activations beside FP8 attention", add_beside("attn.", ".weight_scale", ".input_scale"),
        "SurplusTensor", "repaired", "error", names="attn.wq_a.input_scale", error_without_plugin="input_scale",
    ),
    # These cannot be repaired.
    BrokenCheckpoint("MTP without e_proj", drop("mtp.0.e_proj"), *MISSING, "silent", names="mtp.0.e_proj.weight"),
    BrokenCheckpoint(
        "MTP without a mixing tensor", drop("mtp.0.hc_ffn_fn"), *MISSING, "silent", names="mtp.0.hc_ffn_fn",
    ),
    BrokenCheckpoint(
        "MTP without its last norm", drop("mtp.0.norm.weight"), *MISSING, "silent", names="mtp.0.norm.weight",
    ),
    BrokenCheckpoint(
        "MTP without one matrix of one expert", drop(EXPERT), *MISSING, "silent", names=f"{EXPERT}.weight_packed",
    ),
    BrokenCheckpoint(
        "MTP without the scale of one matrix", drop(f"{EXPERT}.weight_scale"), *MISSING, "silent",
        names=f"{EXPERT}.weight_scale",
    ),
    BrokenCheckpoint(
        "MTP without experts", drop("mtp.0.ffn.experts"), *MISSING, "silent",
        names="mtp.0.ffn.experts.0.w1.weight_packed",
    ),
    BrokenCheckpoint(
        "MTP attention without a scale", drop("mtp.0.attn.wq_b.weight_scale"), *MISSING, "silent",
        names="mtp.0.attn.wq_b.weight_scale",
    ),
    BrokenCheckpoint(
        "MTP stripped", drop("mtp."), "MtpMissing", "refused", "error", names="stripped",
        error_without_plugin="weights missing from checkpoint",
    ),
    BrokenCheckpoint(
        "a layer's expert without a scale", drop("layers.1.ffn.experts.3.w1.weight_scale"), *MISSING, "silent",
        names="layers.1.ffn.experts.3.w1.weight_scale",
    ),
    BrokenCheckpoint(
        "a layer without a norm", drop("layers.2.attn_norm.weight"), *MISSING, "silent",
        names="layers.2.attn_norm.weight",
    ),
    BrokenCheckpoint(
        "a layer's attention without a scale", drop("layers.2.attn.wo_b.weight_scale"), *MISSING, "silent",
        names="layers.2.attn.wo_b.weight_scale",
    ),
    BrokenCheckpoint(
        "one scale for each row", reshape(f"{EXPERT}.weight_scale", (256, 1)), "WrongShape", "refused", "silent",
        names=f"{EXPERT}.weight_scale",
    ),
    BrokenCheckpoint(
        "matrix with half the columns", reshape("mtp.0.e_proj.weight", (256, 128)), "WrongShape", "refused", "error",
        names="mtp.0.e_proj.weight",
    ),
    BrokenCheckpoint(
        "INT4 codes stored as F32", reshape(f"{EXPERT}.weight_packed", (256, 32), "F32"), "WrongType", "refused",
        "silent", names=f"{EXPERT}.weight_packed",
    ),
    BrokenCheckpoint(
        "FP8 weights stored as U8", reshape("mtp.0.attn.wo_b.weight", (256, 256), "U8"), "WrongType", "refused",
        "silent", names="mtp.0.attn.wo_b.weight",
    ),
    BrokenCheckpoint(
        "NaN in scales", fill(f"{EXPERT}.weight_scale", b"\xc0\x7f"), None, "refused", "silent",
        names=f"{EXPERT}.weight_scale",
    ),
    BrokenCheckpoint(
        "NaN in block scales", fill("layers.0.attn.wq_a.scale", b"\xff"), None, "refused", "silent",
        names="layers.0.attn.wq_a.scale", kind="official",
    ),
    BrokenCheckpoint(
        "unknown tensor", add("mtp.0.adapter.weight", "BF16", (4, 4)), "UnknownTensor", "refused",
        "error", names="mtp.0.adapter.weight",
    ),
    BrokenCheckpoint(
        "config.json of a larger model", config(n_routed_experts=8), "PrunedExperts", "refused", "error",
        names="n_routed_experts 8",
    ),
    BrokenCheckpoint(
        "config.json without MTP layers", config(num_nextn_predict_layers=0), "UnknownTensor", "refused", "error",
        names="mtp.0.",
    ),
    BrokenCheckpoint(
        "config.json without quantization_config", config(quantization_config=None), "NoQuantisation", "refused",
        "error", names="quantization_config",
    ),
    BrokenCheckpoint(
        "activation order that vLLM no longer supports", order("group"), "ActivationOrder", "refused", "error",
        names="group",
    ),
    BrokenCheckpoint(
        "DSpark checkpoint, but MTP requested", nothing, "DsparkWanted", "refused", "error", names="DSpark",
        kind="DSpark",
    ),
    BrokenCheckpoint("truncated file", nothing, "TruncatedShard", "refused", "error", names="model.safetensors",
           after=truncate),
    BrokenCheckpoint("HTML error page instead of a file", nothing, "BadHeader", "refused", "error",
           names="model.safetensors", after=html_instead),
    BrokenCheckpoint("index names a missing file", nothing, "MissingShard", "refused", "error",
           names="model-00002-of-00002.safetensors", after=lose_a_shard, shards=2),
    BrokenCheckpoint("MTP spliced in, but not in the index", drop("mtp."), "UnlistedShard", "refused", "error",
           names="model-mtp-w4a16.safetensors", after=unlist_mtp, shards=2),
    BrokenCheckpoint("tensor in two files", nothing, "DuplicateTensor", "refused", "silent", names="mtp.0.enorm.weight",
           after=duplicate_a_tensor),
)  # fmt: skip


def page_rows() -> list[str]:
    """The rows of the table in docs/checkpoint.md."""
    outcomes = {"repaired": "repaired", "note": "loads", "refused": "refused by name"}
    return [f"| {row.name} | {row.without_plugin} | {outcomes[row.severity]} |" for row in BROKEN_CHECKPOINTS]
