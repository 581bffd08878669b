"""A CUDA platform without a GPU, so that vLLM builds the classes that it builds on an RTX PRO 6000.

vLLM's kernels are replaced by stubs, and nothing is computed; only building and loading the model is real.
Imported before anything else of vLLM.
"""

import sys
import types
from typing import Any

import torch

KERNELS = (
    "vllm._C_stable_libtorch",
    "vllm._moe_C_stable_libtorch",
    "vllm._C",
    "vllm._moe_C",
    "vllm.vllm_flash_attn",
    "vllm.vllm_flash_attn.flash_attn_interface",
    "vllm.vllm_flash_attn.layers",
    "vllm.vllm_flash_attn.layers.rotary",
)
PROBES = (
    "cutlass_scaled_mm_supports_block_fp8",
    "cutlass_scaled_mm_supports_fp8",
    "cutlass_group_gemm_supported",
    "cutlass_scaled_mm_supports_fp4",
)
"""What vLLM asks its kernels while it chooses among them."""

NAMESPACES = ("_C", "_moe_C", "_C_cuda_utils")
CAPABILITY = (12, 0)
"""sm_120: RTX PRO 6000 Blackwell."""

MEMORY = 96 << 30


class KernelStub(types.ModuleType):
    """A module of kernels whose attributes all do nothing."""

    __path__: list[str] = []  # noqa: RUF012 - as the import system wants it

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *_args, **_kwargs: None


class DeviceStub:
    """A stream or an event."""

    def __init__(self, *_args: object, **_kwargs: object) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        return lambda *_args, **_kwargs: None


def install() -> None:
    """Must come before `import vllm`, whose platform is chosen once. A second call does nothing."""
    if KEPT:
        return
    for name in KERNELS:
        sys.modules[name] = KernelStub(name)
    _define_probes()
    torch.cuda.Stream = torch.cuda.Event = DeviceStub
    torch.cuda.current_stream = lambda *_args: DeviceStub()
    _install_platform()
    _say_that_kernels_are_there()


def _define_probes() -> None:
    library = torch.library.Library("_C", "FRAGMENT")
    for name in PROBES:
        library.define(f"{name}(int c) -> bool")
        library.impl(name, lambda _c: True, "CompositeExplicitAutograd")
    KEPT.append(library)


KEPT: list[Any] = []
"""torch takes definitions back when their library goes out of scope."""


def answer_for_missing_kernels() -> None:
    """Only once everything is imported: vLLM asks which kernels there are, to describe them to torch."""
    namespace = torch._ops._OpNamespace  # noqa: SLF001
    found = namespace.__getattr__

    def answer(self: Any, name: str) -> Any:
        try:
            return found(self, name)
        except AttributeError:
            if self.name in NAMESPACES and not name.startswith("__"):
                return lambda *_args, **_kwargs: True
            raise

    namespace.__getattr__ = answer


def _install_platform() -> None:
    from vllm import platforms  # noqa: PLC0415 - after the kernels' stubs
    from vllm.platforms.cuda import NonNvmlCudaPlatform  # noqa: PLC0415
    from vllm.platforms.interface import DeviceCapability  # noqa: PLC0415

    class CudaPlatformStub(NonNvmlCudaPlatform):  # type: ignore[misc] # vLLM is not there for mypy
        device_type = "cpu"
        dispatch_key = "CPU"

        @classmethod
        def get_device_capability(cls, device_id: int = 0) -> Any:  # noqa: ARG003
            return DeviceCapability(*CAPABILITY)

        @classmethod
        def has_device_capability(cls, capability: Any, device_id: int = 0) -> bool:  # noqa: ARG003
            wanted = capability if isinstance(capability, tuple) else divmod(capability, 10)
            return wanted <= CAPABILITY

        @classmethod
        def get_device_name(cls, device_id: int = 0) -> str:  # noqa: ARG003
            return "stub"

        @classmethod
        def get_device_total_memory(cls, device_id: int = 0) -> int:  # noqa: ARG003
            return MEMORY

        @classmethod
        def device_count(cls) -> int:
            return 2

        @classmethod
        def is_fully_connected(cls, device_ids: list[int]) -> bool:  # noqa: ARG003
            return False

        @classmethod
        def num_compute_units(cls, device_id: int = 0) -> int:  # noqa: ARG003
            return 188

        @classmethod
        def check_and_update_config(cls, vllm_config: Any) -> None:
            vllm_config.parallel_config.worker_cls = "none"

    platforms._current_platform = CudaPlatformStub()  # noqa: SLF001


def _say_that_kernels_are_there() -> None:
    import vllm.model_executor.layers.sparse_attn_indexer as indexer  # noqa: PLC0415
    from vllm.model_executor.models import registry  # noqa: PLC0415
    from vllm.utils import deep_gemm, flashinfer, import_utils  # noqa: PLC0415

    for asked in ("has_flashinfer_sparse_mla_sm120", "has_flashinfer_sparse_mla_sm120_config"):
        setattr(flashinfer, asked, lambda *_args, **_kwargs: True)
    for module in (import_utils, deep_gemm, indexer):
        module.has_deep_gemm = lambda: True
    deep_gemm.is_deep_gemm_supported.cache_clear()
    deep_gemm._fp8_gemm_nt_impl = lambda *_args, **_kwargs: None  # noqa: SLF001
    deep_gemm.DeepGemmQuantScaleFMT.init_oracle_cache()
    # It would start a process for each model, which would lack these stubs.
    registry._run_in_subprocess = lambda look: look()  # noqa: SLF001
