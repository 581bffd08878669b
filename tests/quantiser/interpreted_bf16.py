"""BF16 for Triton's interpreter, which rounds it towards zero and multiplies its bit patterns as if they were integers.

Only with this do kernels compute on a CPU what they compute on a GPU. Triton 3.6 and 3.7, runtime/interpreter.py.
"""

from typing import Any

import numpy as np
import triton.language as tl
from triton.runtime import interpreter

_theirs = interpreter._convert_float  # noqa: SLF001 - the function that is mended


def to_bf16(values: Any) -> Any:
    """The bit patterns of FP32 `values`, rounded to the nearest BF16, halves to even."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def from_bf16(bits: Any) -> Any:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def convert(values: Any, source: Any, target: Any, rounding: Any) -> Any:
    if source == tl.float32 and target == tl.bfloat16:
        return to_bf16(values)
    if source == tl.bfloat16 and target == tl.float32:
        return from_bf16(values).view(np.uint32)
    return _theirs(values, source, target, rounding)


def dot(_builder: Any, a: Any, b: Any, total: Any, _precision: Any, _imprecise: Any) -> Any:
    left, right = (from_bf16(part.data) if part.dtype == tl.bfloat16 else part.data for part in (a, b))
    product = np.matmul(left, right, dtype=np.float32) + total.data
    return interpreter.TensorHandle(product, total.dtype.scalar)


def mend() -> None:
    interpreter._convert_float = convert  # noqa: SLF001 - likewise
    interpreter.InterpreterBuilder.create_dot = dot
