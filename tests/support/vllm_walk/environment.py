"""A virtual environment with the engine images' own packages, made once and kept in the project's cache.

It holds what the CPU engine image holds (its lock, its stubs in place of CUDA libraries, so 0.9 GB and not 5), and
beside it, to be put first on the path, the sources of the vLLM that the CUDA lock pins. Every file is checked by hash
against those two locks.
"""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from image_builder.debian import SetupError, install_command
from image_builder.layout import ROOT, cache_root

ENGINE: Final = ROOT / "images/engine"
CPU_LOCK: Final = ENGINE / "requirements-cpu.lock"
CUDA_LOCK: Final = ENGINE / "requirements-cuda.lock"
BUILD_STEPS: Final = ("cuda_stubs.py", "needed_at_import.cpp", "prune.py", "check.py")
FROM_CUDA: Final = ("vllm", "mistral-common", "pycountry")
"""vLLM itself, and what the CPU image does without: to check a configuration, vLLM imports its parsers of tools, and
with them Mistral's."""

KEPT: Final = 2
PACKAGES: Final = {"g++": "g++", "readelf": "binutils"}


@dataclass(frozen=True)
class Environment:
    """Where it is."""

    folder: Path

    @property
    def python(self) -> Path:
        return self.folder / "venv/bin/python"

    @property
    def cuda_vllm(self) -> Path:
        """The sources of the CUDA image's vLLM, without its kernels."""
        return self.folder / "vllm"

    def variables(self, *path: Path, cuda: bool = True) -> dict[str, str]:
        """The environment of a program that runs in it, with our own code and `path` to import from."""
        sources = [*path, *([self.cuda_vllm] if cuda else []), ENGINE, ROOT / "tests/support", ROOT / "hack"]
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("VLLM_", "HF_", "PYTHON"))}
        return {
            **kept,
            "PYTHONPATH": os.pathsep.join(map(str, sources)),
            "HF_HUB_OFFLINE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "OMP_NUM_THREADS": "1",
        }


def ensure(cache: Path | None = None) -> Environment:
    """At once where it is there already. Raises SetupError, and CalledProcessError where an installation fails."""
    cache = cache or cache_root()
    folder = cache / f"vllm-walk-{key()}"
    with _locked(cache):
        if not folder.exists():
            _require_tools()
            unfinished = cache / f".vllm-walk-{key()}.part"
            shutil.rmtree(unfinished, ignore_errors=True)
            _make(unfinished, cache)
            unfinished.rename(folder)
            _remove_old(cache)
    return Environment(folder)


def _remove_old(cache: Path) -> None:
    """A gigabyte each. The one before stays: going back and forth between two branches costs nothing then."""
    made = sorted(cache.glob("vllm-walk-*"), key=lambda path: path.stat().st_mtime, reverse=True)
    for old in made[KEPT:]:
        shutil.rmtree(old)


def key() -> str:
    """Changes with everything that goes into it."""
    digest = hashlib.sha256(cuda_pins().encode())
    for file in (Path(__file__), CPU_LOCK, *(ENGINE / "cpu" / name for name in BUILD_STEPS)):
        digest.update(file.read_bytes())
    digest.update(f"{sys.version_info[:2]}".encode())
    return digest.hexdigest()[:16]


def cuda_pins() -> str:
    """The entries of FROM_CUDA in the CUDA lock, with their hashes."""
    lock = f"{CUDA_LOCK.read_text()}\n#"
    return "".join(_pin(lock, name) for name in FROM_CUDA)


def _pin(lock: str, name: str) -> str:
    found = re.search(rf"^{name}==.*?(?=^\S)", lock, re.MULTILINE | re.DOTALL)
    if found is None:
        raise SetupError(f"{CUDA_LOCK} pins no {name}: make the lock anew, as its .in file says")
    return found[0]


def _make(folder: Path, cache: Path) -> None:
    uv = Path(sys.executable).with_name("uv")
    environment = _uv_environment(cache)
    venv, python = folder / "venv", folder / "venv/bin/python"
    with _step("packages of the CPU engine image"):
        _run([sys.executable, "-m", "venv", "--without-pip", str(venv)], environment)
        _install(uv, environment, CPU_LOCK, "--python", str(python))
    with _step("stubs in place of CUDA libraries"):
        for program in ("cuda_stubs.py", "prune.py", "check.py"):
            _run([str(python), str(ENGINE / "cpu" / program)], environment)
    with _step("sources of the CUDA image's vLLM"):
        pins = folder / "cuda.lock"
        pins.write_text(cuda_pins())
        _install(uv, environment, pins, "--python", str(python), "--target", str(folder / "vllm"))
        for library in [*(folder / "vllm").rglob("*.so"), *(folder / "vllm").rglob("vllm-rs")]:
            library.unlink()


def _uv_environment(cache: Path) -> dict[str, str]:
    """With the package cache of the image builds, which has torch already where an engine image was built.

    Files are copied out of it: stripping a library through a hard link would strip the cache's.
    """
    packages = cache / "buildah/uv"
    shared = {"UV_CACHE_DIR": str(packages)} if os.access(packages, os.W_OK) else {}
    certificates = Path("/etc/ssl/certs/ca-certificates.crt")
    trusted = {"SSL_CERT_FILE": str(certificates)} if certificates.exists() else {}
    return {**os.environ, "UV_LINK_MODE": "copy", **shared, **trusted}


def _install(uv: Path, environment: Mapping[str, str], lock: Path, *where: str) -> None:
    _run([str(uv), "pip", "install", "--quiet", "--no-deps", "--require-hashes", "-r", str(lock), *where], environment)


def _run(command: list[str], environment: Mapping[str, str]) -> None:
    subprocess.run(command, check=True, env=dict(environment), stdout=sys.stderr)


def _require_tools() -> None:
    """What the stubs are compiled with."""
    missing = [package for program, package in PACKAGES.items() if shutil.which(program) is None]
    if not missing:
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise SetupError(f"The vLLM walk needs {' and '.join(missing)}: {install_command(missing)}")
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(["apt-get", "update", "-qq"], check=True, env=quiet)
    subprocess.run(["apt-get", "install", "-qq", "--yes", "--no-install-recommends", *missing], check=True, env=quiet)


@contextmanager
def _locked(cache: Path) -> Iterator[None]:
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / ".vllm-walk.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def _step(name: str) -> Iterator[None]:
    print(f"  vLLM walk: {name} ...", file=sys.stderr, flush=True)
    began = time.monotonic()
    yield
    print(f"  vLLM walk: {name}: {time.monotonic() - began:.1f} s", file=sys.stderr, flush=True)
