"""The quantisation schemes: which tensors store a matrix.

Sources: `docs` are DeepSeek's own inference/model.py and convert.py; `CT` is compressed-tensors 0.17 (pack_quantized,
float_quantized, nvfp4_quantized); `MO` is vLLM 0.33.0's model_executor/layers/quantization/modelopt.py.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

FP8_BLOCK = 128
NARROW = ("BF16", "F16", "F32")
WIDE_TYPE = ("F32",)

Shape = tuple[int, ...]


@dataclass(frozen=True)
class TensorPart:
    """One of the tensors of a stored matrix. `shape` takes rows, columns and the columns that share a scale."""

    suffix: str
    types: tuple[str, ...]
    """The allowed types, by their safetensors names."""
    shape: Callable[[int, int, int], Shape]


@dataclass(frozen=True, eq=False)
class Scheme:
    """A way to store a matrix. The first of `parts` contains the weights."""

    name: str
    kind: str
    """The kind of layer that vLLM must build: plain, fp8, int4, mxfp4 or nvfp4."""
    group: int | None
    """Columns that share a scale; None if config.json says how many."""
    parts: tuple[TensorPart, ...]
    source: str
    packed: int = 1
    """Columns of the matrix in each element of the stored weights."""

    def fits(self, weight: Shape, companions: Mapping[str, Shape], group: int) -> bool:
        """Whether the companion tensors have shapes that match the weights. `group` applies if the scheme has none."""
        if len(weight) != 2:  # noqa: PLR2004 - a matrix
            return False
        rows, columns = weight[0], weight[1] * self.packed
        wanted = {part.suffix: part.shape(rows, columns, self.group or group) for part in self.parts[1:]}
        return all(companions.get(suffix, shape) == shape for suffix, shape in wanted.items())


def _blocks(size: int) -> int:
    return -(-size // FP8_BLOCK)


_FP8_WEIGHT = TensorPart(".weight", ("F8_E4M3",), lambda rows, columns, _: (rows, columns))

PLAIN = Scheme("BF16", "plain", 1, (TensorPart(".weight", NARROW, lambda rows, columns, _: (rows, columns)),), "docs")
FP8_SCALE = Scheme(
    "FP8",
    "fp8",
    FP8_BLOCK,
    (_FP8_WEIGHT, TensorPart(".scale", ("F8_E8M0", "F32"), lambda rows, columns, _: (_blocks(rows), _blocks(columns)))),
    "docs: weight e4m3, scale e8m0 (F32 in -Base) for each block of 128 x 128",
)
FP8_CT = Scheme(
    "FP8 (compressed-tensors)",
    "fp8",
    FP8_BLOCK,
    (
        _FP8_WEIGHT,
        TensorPart(".weight_scale", (*NARROW, "F8_E8M0"), lambda rows, columns, _: (_blocks(rows), _blocks(columns))),
    ),
    "CT float-quantized, strategy block [128, 128]",
)
FP4 = Scheme(
    "FP4",
    "mxfp4",
    32,
    (
        TensorPart(".weight", ("I8", "U8", "F4"), lambda rows, columns, _: (rows, columns // 2)),
        TensorPart(".scale", ("F8_E8M0",), lambda rows, columns, group: (rows, columns // group)),
    ),
    "docs: two e2m1 in a byte, e8m0 scale for each 32 columns",
    packed=2,
)
INT4 = Scheme(
    "INT4",
    "int4",
    None,
    (
        TensorPart(".weight_packed", ("I32",), lambda rows, columns, _: (rows, columns // 8)),
        TensorPart(".weight_scale", NARROW, lambda rows, columns, group: (rows, columns // group)),
        TensorPart(".weight_shape", ("I64", "I32"), lambda *_: (2,)),
    ),
    "CT pack-quantized: eight codes in an int32, scale for each group of columns",
    packed=8,
)
NVFP4_CT = Scheme(
    "NVFP4 (compressed-tensors)",
    "nvfp4",
    16,
    (
        TensorPart(".weight_packed", ("U8",), lambda rows, columns, _: (rows, columns // 2)),
        TensorPart(".weight_scale", ("F8_E4M3",), lambda rows, columns, group: (rows, columns // group)),
        TensorPart(".weight_global_scale", ("F32",), lambda *_: (1,)),
        TensorPart(".input_global_scale", ("F32",), lambda *_: (1,)),
    ),
    "CT nvfp4-pack-quantized",
    packed=2,
)
NVFP4_MODELOPT = Scheme(
    "NVFP4",
    "nvfp4",
    16,
    (
        TensorPart(".weight", ("U8",), lambda rows, columns, _: (rows, columns // 2)),
        TensorPart(".weight_scale", ("F8_E4M3",), lambda rows, columns, group: (rows, columns // group)),
        TensorPart(".weight_scale_2", ("F32",), lambda *_: ()),
        TensorPart(".input_scale", ("F32",), lambda *_: ()),
    ),
    "MO ModelOptNvFp4FusedMoE.create_weights",
    packed=2,
)

NVFP4A16_CT = Scheme(
    "NVFP4A16",
    "nvfp4",
    16,
    NVFP4_CT.parts[:-1],
    "CT nvfp4-pack-quantized, input_activations null: weights alone are quantised",
    packed=2,
)

SCHEMES = (PLAIN, FP8_SCALE, FP8_CT, FP4, INT4, NVFP4_CT, NVFP4A16_CT, NVFP4_MODELOPT)

SUFFIXES = frozenset(part.suffix for scheme in SCHEMES for part in scheme.parts)

SURPLUS = (
    ".input_scale",
    ".input_global_scale",
    ".output_scale",
    ".input_zero_point",
    ".k_scale",
    ".v_scale",
    ".q_scale",
)
"""Scales of activations and of the KV cache, which some tools write although the model does not use them."""


def match_scheme(weight_suffix: str, weight_type: str, scale_suffixes: frozenset[str]) -> Scheme | None:
    """The scheme of a matrix with weights in `weight_suffix` and other tensors `scale_suffixes`; None if unknown.

    Unrelated tensors do not matter: the scheme with the most of its own tensors present wins. A matrix without any of
    them may have lost them; one with only others is stored in another way.
    """
    fitting = _fitting(weight_suffix, weight_type)
    complete = [scheme for scheme in fitting if _companions(scheme) <= scale_suffixes]
    if complete:
        return max(complete, key=lambda scheme: len(scheme.parts))
    partial = [scheme for scheme in fitting if _companions(scheme) & scale_suffixes]
    return next(iter(partial), None if scale_suffixes.difference(SURPLUS) else next(iter(fitting), None))


def _companions(scheme: Scheme) -> set[str]:
    return {part.suffix for part in scheme.parts[1:]}


@lru_cache
def _fitting(weight_suffix: str, weight_type: str) -> tuple[Scheme, ...]:
    return tuple(
        scheme for scheme in SCHEMES if scheme.parts[0].suffix == weight_suffix and weight_type in scheme.parts[0].types
    )
