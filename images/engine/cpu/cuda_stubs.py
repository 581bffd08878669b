"""Replace the CUDA half of a CUDA build of torch by stubs, so that a CPU-only image need not carry it.

The plain torch wheel is a CUDA build: its loader wants libtorch_cuda.so (470 MB) and several libraries of NVIDIA
(2.4 GB) before `import torch` returns, though a machine without a GPU never runs a line of them. This script, run
once while the CPU engine image is built, reads which symbols the libraries that stay still import, and writes small
shared objects with the same SONAMEs that export exactly those:

- the CUDA runtime answers cudaErrorNoDevice, so `torch.cuda.is_available()` is False by torch's own logic;
- every other function says which stub was called and aborts: a wrong guess is loud;
- type infos are real type infos (pybind11 hashes their names at import), other data is zero.

Nothing of this is ever used by the image for GPUs.
"""

# ruff: noqa: INP001  # a build step, run by path inside the image; never imported as a package

import re
import subprocess
import sysconfig
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

DROPPED: Final = ("libtorch_cuda.so", "libtorch_cuda_linalg.so", "libtorch_nvshmem.so", "libcaffe2_nvrtc.so")
"""Only libtorch_cuda.so is linked against; torch opens the other three when a GPU is first used."""

CATCH_ALL: Final = "libtorch_cuda.so"
"""Symbols without a version may come from any library: the loader looks in all of them."""

NVIDIA: Final = re.compile(r"lib(cu|nccl|nv)\w*\.so\.\d+$")
NVIDIA_FUNCTION: Final = re.compile(r"(cuFile|nccl)[A-Z]")
"""The two libraries of NVIDIA that torch imports from without a version."""

CUDA_RUNTIME: Final = re.compile(r"libcudart\.so\.\d+$")
CUDA_ERROR_NO_DEVICE: Final = 100

ABORT: Final = """
#include <stdio.h>
#include <stdlib.h>
__attribute__((visibility("hidden"), noreturn)) void stub_called(const char *name) {
    fprintf(stderr, "cuda_stubs: %s was called, but this image is for CPUs only\\n", name);
    abort();
}
"""


@dataclass(frozen=True)
class Symbol:
    name: str
    version: str | None


def output_of(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def needed(library: Path) -> list[str]:
    return re.findall(r"\(NEEDED\).*\[(.+)\]", output_of("readelf", "--dynamic", "--wide", str(library)))


def undefined(library: Path) -> Iterator[Symbol]:
    """Strong undefined symbols; weak ones may stay unresolved."""
    for line in output_of("nm", "--dynamic", "--undefined-only", str(library)).splitlines():
        kind, symbol = line.split()[-2:]
        if kind == "U":
            name, _, version = symbol.partition("@")
            yield Symbol(name, version or None)


def defined(library: Path) -> set[str]:
    table = ["--dynamic"] if library.suffix != ".o" else []
    lines = output_of("nm", *table, "--defined-only", str(library)).splitlines()
    return {line.split()[-1].partition("@")[0] for line in lines}


def stub_for(symbol: Symbol, dropped: set[str]) -> str | None:
    """Name of the stub library that has to export `symbol`; None if a library that stays does."""
    if symbol.version is None:
        return CATCH_ALL if symbol.name in dropped or NVIDIA_FUNCTION.match(symbol.name) else None
    return symbol.version if NVIDIA.match(symbol.version) else None


def plan(kept: Iterable[Path], dropped: Iterable[Path]) -> dict[str, set[Symbol]]:
    """Which stub libraries are wanted, and what each exports. A library may be wanted for its name alone."""
    names = {name for library in dropped for name in defined(library)}
    stubs: dict[str, set[Symbol]] = {}
    for library in kept:
        for wanted in needed(library):
            if wanted in DROPPED or NVIDIA.match(wanted):
                stubs.setdefault(wanted, set())
        for symbol in undefined(library):
            home = stub_for(symbol, names)
            if home is not None:
                stubs.setdefault(home, set()).add(symbol)
    return stubs


def assembly_of(symbol: Symbol, soname: str) -> str:
    name = symbol.name
    if name.startswith("_ZTI"):  # struct type_info { void **vtable; const char *name; } of the Itanium C++ ABI, 2.9.4
        body = f".quad _ZTVN10__cxxabiv117__class_type_infoE + 16\n.quad 1f\n1: .asciz {quoted(name[4:])}\n"
        return f".data\n.balign 8\n.globl {name}\n.type {name}, @object\n{name}:\n{body}"
    if name.startswith("_ZTV"):
        return f".bss\n.balign 8\n.globl {name}\n.type {name}, @object\n{name}: .zero 1024\n"
    if CUDA_RUNTIME.match(soname):
        code = f"mov ${CUDA_ERROR_NO_DEVICE}, %eax\nret\n"
    else:
        code = f"lea 1f(%rip), %rdi\nand $-16, %rsp\ncall stub_called\n1: .asciz {quoted(name)}\n"
    return f".text\n.globl {name}\n.type {name}, @function\n{name}:\n{code}"


def quoted(text: str) -> str:
    return f'"{text}"'


def compile_needed_at_import(torch: Path, scratch: Path) -> Path:
    made = scratch / "needed_at_import.o"
    source = Path(__file__).with_name("needed_at_import.cpp")
    flags = ("-c", "-fPIC", "-O1", "-std=c++20", "-w", f"-I{torch / 'include'}")
    subprocess.run(["g++", *flags, source, "-o", made], check=True)
    return made


def build(soname: str, symbols: Iterable[Symbol], objects: Sequence[Path], scratch: Path, into: Path) -> None:
    abort, assembly, versions = (scratch / name for name in ("abort.c", "stubs.s", "versions.map"))
    ordered = sorted(symbols, key=lambda symbol: symbol.name)
    abort.write_text(ABORT)
    assembly.write_text("\n".join(assembly_of(symbol, soname) for symbol in ordered))
    sources: list[str | Path] = [*objects, "-x", "c", abort, "-x", "assembler", assembly]
    linker = [f"-Wl,-soname,{soname}", "-Wl,--build-id=none", "-Wl,-z,noexecstack", "-s"]
    if any(symbol.version for symbol in ordered):
        versions.write_text(f"{soname} {{ global: *; }};\n")
        linker.append(f"-Wl,--version-script={versions}")
    target = into / soname
    target.unlink(missing_ok=True)  # the installer may have hard-linked the file to its cache
    subprocess.run(["g++", "-shared", "-fPIC", *sources, "-o", target, *linker], check=True)


def replace(site_packages: Path, scratch: Path) -> None:
    torch = site_packages / "torch"
    lib = torch / "lib"
    dropped = [lib / name for name in DROPPED]
    kept = [path for path in sorted(lib.glob("*.so")) if path not in dropped]
    stubs = plan(kept, dropped)
    for library in dropped:
        library.unlink()
    written_out = compile_needed_at_import(torch, scratch)
    by_hand = defined(written_out)
    for soname, symbols in sorted(stubs.items()):
        wanted = [symbol for symbol in symbols if symbol.name not in by_hand]
        objects = [written_out] if soname == CATCH_ALL else []
        build(soname, wanted, objects, scratch, into=lib)
        print(f"cuda_stubs: {soname} exports {len(symbols)} symbols")  # noqa: T201


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        replace(Path(sysconfig.get_path("purelib")), Path(scratch))


if __name__ == "__main__":
    main()
