"""Sources of other versions of vLLM, without their kernels, for a walk to put first on its path."""

import re
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import Final

from image_builder.debian import SetupError
from image_builder.layout import ROOT
from image_builder.progress import step
from torch_environments.installing import packages
from torch_environments.kept import Kept, key_of

CUDA_LOCK: Final = ROOT / "images/engine/requirements-cuda.lock"
OLDER_LOCK: Final = Path(__file__).with_name("older.lock")
FROM_CUDA: Final = ("vllm", "mistral-common", "pycountry")
"""vLLM itself, and what the CPU image does without: to check a configuration, vLLM imports its parsers of tools, and
with them Mistral's."""

KERNELS: Final = ("*.so", "vllm-rs")
PYTHON: Final = f"python{sys.version_info[0]}.{sys.version_info[1]}"


def cuda_vllm(cache: Path) -> Kept:
    key = key_of([Path(__file__)], cuda_pins(), PYTHON)
    return Kept("torch-cuda-vllm", key, partial(_make_sources, cache, "sources of the CUDA image's vLLM", cuda_pins()))


def older_vllm(cache: Path) -> Kept:
    """The oldest vLLM that the plugin supports."""
    pins = OLDER_LOCK.read_text()
    key = key_of([Path(__file__)], pins, PYTHON)
    return Kept("torch-older-vllm", key, partial(_make_sources, cache, "sources of the older vLLM", pins))


def _make_sources(cache: Path, message: str, pins: str, folder: Path) -> None:
    """The wheels are not kept: they hold 0.7 GB of kernels, and nobody else installs them."""
    lock = folder / "pins.lock"
    lock.write_text(pins)
    with step(f"torch: {message}"):
        packages(cache, lock, "--python", sys.executable, "--target", str(folder), downloads=folder / ".downloads")
    shutil.rmtree(folder / ".downloads")
    for kernel in [file for pattern in KERNELS for file in folder.rglob(pattern)]:
        kernel.unlink()


def cuda_pins() -> str:
    """The entries of FROM_CUDA in the CUDA lock, with their hashes."""
    lock = f"{CUDA_LOCK.read_text()}\n#"
    return "".join(_pin(lock, name) for name in FROM_CUDA)


def _pin(lock: str, name: str) -> str:
    found = re.search(rf"^{name}==.*?(?=^\S)", lock, re.MULTILINE | re.DOTALL)
    if found is None:
        raise SetupError(f"{CUDA_LOCK} pins no {name}: make the lock anew, as its .in file says")
    return found[0]
