"""The variants of the test: the ways to all-reduce over two GPUs, and the environment that selects each one."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from flash_contracts.variable_aliases import ALLOCATOR

WORLD = 2


@dataclass(frozen=True)
class Variant:
    """One way to all-reduce."""

    name: str
    environment: Mapping[str, str]
    description: str
    """Shown in --help."""


_NCCL = {
    "NCCL_IB_DISABLE": "1",
    # Multicast needs an NVSwitch, which no pair of PCIe cards has. A rank that is killed while using it may leave the
    # switch in a bad state for other processes too.
    "NCCL_NVLS_ENABLE": "0",
    # Torch's own watchdog would end a rank that hangs, and would not report it as a hang.
    "TORCH_NCCL_ASYNC_ERROR_HANDLING": "0",
    "TORCH_NCCL_ENABLE_MONITORING": "0",
}

VARIANTS = (
    Variant("ncclP2pOff", {**_NCCL, "NCCL_P2P_DISABLE": "1"}, "NCCL without peer-to-peer: do the GPUs work at all?"),
    Variant("nccl", _NCCL, "NCCL with its defaults, whose transport depends on the CPU vendor"),
    Variant("ncclP2p", {**_NCCL, "NCCL_P2P_LEVEL": "SYS"}, "NCCL with peer-to-peer at every distance"),
    Variant("peer", {"GLOO_SOCKET_IFNAME": "lo"}, "peer writes and polling, as in vLLM's custom all-reduce"),
)

WITHOUT_PEER_TO_PEER = "ncclP2pOff"
"""The control variant: it separates peer-to-peer faults from all others."""

# Expandable segments cannot be shared by CUDA IPC (vllm-project/vllm#47751).
_REMOVED = (*ALLOCATOR, "CUDA_LAUNCH_BLOCKING")
_REMOVED_PREFIXES = ("NCCL_", "TORCH_NCCL_", "GLOO_")


def variant_named(name: str) -> Variant:
    """Raises KeyError."""
    return {variant.name: variant for variant in VARIANTS}[name]


def rank_environment(variant: Variant, ambient: Mapping[str, str], cache: Path) -> dict[str, str]:
    """Environment of a rank. The pod's own NCCL settings are for its engine and would change what is tested.

    `cache` is the folder for compiled kernels.
    """
    kept = {
        name: value
        for name, value in ambient.items()
        if name not in _REMOVED and not name.startswith(_REMOVED_PREFIXES)
    }
    return {**kept, **variant.environment, "TRITON_CACHE_DIR": str(cache), "PYTHONUNBUFFERED": "1"}
