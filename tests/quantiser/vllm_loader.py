"""Load a checkpoint with vLLM's real DeepSeek-V4 classes for NVIDIA, on a CPU: `python vllm_loader.py FOLDER [OTHER]`.

Run as a process of its own. vLLM chooses its classes by platform, so it is told that there is a GPU of compute
capability 12.0; what it would then call of its compiled kernels while it builds the model is replaced by functions that
do nothing. Names, shapes, types, quantisation schemes and the loading itself are vLLM's own. Prints one line of JSON:
for `main` and `draft`, and for the `other` draft model, that of OTHER, the class, the number of parameters, and those
that nothing was loaded into. Works with vLLM 0.32.
"""

# ruff: noqa: E402 - what vLLM imports must be prepared before it is imported

import contextlib
import json
import os
import sys
import tempfile
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.update(HF_HUB_OFFLINE="1", VLLM_NO_USAGE_STATS="1", VLLM_LOGGING_LEVEL="ERROR")

COMPILED = (
    "vllm._C",
    "vllm._moe_C",
    "vllm._C_stable_libtorch",
    "vllm._moe_C_stable_libtorch",
    "vllm.vllm_flash_attn",
    "vllm.vllm_flash_attn.flash_attn_interface",
    "vllm.vllm_flash_attn.layers",
    "vllm.vllm_flash_attn.layers.rotary",
)
"""Modules of compiled code that only the CUDA build has."""

SUPPORTED = (
    "cutlass_scaled_mm_supports_block_fp8",
    "cutlass_scaled_mm_supports_fp8",
    "cutlass_group_gemm_supported",
    "cutlass_scaled_mm_supports_fp4",
)
CAPABILITY = (12, 0)


def nothing(*_arguments: Any, **_named: Any) -> Any:
    return None


def agree(*_arguments: Any, **_named: Any) -> bool:
    return True


class EmptyModule(types.ModuleType):
    __path__: list[str] = []  # noqa: RUF012 - what an import of a part of it looks at

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return nothing


class Idle:
    """A CUDA stream or event that does nothing."""

    def __init__(self, *_arguments: Any, **_named: Any) -> None:
        pass

    def __getattr__(self, _name: str) -> Any:
        return nothing


for module in COMPILED:
    sys.modules[module] = EmptyModule(module)

import torch
from torch._ops import _OpNamespace

torch.cuda.Stream = torch.cuda.Event = Idle
torch.cuda.current_stream = lambda *_arguments: Idle()

LIBRARY = torch.library.Library("_C", "FRAGMENT")
for operator in SUPPORTED:
    LIBRARY.define(f"{operator}(int capability) -> bool")
    LIBRARY.impl(operator, agree, "CompositeExplicitAutograd")

import vllm.platforms
from vllm.platforms.cuda import NonNvmlCudaPlatform
from vllm.platforms.interface import DeviceCapability


class GpuOnPaper(NonNvmlCudaPlatform):  # type: ignore[misc] # vLLM is untyped here
    device_type = "cpu"
    dispatch_key = "CPU"

    @classmethod
    def get_device_capability(cls, device_id: int = 0) -> Any:  # noqa: ARG003 - vLLM names the arguments
        return DeviceCapability(*CAPABILITY)

    @classmethod
    def has_device_capability(cls, capability: Any, device_id: int = 0) -> bool:  # noqa: ARG003
        wanted = capability if isinstance(capability, tuple) else divmod(capability, 10)
        return wanted <= CAPABILITY

    @classmethod
    def get_device_name(cls, device_id: int = 0) -> str:  # noqa: ARG003
        return "on paper"

    @classmethod
    def get_device_total_memory(cls, device_id: int = 0) -> int:  # noqa: ARG003
        return 96 << 30

    @classmethod
    def is_fully_connected(cls, _devices: Any) -> bool:
        return False

    @classmethod
    def num_compute_units(cls, device_id: int = 0) -> int:  # noqa: ARG003
        return 188

    @classmethod
    def check_and_update_config(cls, vllm_config: Any) -> None:
        vllm_config.parallel_config.worker_cls = "none"


vllm.platforms._current_platform = GpuOnPaper()  # noqa: SLF001 - the seam that vLLM has

import vllm.model_executor.layers.sparse_attn_indexer as indexer
from safetensors import safe_open
from vllm.config import replace, set_current_vllm_config
from vllm.distributed import init_distributed_environment, initialize_model_parallel
from vllm.engine.arg_utils import EngineArgs
from vllm.model_executor.model_loader.utils import initialize_model
from vllm.model_executor.models import registry
from vllm.utils import deep_gemm, flashinfer, import_utils


def pretend_kernels() -> None:
    """Pretends that the kernels' libraries exist; their functions do nothing."""
    registry._run_in_subprocess = lambda work: work()  # noqa: SLF001 - another process would not know the platform
    flashinfer.has_flashinfer_sparse_mla_sm120_config = agree
    for module in (import_utils, deep_gemm, indexer):
        module.has_deep_gemm = agree
    deep_gemm.is_deep_gemm_supported.cache_clear()
    deep_gemm._fp8_gemm_nt_impl = nothing  # noqa: SLF001 - likewise
    deep_gemm.DeepGemmQuantScaleFMT.init_oracle_cache()
    look_up = _OpNamespace.__getattr__

    def or_nothing(self: Any, name: str) -> Any:
        try:
            return look_up(self, name)
        except AttributeError:
            if name.startswith("__") or self.name not in ("_C", "_moe_C", "_C_cuda_utils"):
                raise
            return agree

    _OpNamespace.__getattr__ = or_nothing


def weights_of(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    for shard in sorted(set(index.values())):
        with safe_open(folder / shard, "pt") as file:
            for name in file.keys():  # noqa: SIM118 - no mapping
                yield name, file.get_tensor(name)


def loaded(model: Any, folder: Path) -> dict[str, Any]:
    filled = model.load_weights(weights_of(folder))
    names = {name for name, _ in model.named_parameters()}
    return {"class": type(model).__name__, "parameters": len(names), "missing": sorted(names - set(filled))}


def main(folder: Path, other: Path | None = None) -> dict[str, Any]:
    arguments = EngineArgs(
        model=str(folder),
        skip_tokenizer_init=True,
        dtype="bfloat16",
        max_model_len=1024,
        enforce_eager=True,
        kv_cache_dtype="fp8",
        block_size=256,
        speculative_config={"method": "mtp", "num_speculative_tokens": 1},
    )
    config = arguments.create_engine_config()
    with set_current_vllm_config(config):
        init_distributed_environment(1, 0, f"file://{tempfile.mkdtemp()}/rendezvous", 0, backend="gloo")
        initialize_model_parallel(1, 1)
        torch.set_default_dtype(torch.bfloat16)
        pretend_kernels()
        found = {"main": loaded(initialize_model(vllm_config=config), folder)}
    drafting = replace(config, attention_config=replace(config.attention_config, backend=None))
    with set_current_vllm_config(drafting):
        found["draft"] = loaded(draft_of(drafting), folder)
        if other:
            found["other"] = loaded(draft_of(drafting), other)
    return found


def draft_of(config: Any) -> Any:
    config.compilation_config.static_forward_context.clear()  # a second draft has the names of the first
    return initialize_model(vllm_config=config, model_config=config.speculative_config.draft_model_config)


if __name__ == "__main__":
    with contextlib.redirect_stdout(sys.stderr):
        result = main(*map(Path, sys.argv[1:]))
    print(json.dumps(result))
