"""Last step of the CPU engine's build: what was stripped and stubbed loads, computes, and sees no GPU."""

# ruff: noqa: INP001, S101  # a build step, run by path inside the image; its assertions are its purpose

import torch
import torch.distributed
import vllm
from vllm.platforms import current_platform


def main() -> None:
    assert not torch.cuda.is_available()
    assert torch.equal(torch.eye(8) @ torch.ones(8, 8), torch.ones(8, 8))
    current_platform.import_kernels()
    assert current_platform.is_cpu(), f"vLLM chose {current_platform}"
    assert hasattr(torch.ops._C, "silu_and_mul"), "vLLM's kernels were not loaded"  # noqa: SLF001
    print(f"torch {torch.__version__}, vLLM {vllm.__version__}: sound")  # noqa: T201


if __name__ == "__main__":
    main()
