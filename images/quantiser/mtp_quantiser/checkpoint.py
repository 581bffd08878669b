"""A checkpoint's folder: the shard of each tensor, and its header. Values are read on demand."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError, safe_open
from torch import Tensor

from mtp_quantiser.errors import QuantiserError
from mtp_quantiser.layout import TensorSpec

INDEX: Final = "model.safetensors.index.json"
SINGLE: Final = "model.safetensors"
CONFIG: Final = "config.json"


@dataclass(frozen=True)
class Checkpoint:
    folder: Path
    shard_of: dict[str, str]
    """Tensor name to file name."""

    @classmethod
    def open(cls, folder: Path) -> "Checkpoint":
        """Raises QuantiserError if there is neither an index nor a single file."""
        if (folder / INDEX).is_file():
            return cls(folder, dict(read_json(folder / INDEX).get("weight_map", {})))
        if (folder / SINGLE).is_file():
            with opened(folder / SINGLE) as file:
                return cls(folder, dict.fromkeys(file.keys(), SINGLE))
        raise QuantiserError(f"{folder} has neither {INDEX} nor {SINGLE}; give the folder of a whole checkpoint")

    @cached_property
    def config(self) -> dict[str, Any]:
        return read_json(self.folder / CONFIG)

    def names(self, prefix: str) -> list[str]:
        return sorted(name for name in self.shard_of if name.startswith(prefix))

    def header(self, names: list[str]) -> dict[str, TensorSpec]:
        """Type and shape of tensors. Raises QuantiserError if a shard is missing or truncated."""
        found: dict[str, TensorSpec] = {}
        for path, wanted in self.by_shard(names):
            with opened(path) as file:
                present = set(file.keys())
                for name in wanted:
                    if name not in present:
                        raise QuantiserError(
                            f"{path.name} does not contain {name}, although the index says so; download it again"
                        )
                    part = file.get_slice(name)
                    found[name] = TensorSpec(part.get_dtype(), tuple(part.get_shape()))
        return found

    def read(self, names: list[str]) -> Iterator[tuple[str, Tensor]]:
        """Tensors on the CPU, shard by shard."""
        for path, wanted in self.by_shard(names):
            with opened(path) as file:
                for name in wanted:
                    yield name, file.get_tensor(name)

    def tensor(self, name: str) -> Tensor:
        return next(self.read([name]))[1]

    def by_shard(self, names: list[str]) -> Iterator[tuple[Path, list[str]]]:
        shards: dict[str, list[str]] = {}
        for name in names:
            if name not in self.shard_of:
                raise QuantiserError(f"{self.folder} has no tensor {name}")
            shards.setdefault(self.shard_of[name], []).append(name)
        for shard in sorted(shards):
            yield self.folder / shard, shards[shard]


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A safetensors file. Raises QuantiserError if it is missing, truncated or damaged."""
    try:
        file = safe_open(path, "pt")
    except FileNotFoundError as error:
        raise QuantiserError(f"{path} is missing; download the checkpoint again") from error
    except SafetensorError as error:
        raise QuantiserError(f"{path} is truncated or damaged ({error}); download it again") from error
    with file as entered:
        yield entered


def read_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise QuantiserError(f"{path} is missing; give the folder of a whole checkpoint") from error
    except ValueError as error:
        raise QuantiserError(f"{path} is not JSON ({error}); download it again") from error
    if not isinstance(document, dict):
        raise QuantiserError(f"{path} is not a JSON object; download it again")
    return document
