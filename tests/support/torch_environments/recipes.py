"""What the environments with torch are made of.

There is one torch. `engine` has the packages of the CPU engine image, with that image's stubs in place of CUDA's
libraries (0.9 GB and not 5). `quantiser` stands on it and adds what its tests need beside: Triton, pytest, and a newer
judge of the format. `cuda-vllm` and `older-vllm` are sources alone, for a walk to put before the engine's own.
"""

import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Final

from image_builder.layout import ROOT, cache_root
from image_builder.progress import step
from torch_environments import kept
from torch_environments.installing import packages, require_compiler, run
from torch_environments.kept import Kept, key_of
from torch_environments.vllm_sources import cuda_vllm, older_vllm

ENGINE: Final = ROOT / "images/engine"
CPU_LOCK: Final = ENGINE / "requirements-cpu.lock"
QUANTISER_LOCK: Final = ROOT / "images/quantiser/requirements-cpu.lock"

BUILD_STEPS: Final = ("cuda_stubs.py", "prune.py", "patch_vllm.py", "check.py")
INSTALLING: Final = Path(__file__).with_name("installing.py")
STEP_FILES: Final = (
    *(ENGINE / "cpu" / name for name in (*BUILD_STEPS, "needed_at_import.cpp")),
    Path(__file__),
    INSTALLING,
)
PYTHON: Final = f"python{sys.version_info[0]}.{sys.version_info[1]}"


def ensure(*names: str, cache: Path | None = None) -> list[Path]:
    """The folders of these names, made where they are not there yet. Raises SetupError."""
    cache = cache or cache_root()
    for name in names:
        kept.ensure(cache, [RECIPES[needed](cache) for needed in (*NEEDS.get(name, ()), name)])
    return [RECIPES[name](cache).folder(cache) for name in names]


def engine(cache: Path) -> Kept:
    return Kept("torch-engine", key_of([CPU_LOCK, *STEP_FILES], PYTHON), partial(_make_engine, cache))


def _make_engine(cache: Path, folder: Path) -> None:
    require_compiler()
    python = _new_venv(cache, folder)
    with step("torch: packages of the CPU engine image"):
        packages(cache, CPU_LOCK, "--python", str(python))
    with step("torch: stubs in place of CUDA libraries"):
        for program in BUILD_STEPS:
            run(cache, [str(python), str(ENGINE / "cpu" / program)])


def quantiser(cache: Path) -> Kept:
    below = engine(cache)
    make = partial(_make_quantiser, cache, below.folder(cache))
    return Kept("torch-quantiser", key_of([QUANTISER_LOCK, Path(__file__)], below.key), make)


def _make_quantiser(cache: Path, below: Path, folder: Path) -> None:
    """Its own packages come before those of the engine's environment, which a line of a .pth file adds to the path."""
    python = _new_venv(cache, folder)
    (folder / "lib" / PYTHON / "site-packages/engine.pth").write_text(f"{below / 'lib' / PYTHON / 'site-packages'}\n")
    with step("torch: what the quantiser's tests need beside"):
        packages(cache, QUANTISER_LOCK, "--python", str(python))


def _new_venv(cache: Path, folder: Path) -> Path:
    run(cache, [sys.executable, "-m", "venv", "--without-pip", str(folder)])
    return folder / "bin/python"


RECIPES: Final[Mapping[str, Callable[[Path], Kept]]] = {
    "engine": engine, "cuda-vllm": cuda_vllm, "older-vllm": older_vllm, "quantiser": quantiser,
}  # fmt: skip
NEEDS: Final[Mapping[str, tuple[str, ...]]] = {"quantiser": ("engine",)}
