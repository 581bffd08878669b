"""Runs variants on real GPUs: selects a rank's GPU and opens the variant's session. Implements the NCCL variants."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from flash_engine.p2p_test.cuda_device import CALLS, InputTensor, capture_graph, checked_replay, micros_per_call
from flash_engine.p2p_test.payload import Difference, NotPossibleError, Payload, ReportStep, Session
from flash_engine.p2p_test.peer_session import open_peer_session
from flash_engine.p2p_test.variants import WORLD

JOIN_TIMEOUT = timedelta(minutes=10)
"""Far longer than the parent waits, so that the parent decides."""

_REFUSALS = ("Duplicate GPU detected", "peer access is not supported")


class CudaBackend:
    """Uses the first two visible GPUs. If only one is visible, both ranks share it."""

    def __init__(self) -> None:
        self._device = torch.device("cuda", 0)

    def device(self, rank: int) -> dict[str, Any]:
        """Raises RuntimeError if there is no GPU."""
        count = torch.cuda.device_count()
        if not count:
            raise RuntimeError("no CUDA device is visible")
        self._device = torch.device("cuda", rank if count >= WORLD else 0)
        torch.cuda.set_device(self._device)
        uuid = torch.cuda.get_device_properties(self._device).uuid
        version = ".".join(str(part) for part in torch.cuda.nccl.version())
        return {"uuid": f"GPU-{uuid}", "nccl": version}

    def open(self, variant: str, rank: int, rendezvous: str, report_step: ReportStep) -> Session:
        """Raises NotPossibleError, and whatever torch raises."""
        is_peer = variant == "peer"
        with _nccl_refusals():
            dist.init_process_group(
                "gloo" if is_peer else "nccl",
                init_method=f"file://{rendezvous}",
                timeout=JOIN_TIMEOUT,
                world_size=WORLD,
                rank=rank,
                device_id=None if is_peer else self._device,
            )
        return open_peer_session(rank, self._device, report_step) if is_peer else NcclSession(rank, self._device)


class NcclSession:
    """All-reduces with NCCL, over the default process group. The environment selects NCCL's transport."""

    kernel = ""

    def __init__(self, rank: int, device: torch.device) -> None:
        self._rank = rank
        self._device = device

    def supports(self, _payload: Payload) -> bool:
        return True

    def reduce(self, payload: Payload, round_number: int) -> Difference | None:
        inputs = self._inputs(payload)
        inputs.fill(round_number)
        # NCCL sets up peer access only in the first all-reduce.
        with _nccl_refusals():
            dist.all_reduce(inputs.tensor)
        return inputs.compare(inputs.tensor, round_number)

    def capture(self, payload: Payload) -> Callable[[int], Difference | None]:
        inputs = self._inputs(payload)
        result = torch.empty_like(inputs.tensor)

        def record() -> None:
            result.copy_(inputs.tensor)
            dist.all_reduce(result)

        return checked_replay(capture_graph(record), inputs, result)

    def micros(self, size: int, *, eager: bool = False) -> float:
        inputs = self._inputs(Payload("bf16", size))
        dist.all_reduce(inputs.tensor)

        def record() -> None:
            for _ in range(CALLS):
                dist.all_reduce(inputs.tensor)

        return micros_per_call(record if eager else capture_graph(record).replay)

    def wait_for_peer(self) -> None:
        dist.barrier()
        torch.cuda.synchronize()

    def _inputs(self, payload: Payload) -> InputTensor:
        return InputTensor(payload, self._rank, self._device)


@contextmanager
def _nccl_refusals() -> Iterator[None]:
    """Raise NotPossibleError for what NCCL refuses, with NCCL's own line from torch's longer message."""
    try:
        yield
    except dist.DistBackendError as error:
        refusal = next((line for line in str(error).splitlines() if any(text in line for text in _REFUSALS)), None)
        if refusal:
            raise NotPossibleError(refusal.strip()) from error
        raise
