"""The arms: ways to all-reduce over two GPUs, and the environment that makes a rank go each of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

WORLD = 2


@dataclass(frozen=True)
class Variant:
    """One way to all-reduce."""

    name: str
    environment: Mapping[str, str]
    words: str
    """For people."""


_NCCL = {
    "NCCL_IB_DISABLE": "1",
    # Multicast is a matter of NVSwitch, which no pair of PCIe cards has; and a rank that is killed in the midst of it
    # may leave the switch in disorder, for others too.
    "NCCL_NVLS_ENABLE": "0",
    # Torch's own watchdog would end a rank that hangs, and say something else than that it hung.
    "TORCH_NCCL_ASYNC_ERROR_HANDLING": "0",
    "TORCH_NCCL_ENABLE_MONITORING": "0",
}

VARIANTS = (
    Variant("ncclP2pOff", {**_NCCL, "NCCL_P2P_DISABLE": "1"}, "NCCL without peer-to-peer: are the GPUs well at all?"),
    Variant("nccl", _NCCL, "NCCL as it is; which transport it takes depends on the CPU's vendor"),
    Variant("ncclP2p", {**_NCCL, "NCCL_P2P_LEVEL": "SYS"}, "NCCL with peer-to-peer at every distance"),
    Variant("peer", {"GLOO_SOCKET_IFNAME": "lo"}, "peer writes and polls, as vLLM's custom all-reduce does"),
)

WITHOUT_PEER_TO_PEER = "ncclP2pOff"
"""The arm that tells a fault of peer-to-peer from any other."""

# Expandable segments cannot be shared by CUDA IPC (vllm-project/vllm#47751).
_REMOVED = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF", "CUDA_LAUNCH_BLOCKING")
_REMOVED_PREFIXES = ("NCCL_", "TORCH_NCCL_", "GLOO_")


def variant_named(name: str) -> Variant:
    """Raises KeyError."""
    return {variant.name: variant for variant in VARIANTS}[name]


def rank_environment(variant: Variant, ambient: Mapping[str, str], folder: Path) -> dict[str, str]:
    """What a pod says of NCCL is about its engine, and would change what is tested. `folder` is for what is built."""
    kept = {
        name: value
        for name, value in ambient.items()
        if name not in _REMOVED and not name.startswith(_REMOVED_PREFIXES)
    }
    return {**kept, **variant.environment, "TRITON_CACHE_DIR": str(folder), "PYTHONUNBUFFERED": "1"}
