"""Reads and validates the header of one safetensors file.

Format: https://github.com/huggingface/safetensors, "Format": the header's length as a little-endian u64, the header as
JSON, the data. The safetensors library validates it when it opens a file, so vLLM accepts what it accepts. To read no
more than the header, the library is given a file in memory with the same size and header, and a hole for the data.
"""

import json
import os
from collections.abc import Sequence
from typing import Any

from safetensors import SafetensorError, safe_open

from flash_engine.checkpoint.checkpoint_files import CheckpointFiles

LENGTH_BYTES = 8
HEADER_LIMIT = 100_000_000
"""The safetensors library rejects longer headers too."""

SIZE_LIMIT = 1 << 44
"""16 TiB. A header that describes more is damaged; the kernel could not map such a file either."""

METADATA = "__metadata__"

TEXTS = (
    (b"version https://git-lfs", "a Git LFS pointer; the file itself was not downloaded (git lfs pull)"),
    (b"<", "an HTML or XML page, such as a server's error or a login page"),
    (b"{", "JSON text, such as a server's error message"),
)
"""Kinds of text files, by their first characters. Every valid length contains a zero byte, and no text does."""

CONTENTS = (
    (b"GGUF", "a GGUF file under another name"),
    (b"PK\x03\x04", "a zip archive, such as PyTorch's format, under another name"),
    (b"\x1f\x8b", "compressed with gzip"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd"),
    (b"\x80\x02", "a Python pickle under another name"),
    (bytes(8), "only zeros at its start, as left by an interrupted download"),
)
"""Kinds of other files, by their first bytes."""


class HeaderError(ValueError):
    """The file is not a valid safetensors file; the message says why."""


class TruncatedError(HeaderError):
    """The file ends before its data does."""


def read_header(files: CheckpointFiles, name: str) -> dict[str, Any]:
    """The entries of all tensors: dtype, shape and data_offsets, all valid.

    Raises HeaderError, and CheckpointError if the file cannot be read.
    """
    size = files.sizes[name]
    start = files.read(name, 0, LENGTH_BYTES)
    if not size or not start:
        raise TruncatedError("the file is empty")
    length = int.from_bytes(start, "little")
    is_impossible = len(start) < LENGTH_BYTES or not 2 <= length <= HEADER_LIMIT  # noqa: PLR2004 - `{}`
    if is_impossible or length > size - LENGTH_BYTES:
        content = _content(files.read(name, 0, 32))
        if content or is_impossible:
            raise HeaderError(content or f"a header of {length:,} bytes in a file of {size:,}")
    text = files.read(name, LENGTH_BYTES, length)
    if len(text) < length:
        raise TruncatedError(f"it has {size:,} bytes, and its header alone {length:,}: the file is truncated")
    problem = _problem(start + text, size)
    if problem:
        raise _explained(problem, start + text, size)
    entries: dict[str, Any] = json.loads(text)
    entries.pop(METADATA, None)
    if text.count(b'"data_offsets"') != len(entries):
        _refuse_repetition(text)
    return entries


def _content(start: bytes) -> str | None:
    is_text = 0 not in start[:LENGTH_BYTES]
    kinds = ((start.lstrip(), TEXTS) if is_text else (b"", ()), (start, CONTENTS))
    found = next((what for text, known in kinds for prefix, what in known if text.startswith(prefix)), None)
    return f"it is {found}" if found else None


def _problem(header: bytes, size: int) -> str | None:
    """The library's objection to this header in a file of `size` bytes; None if it is valid."""
    descriptor = os.memfd_create("safetensors-header")
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(header)
        os.ftruncate(descriptor, size)
        with safe_open(f"/proc/self/fd/{descriptor}", "np"):
            return None
    except (SafetensorError, OSError, OverflowError) as error:
        return str(error).removeprefix("Error while deserializing header: ")
    finally:
        os.close(descriptor)


def _explained(problem: str, header: bytes, size: int) -> HeaderError:
    """Explain the problem. If the header is valid for another file size, the file is too short or too long."""
    described = len(header) + _data_bytes(header[LENGTH_BYTES:])
    if described in (len(header), size) or described > SIZE_LIMIT or _problem(header, described):
        return HeaderError(problem)
    if size < described:
        return TruncatedError(f"it has {size:,} bytes, but its header says {described:,}: the file is truncated")
    return HeaderError(f"it has {size:,} bytes, {size - described:,} more than its header describes")


def _data_bytes(text: bytes) -> int:
    """The end of the last tensor's data; 0 if the header does not contain it."""
    try:
        entries = json.loads(text)
        ends = [entry["data_offsets"][1] for name, entry in entries.items() if name != METADATA]
        return max((int(end) for end in ends), default=0)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError, RecursionError):
        return 0


def _refuse_repetition(text: bytes) -> None:
    """Reject duplicate names, of which the library and Python's parser keep only the last. Raises HeaderError."""

    def unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for name, value in pairs:
            if name in made:
                raise HeaderError(f"it has two entries of {name}")
            made[name] = value
        return made

    json.loads(text, object_pairs_hook=unique)
