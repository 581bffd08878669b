"""The arms that all-reduce with NCCL; how NCCL goes about it is in their environment."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist

from flash_engine.p2p_test.checks import RefusedError
from flash_engine.p2p_test.device import CALLS, Numbers, captured, micros_per_call, replaying
from flash_engine.p2p_test.payload import Difference, Payload
from flash_engine.p2p_test.variants import WORLD

JOIN_TIMEOUT = timedelta(minutes=10)
"""Far longer than the parent waits, which is the one to judge."""

_REFUSALS = ("Duplicate GPU detected", "peer access is not supported")


class NcclSession:
    """Raises RefusedError where NCCL will not have these two GPUs."""

    kernel = ""

    def __init__(self, rank: int, device: torch.device, rendezvous: str) -> None:
        self._rank = rank
        self._device = device
        with _refusals_told():
            dist.init_process_group(
                "nccl",
                init_method=f"file://{rendezvous}",
                timeout=JOIN_TIMEOUT,
                world_size=WORLD,
                rank=rank,
                device_id=device,
            )

    def takes(self, _payload: Payload) -> bool:
        return True

    def reduce(self, payload: Payload, round_number: int) -> Difference | None:
        numbers = self._numbers(payload)
        numbers.put_in(round_number)
        # NCCL joins the GPUs' memories only in the first one.
        with _refusals_told():
            dist.all_reduce(numbers.tensor)
        return numbers.compare(numbers.tensor, round_number)

    def capture(self, payload: Payload) -> Callable[[int], Difference | None]:
        numbers = self._numbers(payload)
        result = torch.empty_like(numbers.tensor)

        def record() -> None:
            result.copy_(numbers.tensor)
            dist.all_reduce(result)

        return replaying(captured(record), numbers, result)

    def micros(self, size: int, *, eager: bool = False) -> float:
        numbers = self._numbers(Payload("bf16", size))
        dist.all_reduce(numbers.tensor)

        def record() -> None:
            for _ in range(CALLS):
                dist.all_reduce(numbers.tensor)

        return micros_per_call(record if eager else captured(record).replay)

    def settle(self) -> None:
        dist.barrier()
        torch.cuda.synchronize()

    def _numbers(self, payload: Payload) -> Numbers:
        return Numbers(payload, self._rank, self._device)


@contextmanager
def _refusals_told() -> Iterator[None]:
    """Raises RefusedError for what NCCL will not do, with its own words: torch puts more around them."""
    try:
        yield
    except dist.DistBackendError as error:
        refusal = next((line for line in str(error).splitlines() if any(words in line for words in _REFUSALS)), None)
        if refusal:
            raise RefusedError(refusal.strip()) from error
        raise
