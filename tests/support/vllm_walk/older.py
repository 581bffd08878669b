"""The sources of the oldest vLLM that the plugin supports, kept in the project's cache and checked by hash."""

import hashlib
import shutil
import sys
from pathlib import Path
from typing import Final

from image_builder.layout import cache_root
from vllm_walk.environment import _install, _locked, _step, _uv_environment

LOCK: Final = Path(__file__).with_name("older.lock")
KERNELS: Final = ("*.so", "vllm-rs")


def ensure(cache: Path | None = None) -> Path:
    """The folder to be put first on the path; at once where it is there already. As `environment.ensure`."""
    cache = cache or cache_root()
    folder = cache / f"vllm-older-{hashlib.sha256(LOCK.read_bytes()).hexdigest()[:16]}"
    with _locked(cache):
        if not folder.exists():
            _make(folder, cache / f".{folder.name}.part", cache)
    return folder


def _make(folder: Path, unfinished: Path, cache: Path) -> None:
    shutil.rmtree(unfinished, ignore_errors=True)
    uv = Path(sys.executable).with_name("uv")
    with _step("sources of the older vLLM"):
        where = ("--python", sys.executable, "--target", str(unfinished))
        # What is thrown away again is not kept in the package cache: it is 0.7 GB of kernels.
        _install(uv, {**_uv_environment(cache), "UV_NO_CACHE": "1"}, LOCK, *where)
        for kernel in (file for pattern in KERNELS for file in unfinished.rglob(pattern)):
            kernel.unlink()
    for old in cache.glob("vllm-older-*"):
        shutil.rmtree(old)
    unfinished.rename(folder)
