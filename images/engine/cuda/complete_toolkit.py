"""Completes the CUDA toolkit that the wheels install, so that FlashInfer, DeepGEMM and tilelang can link against it.

The wheels carry compiler, headers and libraries, but neither the folder `lib64`, nor the names without a version that a
linker looks for, nor a stub of the driver's library, which is only on nodes with a driver. Run while the image is
built, by the environment's own Python, with the folder of the toolkit as its argument.
"""

# ruff: noqa: INP001  # a build step, run by path inside the image; never imported as a package

import subprocess
import sys
from pathlib import Path

DRIVER = "libcuda.so.1"


def main() -> None:
    toolkit = Path(sys.argv[1])
    libraries = toolkit / "lib"
    (toolkit / "lib64").symlink_to("lib")
    for library in sorted(libraries.glob("*.so.*")):
        name = libraries / f"{library.name.partition('.so.')[0]}.so"
        if not name.exists():
            name.symlink_to(library.name)
    stubs = libraries / "stubs"
    stubs.mkdir()
    stub = ["g++", "-shared", f"-Wl,-soname,{DRIVER}", "-x", "c++", "-", "-o", str(stubs / "libcuda.so")]
    subprocess.run(stub, input=b"", check=True)
    # A compiler and headers of different versions are found out here, not when an engine starts.
    compiler, card = str(toolkit / "bin/nvcc"), "-gencode=arch=compute_120a,code=sm_120a"
    headers = b"#include <cub/cub.cuh>\n#include <cuda_bf16.h>\n"
    subprocess.run([compiler, card, "-x", "cu", "-c", "-", "-o", "/dev/null"], input=headers, check=True)


if __name__ == "__main__":
    main()
