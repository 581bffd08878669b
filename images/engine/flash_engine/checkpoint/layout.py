"""Detects the layout of a checkpoint: for each role, the scheme in which most of its matrices are stored.

It goes by the majority, so that it recognises the layout even if some tensors are missing or wrong.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache

from flash_engine.checkpoint.headers import StoredTensor
from flash_engine.checkpoint.model_config import ModelConfig
from flash_engine.checkpoint.schemes import (
    FP4,
    FP8_CT,
    FP8_SCALE,
    INT4,
    NVFP4_CT,
    NVFP4_MODELOPT,
    NVFP4A16_CT,
    PLAIN,
    Scheme,
    Shape,
    TensorPart,
    match_scheme,
)
from flash_engine.checkpoint.tensors import Entry, PlainTensor, Role, WeightMatrix, drafter, main_model

SERVABLE = (
    "official FP4/FP8",
    "official FP8 (Base)",
    "W4A16-FP8",
    "W4A16",
    "NVFP4-FP8",
    "NVFP4-FP8 (compressed-tensors)",
    "NVFP4A16-FP8",
    "NVFP4A16",
)
"""Families of layouts that vLLM and the plugin load."""

UNQUANTISED: tuple[Role, ...] = ("compressor", "indexer weights")
"""Roles that vLLM never quantises, whatever the config says (0.33.0: compressor.py:276, attention.py:1001)."""

LOADED_PLAIN = ("plain", "fp8")
"""Kinds in which those roles can be loaded: the plugin converts FP8 to BF16."""

DEFAULT_GROUP = 128
MTP_PREFIX = "mtp."
WEIGHTS = (".weight_packed", ".weight")
_COPIES = (".head.weight", ".emb.tok_emb.weight")
"""A drafter's own copies of the model's tensors. Tools that strip the head leave them in place."""

_ROLES: tuple[tuple[str, Role], ...] = (
    (r"ffn\.experts\.\d+\.w[123]$", "experts"),
    (r"ffn\.shared_experts\.w[123]$", "shared experts"),
    (r"compressor\.(?:wkv|wgate)$", "compressor"),
    (r"attn\.(?:wq_a|wq_b|wkv|wo_a|wo_b)$", "attention"),
    (r"indexer\.wq_b$", "indexer query"),
    (r"indexer\.weights_proj$", "indexer weights"),
    (r"\.(?:e_proj|h_proj|main_proj)$", "projection"),
)
_LATER_EXPERT = re.compile(r"\.experts\.\d\d")
"""Only experts 0 to 9 of each layer count: nearly all of a hundred thousand tensors belong to experts."""

_MODULE = re.compile("|".join(f"({pattern})" for pattern, _ in _ROLES))


@dataclass(frozen=True)
class ExpectedTensor:
    """Types and shape of a tensor that the checkpoint should have."""

    types: tuple[str, ...]
    shape: Shape
    source: str
    optional: bool = False


@dataclass(frozen=True)
class Layout:
    """The scheme of each role, for the model and for its drafter."""

    main: Mapping[Role, Scheme]
    draft: Mapping[Role, Scheme] = field(default_factory=dict)
    group: int = DEFAULT_GROUP
    """Columns that share one INT4 scale."""
    has_drafter: bool = False
    """Whether the checkpoint has any tensor of a drafter."""
    is_dspark: bool = False

    def scheme(self, name: str, role: Role) -> Scheme:
        """The scheme of a role. One not seen in the drafter is stored as in the model; one not seen at all is plain."""
        side = self.draft if name.startswith(MTP_PREFIX) else self.main
        return side.get(role) or self.main.get(role) or PLAIN

    @property
    def family(self) -> str:
        """The usual name of a checkpoint with these schemes of routed experts and attention."""
        experts = self.main.get("experts")
        if experts is None:
            return "unknown"
        attention = self.main.get("attention", PLAIN)
        names = {
            (FP4, FP8_SCALE): "official FP4/FP8",
            (FP8_SCALE, FP8_SCALE): "official FP8 (Base)",
            (INT4, FP8_CT): "W4A16-FP8",
            (INT4, PLAIN): "W4A16",
            (NVFP4_CT, FP8_CT): "NVFP4-FP8 (compressed-tensors)",
            (NVFP4A16_CT, FP8_CT): "NVFP4A16-FP8",
            (NVFP4A16_CT, PLAIN): "NVFP4A16",
            (NVFP4_MODELOPT, FP8_SCALE): "NVFP4-FP8",
            (PLAIN, PLAIN): "BF16",
        }
        return names.get((experts, attention), "unknown")

    @property
    def built_plain(self) -> list[Role]:
        """Roles that vLLM builds plain, but that are stored in a way that neither vLLM nor the plugin can load."""
        sides = (self.main, self.draft)
        return [role for side in sides for role in UNQUANTISED if role in side and side[role].kind not in LOADED_PLAIN]

    @property
    def name(self) -> str:
        return self.family if self.family == "unknown" else f"{self.family}, {self._drafter_name}"

    @property
    def _drafter_name(self) -> str:
        if not self.has_drafter:
            return "MTP stripped"
        kind = "DSpark drafter" if self.is_dspark else "MTP"
        experts = self.draft.get("experts")
        return f"{experts.name} {kind}" if experts else f"{kind} without experts"

    def expected(self, entries: Iterable[Entry]) -> Iterator[tuple[str, ExpectedTensor]]:
        """Every tensor, by name, that stores a part of `entries`."""
        shapes: dict[tuple[int, int, str], list[tuple[str, ExpectedTensor]]] = {}
        for entry in entries:
            if isinstance(entry, PlainTensor):
                yield entry.name, ExpectedTensor(entry.types, entry.shape, entry.source, entry.optional)
                continue
            scheme = self.scheme(entry.name, entry.role)
            key = (entry.rows, entry.columns, scheme.name)
            if key not in shapes:
                shapes[key] = [(part.suffix, self._stored(entry, scheme, part)) for part in scheme.parts]
            for suffix, tensor in shapes[key]:
                yield f"{entry.name}{suffix}", tensor

    def _stored(self, matrix: WeightMatrix, scheme: Scheme, part: TensorPart) -> ExpectedTensor:
        shape = part.shape(matrix.rows, matrix.columns, scheme.group or self.group)
        return ExpectedTensor(part.types, shape, f"{matrix.source}; {scheme.source}")


def expected_of(config: ModelConfig, layout: Layout) -> Iterator[tuple[str, ExpectedTensor]]:
    """All tensors of one checkpoint, including the drafter's if it has a drafter."""
    yield from layout.expected(main_model(config))
    if layout.has_drafter:
        yield from layout.expected(drafter(config))


