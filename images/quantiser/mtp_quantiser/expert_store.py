"""Stores finished experts on disk, one file each, so that an interrupted run can resume.

`state.json` records the inputs. A run with another source, capture or setting is refused instead of being mixed in.
"""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mtp_quantiser.checkpoint import read_json
from mtp_quantiser.errors import OtherInputsError, QuantiserError

STATE: Final = "state.json"
FIGURES: Final = "figures"
READABLE: Final = 0o644
"""safetensors creates files that only their owner can read, but the engine runs as another user than the Job."""


@dataclass(frozen=True)
class ExpertStore:
    folder: Path

    @classmethod
    def open(cls, folder: Path, made_from: Mapping[str, Any], *, restart: bool) -> "ExpertStore":
        """Raises OtherInputsError if the folder contains experts made from other inputs."""
        store = cls(folder)
        if restart and folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        before = read_json(folder / STATE)["madeFrom"] if (folder / STATE).exists() else None
        if before is None:
            write_json(folder / STATE, {"madeFrom": dict(made_from)})
        elif before != dict(made_from):
            changed = sorted(key for key in {*before, *made_from} if before.get(key) != made_from.get(key))
            raise OtherInputsError(
                f"{folder} contains experts made from other inputs ({', '.join(changed)} changed); "
                "give the same inputs as before, or pass --restart"
            )
        return store

    @property
    def batch(self) -> int | None:
        """The batch size of the finished experts. Resuming with another size could change a last bit."""
        size = read_json(self.folder / STATE).get("batch")
        return int(size) if size is not None else None

    def keep_batch(self, size: int) -> None:
        write_json(self.folder / STATE, {**read_json(self.folder / STATE), "batch": size})

    def path(self, expert: int) -> Path:
        return self.folder / f"expert-{expert:03}.safetensors"

    def has(self, expert: int) -> bool:
        """Whether the file is complete. A crash leaves only temporary files, which are renamed when complete."""
        try:
            with safe_open(self.path(expert), "pt") as file:
                return bool(file.keys())
        except (FileNotFoundError, SafetensorError):
            return False

    def save(self, expert: int, tensors: Mapping[str, Tensor], figures: Mapping[str, Any]) -> None:
        metadata = {FIGURES: json.dumps(figures)}
        write_atomically(self.path(expert), lambda path: save_file(dict(tensors), path, metadata=metadata))

    def figures(self, expert: int) -> dict[str, Any]:
        with safe_open(self.path(expert), "pt") as file:
            found = json.loads(file.metadata()[FIGURES])
        assert isinstance(found, dict)  # noqa: S101 - written by save()
        return found

    def tensors(self, expert: int) -> dict[str, Tensor]:
        with safe_open(self.path(expert), "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping

    def remove(self) -> None:
        shutil.rmtree(self.folder)


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Write a temporary file beside `path` and rename it, so that a reader sees all of it or nothing.

    Raises QuantiserError if the disk is full or the folder cannot be written, after removing the temporary file.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(unfinished)
        with unfinished.open("rb") as done:
            os.fsync(done.fileno())
        unfinished.chmod(READABLE)
        unfinished.replace(path)
    except (OSError, SafetensorError) as error:
        raise QuantiserError(
            f"{path} cannot be written ({error}); free space there, then run the same command again"
        ) from error
    finally:
        unfinished.unlink(missing_ok=True)


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    write_atomically(path, lambda unfinished: unfinished.write_text(json.dumps(document, indent=1) + "\n"))
