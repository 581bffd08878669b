"""Names that other tools give to the same tensors, and what vLLM 0.33.0 does with each.

The plugin renames them while it loads, `inspect` tells of them; both by this table. Seen by walking vLLM's loaders
(tests/plugin), the names in facts of quantising tools: older transformers exports, AutoGPTQ-like exporters, splices.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from flash_engine.checkpoint.model_config import ModelConfig


@dataclass(frozen=True)
class Spelling:
    """One way to misspell, and the right one."""

    pattern: re.Pattern[str]
    right: str
    without_plugin: str


def _spelling(pattern: str, right: str, without_plugin: str) -> Spelling:
    return Spelling(re.compile(pattern), right, without_plugin)


LOADS = "loads"
KEY_ERROR = "ends with a KeyError that names a parameter of its own"
SILENT = "leaves the tensor out without a word: the head drafts noise"
MTP_VALUE_ERROR = 'ends with "MTP speculative decoding layer N weights missing"'

SPELLINGS = (
    # Before what follows, which knows no `model.`
    _spelling(r"^model\.(?=mtp\.)", "", MTP_VALUE_ERROR),
    _spelling(r"^model\.(?=(layers|norm|hc_head|embed)[._])", "", LOADS),
    _spelling(r"^lm_head\.", "head.", LOADS),
    _spelling(r"^embed_tokens\.", "embed.", LOADS),
    _spelling(r"^(mtp\.\d+\.)mtp_block\.", r"\1", KEY_ERROR),
    _spelling(r"^(mtp\.\d+\.)shared_head\.(?=norm\.|head\.)", r"\1", KEY_ERROR),
    _spelling(r"^(mtp\.\d+\.)(embed|embed_tokens)\.weight$", r"\1emb.tok_emb.weight", KEY_ERROR),
    _spelling(r"(\.ffn\.experts\.\d+\.)gate_proj\.", r"\1w1.", SILENT),
    _spelling(r"(\.ffn\.experts\.\d+\.)up_proj\.", r"\1w3.", SILENT),
    _spelling(r"(\.ffn\.experts\.\d+\.)down_proj\.", r"\1w2.", SILENT),
    _spelling(r"(\.shared_experts\.)gate_proj\.", r"\1w1.", KEY_ERROR),
    _spelling(r"(\.shared_experts\.)up_proj\.", r"\1w3.", KEY_ERROR),
    _spelling(r"(\.shared_experts\.)down_proj\.", r"\1w2.", LOADS),
    _spelling(r"\.gate\.e_score_correction_bias$", ".gate.bias", LOADS),
)

SCALES = {
    "compressed-tensors": _spelling(r"\.(weight_scale_inv|scale)$", ".weight_scale", KEY_ERROR),
    "fp8": _spelling(r"\.(weight_scale_inv|weight_scale)$", ".scale", KEY_ERROR),
}
"""By quant_method. In an fp8 checkpoint whose experts are NVFP4 `.weight_scale` is the right name; see `Names`."""


class Renamed(NamedTuple):
    """A tensor that the file has under `written`, and DeepSeek under `right`."""

    written: str
    right: str
    without_plugin: str


class Names:
    """The right name of each tensor of one checkpoint."""

    def __init__(self, config: ModelConfig, names: Iterable[str]) -> None:
        self._layers = config.layers
        self._drafters = config.mtp_layers or config.dspark_layers
        self._late = re.compile(r"^(?:model\.)?layers\.(\d+)\.")
        scale = SCALES.get(config.quant_method)
        is_nvfp4 = any(name.endswith(".weight_scale_2") for name in names)
        self._scale = None if is_nvfp4 and config.quant_method == "fp8" else scale
        parts = f"weight|weight_packed|weight_shape|{re.escape(scale.right.lstrip('.')) if scale else 'weight_scale'}"
        self._usual = re.compile(rf"(?:layers|mtp)\.(\d+)\.ffn\.experts\.\d+\.w[123]\.(?:{parts})")

    def right(self, written: str) -> Renamed:
        """Itself where there is nothing to rename."""
        # Nearly all tensors are an expert's, and a hundred thousand of them are looked at before an engine starts.
        usual = self._usual.fullmatch(written)
        if usual and int(usual[1]) < self._layers:
            return Renamed(written, written, LOADS)
        name, effect = self._as_drafter(written)
        for spelling in SPELLINGS:
            changed = spelling.pattern.sub(spelling.right, name)
            if changed != name:
                name, effect = changed, worse(effect, spelling.without_plugin)
        if self._scale and self._scale.pattern.search(name):
            changed = self._scale.pattern.sub(self._scale.right, name)
            if changed != name:
                name, effect = changed, worse(effect, self._scale.without_plugin)
        return Renamed(written, name, effect)

    def _as_drafter(self, written: str) -> tuple[str, str]:
        """vLLM's own name for the drafter's layers goes on counting; files have `mtp.`."""
        match = self._late.match(written)
        number = int(match[1]) - self._layers if match else -1
        if match is None or not 0 <= number < self._drafters:
            return written, LOADS
        return f"mtp.{number}.{written[match.end() :]}", KEY_ERROR


def worse(one: str, other: str) -> str:
    """Of two effects the one that matters: silence first."""
    order = (SILENT, MTP_VALUE_ERROR, KEY_ERROR, LOADS)
    return min(one, other, key=order.index)


def renaming(names: Names, found: Iterable[str]) -> Iterator[Renamed]:
    """The right names, in order; a right name that is there already is never taken by a wrong one."""
    written = set(found)
    for name in found:
        renamed = names.right(name)
        taken = renamed.right != name and renamed.right in written
        yield Renamed(name, name, LOADS) if taken else renamed
