"""Checks the CUDA image from within: what can be said without a GPU. Started by in_image.sh.

Compiling a kernel for the target card (`sm_120a`) is the proof here; running it needs the card.
"""

import importlib.metadata
import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

PROVE: Final = Path("/prove")
CUDA: Final = Path(os.environ["CUDA_HOME"])
ARCHITECTURE: Final = "sm_120a"
BILL: Final = Path("/usr/share/sbom/image.cdx.json")


def main() -> None:
    os.environ["FLASHINFER_CUDA_ARCH_LIST"] = "12.0a"
    failed = [check.__name__ for check in CHECKS if not passed(check)]
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


def passed(check: Callable[[], str]) -> bool:
    began = time.monotonic()
    try:
        said = check()
    except Exception:  # noqa: BLE001 - whatever is wrong with the image is the answer
        traceback.print_exc()
        print(f"FAILED  {check.__name__}", flush=True)
        return False
    print(f"ok      {check.__name__}: {said} ({time.monotonic() - began:.0f} s)", flush=True)
    return True


def the_user_and_the_root() -> str:
    assert os.getuid() == 65532
    try:
        Path("/opt/venv/written").touch()
    except OSError as refused:
        return f"user {os.getuid()}, {refused.strerror}"
    raise AssertionError("the root can be written")


def vllm_imports() -> str:
    return output("-c", "import vllm, torch; print('vLLM', vllm.__version__, 'torch', torch.__version__)")


def the_plugin_registers() -> str:
    found = importlib.metadata.entry_points(group="vllm.general_plugins")
    ours = [one for one in found if one.module.startswith("flash_engine")]
    assert len(ours) == 1, found
    code = f"from importlib import import_module as m; m({ours[0].module!r}).{ours[0].attr}(); print('{ours[0].name}')"
    return output("-c", code)


def vllm_takes_what_the_examples_derive() -> str:
    asked = json.loads((PROVE / "arguments.json").read_text())
    code = (
        "import json, sys; from vllm_walk import parser; "
        "print(json.dumps(parser.judge_all({'arguments': json.load(open('/prove/arguments.json')).values()})))"
    )
    answers = json.loads(output("-c", code, PYTHONPATH="/prove/repository/tests/support").splitlines()[-1])
    refused = {name: answer for name, answer in zip(asked, answers, strict=True) if answer}
    assert not refused, refused
    return f"{len(asked)} examples"


def a_sound_checkpoint_is_taken_and_a_broken_one_refused() -> str:
    look = ["/opt/venv/bin/flash-checkpoint", "inspect"]
    sound = subprocess.run([*look, str(PROVE / "sound")], capture_output=True, text=True, check=False)
    assert sound.returncode == 0, sound.stdout + sound.stderr
    broken = subprocess.run([*look, str(PROVE / "broken")], capture_output=True, text=True, check=False)
    assert broken.returncode != 0
    return (broken.stdout + broken.stderr).strip().splitlines()[-1][:100]


def the_bill_lists_what_is_installed() -> str:
    listed = {one["name"].lower().replace("_", "-") for one in json.loads(BILL.read_text())["components"]}
    installed = {one.name.lower().replace("_", "-").replace(".", "-") for one in importlib.metadata.distributions()}
    missing = {name for name in installed if name not in {each.replace(".", "-") for each in listed}}
    assert not missing, missing
    return f"{len(installed)} distributions"


def flashinfer_compiles() -> str:
    code = (
        "from flashinfer.norm import gen_norm_module as made; one = made(); "
        "one.build(verbose=False); print(one.get_library_path())"
    )
    return cubins(Path(output("-c", code).splitlines()[-1]))


def deep_gemm_compiles() -> str:
    include = next(Path("/opt/venv/lib").glob("python3*/site-packages/vllm/third_party/deep_gemm/include"))
    source = Path("/tmp/deep_gemm.cu")
    source.write_text(
        "#include <deep_gemm/impls/sm120_split_k_reduce.cuh>\nusing namespace deep_gemm;\nstatic void instantiate() {\n"
        "  auto p = reinterpret_cast<void*>(&sm120_split_k_reduce_impl<cutlass::bfloat16_t, 4>); (void)p;\n}\n"
    )
    return cubins(nvcc(source, f"-I{include}", "-std=c++20", "--expt-relaxed-constexpr"))


def triton_compiles() -> str:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    sys.path.insert(0, str(PROVE / "checks"))
    from triton_kernel import add_one

    source = ASTSource(add_one, {"x": "*fp16", "y": "*fp16", "n": "i32", "block": "constexpr"}, {"block": 128})
    made = triton.compile(source, target=GPUTarget("cuda", 120, 32))
    (target,) = [line for line in made.asm["ptx"].splitlines() if line.startswith(".target")]
    assert ARCHITECTURE in target, target
    return f"{len(made.asm['cubin'])} bytes, {target}"


def tilelang_compiles() -> str:
    sys.path.insert(0, str(PROVE / "checks"))
    import tilelang
    from tilelang.contrib.nvcc import compile_cuda
    from tilelang_kernel import multiply

    target = tilelang.tvm.target.Target({"kind": "cuda", "arch": ARCHITECTURE})
    with target:
        source = tilelang.lower(multiply, target=target).kernel_source
    includes = [f"-I{tilelang.env.TILELANG_TEMPLATE_PATH}", f"-I{tilelang.env.CUTLASS_INCLUDE_DIR}"]
    made = compile_cuda(source, target_format="cubin", arch=ARCHITECTURE, options=includes)
    return f"{len(made)} bytes"


def nvcc(source: Path, *options: str) -> Path:
    made = source.with_suffix(".o")
    command = [
        str(CUDA / "bin/nvcc"),
        "-gencode=arch=compute_120a,code=sm_120a",
        *options,
        "-c",
        str(source),
        "-o",
        str(made),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return made


def cubins(library: Path) -> str:
    """The architecture of the machine code in a fat binary, as the linker of its toolkit names it."""
    content = library.read_bytes()
    assert ARCHITECTURE.encode() in content, f"{library} has no code for {ARCHITECTURE}"
    return f"{library.name}, {len(content)} bytes"


def output(*arguments: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return done.stdout.strip()


CHECKS: Final[tuple[Callable[[], Any], ...]] = (
    the_user_and_the_root,
    vllm_imports,
    the_plugin_registers,
    vllm_takes_what_the_examples_derive,
    a_sound_checkpoint_is_taken_and_a_broken_one_refused,
    the_bill_lists_what_is_installed,
    triton_compiles,
    tilelang_compiles,
    deep_gemm_compiles,
    flashinfer_compiles,
)

if __name__ == "__main__":
    main()
