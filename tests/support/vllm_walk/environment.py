"""The environment of a walk: the engine image's packages, and the vLLM that comes first on the path."""

import os
from dataclasses import dataclass
from pathlib import Path

import torch_environments.recipes as torch_environments
from image_builder.layout import ROOT

ENGINE = ROOT / "images/engine"


@dataclass(frozen=True)
class Environment:
    """Where it is."""

    folder: Path
    cuda_vllm: Path
    """The sources of the CUDA image's vLLM, without its kernels."""

    @property
    def python(self) -> Path:
        return self.folder / "bin/python"

    def variables(self, *path: Path, cuda: bool = True) -> dict[str, str]:
        """The environment of a program that runs in it, with our own code and `path` to import from."""
        ours = (ENGINE, *(ROOT / folder for folder in ("contracts", "tests/support", "hack")))
        sources = [*path, *([self.cuda_vllm] if cuda else []), *ours]
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("VLLM_", "HF_", "PYTHON"))}
        return {
            **kept,
            "PYTHONPATH": os.pathsep.join(map(str, sources)),
            "HF_HUB_OFFLINE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "OMP_NUM_THREADS": "1",
        }


def ensure(cache: Path | None = None) -> Environment:
    """Returns at once if it exists. Raises SetupError."""
    return Environment(*torch_environments.ensure("engine", "cuda-vllm", cache=cache))


def ensure_older(cache: Path | None = None) -> Path:
    """The sources of the oldest vLLM that the plugin supports, to be put first on the path."""
    (folder,) = torch_environments.ensure("older-vllm", cache=cache)
    return folder
