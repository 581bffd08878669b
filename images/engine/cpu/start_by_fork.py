"""Let vLLM's processes be forked on a CPU, so that they import torch and vLLM once and not three times.

vLLM starts three processes one after the other, and each of them imports the same 7 CPU-seconds of modules. On GPUs it
forks them unless CUDA was used before; on a CPU it insists on new ones, because OpenMP takes its binding of threads to
cores from the environment when it is loaded. This image binds no threads. So what vLLM sets becomes a default, and the
image's environment says VLLM_WORKER_MULTIPROC_METHOD=fork. vLLM still spawns where it has to, as for --numa-bind.
"""

# ruff: noqa: INP001  # a build step, run by path inside the image; never imported as a package

import py_compile
import sysconfig
from pathlib import Path
from typing import Final

INSISTS: Final = 'os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "spawn"'
PREFERS: Final = 'os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")'


def main() -> None:
    module = Path(sysconfig.get_path("purelib"), "vllm/platforms/cpu.py")
    text = module.read_text()
    if text.count(INSISTS) != 1:
        raise SystemExit(f"{module} does not have the line {INSISTS} once: this vLLM chooses in another way")
    module.unlink()  # the installer may have hard-linked the file to its cache
    module.write_text(text.replace(INSISTS, PREFERS))
    # Bytecode is never compared with its source (see the Dockerfile), so it is made anew here.
    py_compile.compile(str(module), doraise=True, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)


if __name__ == "__main__":
    main()
