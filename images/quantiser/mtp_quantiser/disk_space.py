"""Checks in advance that there is enough disk space, because a full disk after minutes of work is found too late."""

import shutil
from math import prod
from pathlib import Path
from typing import Final

from mtp_quantiser.errors import QuantiserError
from mtp_quantiser.layout import MtpShape, TensorSpec

BYTES: Final = {"BF16": 2, "F32": 4, "F8_E4M3": 1, "I32": 4, "I64": 8}


def size_of(expected: TensorSpec) -> int:
    """In bytes."""
    return prod(expected.shape) * BYTES.get(expected.dtype, 4)


def bytes_to_write(shape: MtpShape) -> int:
    """The size of the finished experts plus the shard, which exist together for a while."""
    return 2 * sum(map(size_of, shape.product().values()))


def require_disk_space(folder: Path, needed: int) -> None:
    """Raises QuantiserError if space is lacking. What an interrupted run left in `folder` counts as written."""
    folder.mkdir(parents=True, exist_ok=True)
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    there = sum(path.stat().st_size for path in files)
    missing, free = max(0, needed - there), shutil.disk_usage(folder).free
    if missing > free:
        raise QuantiserError(
            f"{folder.parent} has {free / 1e9:.1f} GB free, but {missing / 1e9:.1f} GB are needed; free space there, "
            "then run the same command again"
        )
