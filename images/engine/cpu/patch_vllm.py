"""Change two lines of vLLM for CPUs, so that an engine imports torch and vLLM once and not five times.

vLLM starts three processes one after the other, and two more to look at the classes of a model and of its drafter. Each
imports the same modules anew, which takes 6 to 7 CPU-seconds.

platforms/cpu.py        On GPUs vLLM forks its processes unless CUDA was used before. On a CPU it insists on new ones,
                        because OpenMP reads its binding of threads to cores when it is loaded. This image binds no
                        threads, so what vLLM sets becomes a default, and the image's environment says
                        VLLM_WORKER_MULTIPROC_METHOD=fork. vLLM still spawns where it has to, as for --numa-bind.
models/registry.py      It looks at classes in a process of its own, so as not to initialise CUDA. This image has no
                        CUDA, and vLLM imports the same classes a moment later.
"""

# ruff: noqa: INP001  # a build step, run by path inside the image; never imported as a package

import py_compile
import sysconfig
from pathlib import Path
from typing import Final

LOOKS_ELSEWHERE: Final = "def _run_in_subprocess(fn: Callable[[], _T]) -> _T:\n"

CHANGES: Final = (
    (
        "vllm/platforms/cpu.py",
        'os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "spawn"',
        'os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")',
    ),
    ("vllm/model_executor/models/registry.py", LOOKS_ELSEWHERE, f"{LOOKS_ELSEWHERE}    return fn()\n"),
)
"""Module, what it says once, and what it says then."""


def change(module: Path, before: str, after: str) -> None:
    text = module.read_text()
    if text.count(before) != 1:
        raise SystemExit(f"{module} does not have {before.strip()!r} once: this vLLM does it in another way")
    module.unlink()  # the installer may have hard-linked the file to its cache
    module.write_text(text.replace(before, after))
    # Bytecode is never compared with its source (see the Dockerfile), so it is made anew here.
    py_compile.compile(str(module), doraise=True, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)


def main() -> None:
    for name, before, after in CHANGES:
        change(Path(sysconfig.get_path("purelib"), name), before, after)


if __name__ == "__main__":
    main()
