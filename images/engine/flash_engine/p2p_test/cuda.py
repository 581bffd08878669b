"""The real GPUs."""

from typing import Any

import torch

from flash_engine.p2p_test.checks import Say, Session
from flash_engine.p2p_test.nccl_variant import NcclSession
from flash_engine.p2p_test.peer_variant import open_peer
from flash_engine.p2p_test.variants import WORLD


class CudaBackend:
    """The first two GPUs that are visible; where there is one, both ranks are on it."""

    def __init__(self) -> None:
        self._device = torch.device("cuda", 0)

    def device(self, rank: int) -> dict[str, Any]:
        """Raises RuntimeError where there is no GPU."""
        count = torch.cuda.device_count()
        if not count:
            raise RuntimeError("no CUDA device is visible")
        self._device = torch.device("cuda", rank if count >= WORLD else 0)
        torch.cuda.set_device(self._device)
        uuid = torch.cuda.get_device_properties(self._device).uuid
        version = ".".join(str(part) for part in torch.cuda.nccl.version())
        return {"uuid": f"GPU-{uuid}", "nccl": version}

    def open(self, variant: str, rank: int, rendezvous: str, say: Say) -> Session:
        """Raises RefusedError, and whatever torch raises."""
        if variant == "peer":
            return open_peer(rank, self._device, rendezvous, say)
        return NcclSession(rank, self._device, rendezvous)
