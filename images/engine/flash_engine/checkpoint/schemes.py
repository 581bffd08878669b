"""How one matrix is stored: the tensors that it becomes, by the way it is quantised.

Sources: `docs` are DeepSeek's own inference/model.py and convert.py; `CT` is compressed-tensors 0.17 (pack_quantized,
float_quantized, nvfp4_quantized); `MO` is vLLM 0.33.0's model_executor/layers/quantization/modelopt.py.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

FP8_BLOCK = 128
NARROW = ("BF16", "F16", "F32")
WIDE_TYPE = ("F32",)

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Part:
    """One stored tensor of a matrix of `rows` x `columns`, with scales for `group` columns each."""

    suffix: str
    types: tuple[str, ...]
    """As safetensors names them; any of them is right."""
    shape: Callable[[int, int, int], Shape]


@dataclass(frozen=True, eq=False)
class Scheme:
    """A way to store a matrix. The first part holds the weights."""

    name: str
    kind: str
    """What vLLM must build for it: plain, fp8, int4, mxfp4 or nvfp4."""
    group: int | None
    """Columns for each scale; None where the config says it."""
    parts: tuple[Part, ...]
    source: str


def _blocks(size: int) -> int:
    return -(-size // FP8_BLOCK)


_FP8_WEIGHT = Part(".weight", ("F8_E4M3",), lambda rows, columns, _: (rows, columns))

PLAIN = Scheme("BF16", "plain", 1, (Part(".weight", NARROW, lambda rows, columns, _: (rows, columns)),), "docs")
FP8_SCALE = Scheme(
    "FP8",
    "fp8",
    FP8_BLOCK,
    (_FP8_WEIGHT, Part(".scale", ("F8_E8M0", "F32"), lambda rows, columns, _: (_blocks(rows), _blocks(columns)))),
    "docs: weight e4m3, scale e8m0 (F32 in -Base) for each block of 128 x 128",
)
FP8_CT = Scheme(
    "FP8 (compressed-tensors)",
    "fp8",
    FP8_BLOCK,
    (
        _FP8_WEIGHT,
        Part(".weight_scale", (*NARROW, "F8_E8M0"), lambda rows, columns, _: (_blocks(rows), _blocks(columns))),
    ),
    "CT float-quantized, strategy block [128, 128]",
)
FP4 = Scheme(
    "FP4",
    "mxfp4",
    32,
    (
        Part(".weight", ("I8", "U8", "F4"), lambda rows, columns, _: (rows, columns // 2)),
        Part(".scale", ("F8_E8M0",), lambda rows, columns, group: (rows, columns // group)),
    ),
    "docs: two e2m1 in a byte, e8m0 scale for each 32 columns",
)
INT4 = Scheme(
    "INT4",
    "int4",
    None,
    (
        Part(".weight_packed", ("I32",), lambda rows, columns, _: (rows, columns // 8)),
        Part(".weight_scale", NARROW, lambda rows, columns, group: (rows, columns // group)),
        Part(".weight_shape", ("I64", "I32"), lambda *_: (2,)),
    ),
    "CT pack-quantized: eight codes in an int32, scale for each group of columns",
)
NVFP4_CT = Scheme(
    "NVFP4 (compressed-tensors)",
    "nvfp4",
    16,
    (
        Part(".weight_packed", ("U8",), lambda rows, columns, _: (rows, columns // 2)),
        Part(".weight_scale", ("F8_E4M3",), lambda rows, columns, group: (rows, columns // group)),
        Part(".weight_global_scale", ("F32",), lambda *_: (1,)),
        Part(".input_global_scale", ("F32",), lambda *_: (1,)),
    ),
    "CT nvfp4-pack-quantized",
)
NVFP4_MODELOPT = Scheme(
    "NVFP4",
    "nvfp4",
    16,
    (
        Part(".weight", ("U8",), lambda rows, columns, _: (rows, columns // 2)),
        Part(".weight_scale", ("F8_E4M3",), lambda rows, columns, group: (rows, columns // group)),
        Part(".weight_scale_2", ("F32",), lambda *_: ()),
        Part(".input_scale", ("F32",), lambda *_: ()),
    ),
    "MO ModelOptNvFp4FusedMoE.create_weights",
)

SCHEMES = (PLAIN, FP8_SCALE, FP8_CT, FP4, INT4, NVFP4_CT, NVFP4_MODELOPT)

SUFFIXES = frozenset(part.suffix for scheme in SCHEMES for part in scheme.parts)


def scheme_of(weight_suffix: str, weight_type: str, scale_suffixes: frozenset[str]) -> Scheme | None:
    """The scheme of a matrix whose weights are in `weight_suffix` and whose neighbours have `scale_suffixes`."""
    fitting = _fitting(weight_suffix, weight_type)
    exact = (scheme for scheme in fitting if {part.suffix for part in scheme.parts[1:]} == scale_suffixes)
    return next(exact, next(iter(fitting), None))


@lru_cache
def _fitting(weight_suffix: str, weight_type: str) -> tuple[Scheme, ...]:
    return tuple(
        scheme for scheme in SCHEMES if scheme.parts[0].suffix == weight_suffix and weight_type in scheme.parts[0].types
    )
