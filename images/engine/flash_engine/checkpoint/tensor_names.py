"""A table of other tools' names for the same tensors, and what vLLM 0.33.0 does with each.

The plugin renames such tensors while loading, and `inspect` reports them; both use this table. The effects were
observed by running vLLM's loaders (tests/plugin). The names come from older transformers exports, AutoGPTQ-like
exporters and spliced checkpoints.
"""

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from operator import methodcaller
from typing import NamedTuple

from flash_engine.checkpoint.model_config import ModelConfig


@dataclass(frozen=True)
class RenameRule:
    """Rewrites names that match `pattern` to the canonical ones."""

    pattern: re.Pattern[str]
    canonical: str
    without_plugin: str


def _rule(pattern: str, canonical: str, without_plugin: str) -> RenameRule:
    return RenameRule(re.compile(pattern), canonical, without_plugin)


LOADS = "loads"
KEY_ERROR = "fails with a KeyError that names one of its own parameters"
SILENT = "silently ignores the tensor, so the head drafts noise"
MTP_VALUE_ERROR = 'fails with "MTP speculative decoding layer N weights missing"'

RENAME_RULES = (
    # First, because the rules below expect names without `model.`
    _rule(r"^model\.(?=mtp\.)", "", MTP_VALUE_ERROR),
    _rule(r"^model\.(?=(layers|norm|hc_head|embed)[._])", "", LOADS),
    _rule(r"^lm_head\.", "head.", LOADS),
    _rule(r"^embed_tokens\.", "embed.", LOADS),
    _rule(r"^(mtp\.\d+\.)mtp_block\.", r"\1", KEY_ERROR),
    _rule(r"^(mtp\.\d+\.)shared_head\.(?=norm\.|head\.)", r"\1", KEY_ERROR),
    _rule(r"^(mtp\.\d+\.)(embed|embed_tokens)\.weight$", r"\1emb.tok_emb.weight", KEY_ERROR),
    _rule(r"(\.ffn\.experts\.\d+\.)gate_proj\.", r"\1w1.", SILENT),
    _rule(r"(\.ffn\.experts\.\d+\.)up_proj\.", r"\1w3.", SILENT),
    _rule(r"(\.ffn\.experts\.\d+\.)down_proj\.", r"\1w2.", SILENT),
    _rule(r"(\.shared_experts\.)gate_proj\.", r"\1w1.", KEY_ERROR),
    _rule(r"(\.shared_experts\.)up_proj\.", r"\1w3.", KEY_ERROR),
    _rule(r"(\.shared_experts\.)down_proj\.", r"\1w2.", LOADS),
    _rule(r"\.gate\.e_score_correction_bias$", ".gate.bias", LOADS),
)

SCALE_RULES = {
    "compressed-tensors": _rule(r"\.(weight_scale_inv|scale)$", ".weight_scale", KEY_ERROR),
    "fp8": _rule(r"\.(weight_scale_inv|weight_scale)$", ".scale", KEY_ERROR),
}
"""By quant_method. In an fp8 checkpoint with NVFP4 experts `.weight_scale` is canonical; see `TensorNames`."""


class RenamedTensor(NamedTuple):
    """A tensor's name in the file, and its canonical name, which is DeepSeek's."""

    name_in_file: str
    canonical: str
    without_plugin: str


class TensorNames:
    """Finds the canonical names of one checkpoint's tensors."""

    def __init__(self, config: ModelConfig, names: Collection[str]) -> None:
        self._layers = config.layers
        self._drafters = config.mtp_layers or config.dspark_layers
        self._numbered_layer = re.compile(r"^(?:model\.)?layers\.(\d+)\.")
        scale = SCALE_RULES.get(config.quant_method)
        # NVFP4 has two scales per matrix. A stray second one does not make it NVFP4.
        second, first = (sum(map(methodcaller("endswith", end), names)) for end in (".weight_scale_2", ".weight_scale"))
        is_nvfp4 = second > 0 and 2 * second >= first
        self._scale_rule = None if is_nvfp4 and config.quant_method == "fp8" else scale
        scale_part = re.escape(scale.canonical.lstrip(".")) if scale else "weight_scale"
        parts = f"weight|weight_packed|weight_shape|{scale_part}"
        self._canonical_expert = re.compile(rf"(?:layers|mtp)\.(\d+)\.ffn\.experts\.\d+\.w[123]\.(?:{parts})")

    def resolve(self, name_in_file: str) -> RenamedTensor:
        """Find the canonical name, which may be the name in the file."""
        # A shortcut for nearly all of the hundred thousand names, which are checked before each start of an engine.
        expert = self._canonical_expert.fullmatch(name_in_file)
        if expert and int(expert[1]) < self._layers:
            return RenamedTensor(name_in_file, name_in_file, LOADS)
        name, effect = self._as_drafter(name_in_file)
        for rule in (*RENAME_RULES, *((self._scale_rule,) if self._scale_rule else ())):
            renamed = rule.pattern.sub(rule.canonical, name)
            if renamed != name:
                name, effect = renamed, worse_effect(effect, rule.without_plugin)
        return RenamedTensor(name_in_file, name, effect)

    def _as_drafter(self, name_in_file: str) -> tuple[str, str]:
        """vLLM numbers the drafter's layers after the model's; files call them `mtp.0`, `mtp.1`."""
        match = self._numbered_layer.match(name_in_file)
        number = int(match[1]) - self._layers if match else -1
        if match is None or not 0 <= number < self._drafters:
            return name_in_file, LOADS
        return f"mtp.{number}.{name_in_file[match.end() :]}", KEY_ERROR


def worse_effect(one: str, other: str) -> str:
    """The more serious of two effects; being ignored silently is the worst."""
    by_severity = (SILENT, MTP_VALUE_ERROR, KEY_ERROR, LOADS)
    return min(one, other, key=by_severity.index)


def canonical_names(names: TensorNames, found: Iterable[str]) -> Iterator[RenamedTensor]:
    """Resolve all names, in order. A tensor keeps its name if another one already has the canonical name."""
    names_in_file = set(found)
    for name in found:
        renamed = names.resolve(name)
        exists = renamed.canonical != name and renamed.canonical in names_in_file
        yield RenamedTensor(name, name, LOADS) if exists else renamed
