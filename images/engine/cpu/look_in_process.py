"""Let vLLM look at the classes of a model and of its drafter in its own process.

It starts a process for each look, so that looking does not initialise CUDA in its own, and each of them imports torch
and vLLM anew: 6 CPU-seconds, twice in every start of an engine with an MTP head. This image has no CUDA, and vLLM
imports the same classes a moment later.
"""

# ruff: noqa: INP001  # a build step, run by path inside the image; never imported as a package

import py_compile
import sysconfig
from pathlib import Path
from typing import Final

RUNS_ELSEWHERE: Final = "def _run_in_subprocess(fn: Callable[[], _T]) -> _T:\n"


def main() -> None:
    module = Path(sysconfig.get_path("purelib"), "vllm/model_executor/models/registry.py")
    text = module.read_text()
    if text.count(RUNS_ELSEWHERE) != 1:
        raise SystemExit(f"{module} does not define _run_in_subprocess once: this vLLM looks in another way")
    module.unlink()  # the installer may have hard-linked the file to its cache
    module.write_text(text.replace(RUNS_ELSEWHERE, f"{RUNS_ELSEWHERE}    return fn()\n"))
    # Bytecode is never compared with its source (see the Dockerfile), so it is made anew here.
    py_compile.compile(str(module), doraise=True, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)


if __name__ == "__main__":
    main()
