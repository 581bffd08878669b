"""Writes a safetensors file of bfloat16 tensors from float32 arrays.

numpy has no bfloat16, and the safetensors package writes only numpy's types. The format is simple enough to write here
(https://github.com/huggingface/safetensors, "Format"): the header's length as a little-endian u64, the header as JSON,
the data.
"""

import json
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def to_bf16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Rounds to nearest even, and keeps the upper half of each float32. Not for NaN."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    rounding = np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    return ((bits + rounding) >> np.uint32(16)).astype(np.uint16)


def from_bf16(values: NDArray[np.uint16]) -> NDArray[np.float32]:
    return (values.astype(np.uint32) << np.uint32(16)).view(np.float32)


def write(path: Path, tensors: Mapping[str, NDArray[np.float32]], *, keep_float32: str) -> None:
    """Tensors whose names end in `keep_float32` stay float32, like DeepSeek's router bias."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    data = bytearray()
    for name, values in sorted(tensors.items()):
        wide = name.endswith(keep_float32)
        raw = values.astype("<f4").tobytes() if wide else to_bf16(values).tobytes()
        offsets = [len(data), len(data) + len(raw)]
        header[name] = {"dtype": "F32" if wide else "BF16", "shape": list(values.shape), "data_offsets": offsets}
        data += raw
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