def detect_layout(config: ModelConfig, tensors: Mapping[str, StoredTensor]) -> Layout:
    """`tensors` are by canonical name."""
    modules: dict[str, dict[str, StoredTensor]] = {}
    for name, stored in tensors.items():
        if not _LATER_EXPERT.search(name):
            module, _, part = name.rpartition(".")
            modules.setdefault(module, {})[f".{part}"] = stored
    group = _group(config)
    votes: dict[tuple[bool, Role], Counter[Scheme]] = {}
    fitting: Counter[tuple[bool, Role, Scheme]] = Counter()
    for module, parts in modules.items():
        role, weight = role_of(module), next((one for one in WEIGHTS if one in parts), None)
        if role is None or weight is None:
            continue
        scheme = match_scheme(weight, parts[weight].type, frozenset(parts) - {weight})
        if scheme:
            side = module.startswith(MTP_PREFIX)
            votes.setdefault((side, role), Counter())[scheme] += 1
            shapes = {suffix: stored.shape for suffix, stored in parts.items()}
            fitting[side, role, scheme] += scheme.fits(shapes[weight], shapes, group)
    decided: dict[tuple[bool, Role], Scheme] = {}
    for (side, role), counted in votes.items():
        scheme, count = counted.most_common(1)[0]
        is_usual = 2 * fitting[side, role, scheme] >= count
        decided[side, role] = _as_configured(scheme, config) if is_usual else _of_another_shape(scheme)
    return Layout(
        main={role: scheme for (is_draft, role), scheme in decided.items() if not is_draft},
        draft={role: scheme for (is_draft, role), scheme in decided.items() if is_draft},
        group=group,
        has_drafter=any(name.startswith(MTP_PREFIX) and not name.endswith(_COPIES) for name in tensors),
        is_dspark=config.dspark_layers > 0,
    )


def _as_configured(scheme: Scheme, config: ModelConfig) -> Scheme:
    """Settles what tensors leave open: the name of missing scales, and whether NVFP4 applies to weights alone."""
    if scheme is FP8_SCALE and config.quant_method == "compressed-tensors":
        return FP8_CT
    groups = config.nvfp4_groups
    if scheme not in (NVFP4_CT, NVFP4A16_CT) or not groups:
        return scheme
    return NVFP4_CT if any(group.get("input_activations") for group in groups) else NVFP4A16_CT


@lru_cache
def _of_another_shape(scheme: Scheme) -> Scheme:
    """A scheme of no known layout, with one scale per row or tensor, or with other groups."""
    return replace(scheme, name=f"{scheme.name} with scales of another shape", kind="unknown")


def role_of(module: str) -> Role | None:
    match = _MODULE.search(module)
    return _ROLES[(match.lastindex or 1) - 1][1] if match else None


def _group(config: ModelConfig) -> int:
    for group in config.quantisation_groups:
        weights = group.get("weights")
        if isinstance(weights, dict) and weights.get("type") == "int" and isinstance(weights.get("group_size"), int):
            return max(1, int(weights["group_size"]))
    return DEFAULT_GROUP
