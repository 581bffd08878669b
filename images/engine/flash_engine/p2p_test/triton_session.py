"""The peer arm with our own kernel."""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from flash_engine.p2p_test import peer_kernel
from flash_engine.p2p_test.device import CALLS, Numbers, captured, micros_per_call, replaying
from flash_engine.p2p_test.payload import LARGE, Difference, Payload
from flash_engine.p2p_test.peer_memory import PeerMemory

_GRID = (peer_kernel.PROGRAMS,)
_CONSTANTS = {
    "DATA_BYTES": LARGE,
    "PROGRAMS": peer_kernel.PROGRAMS,
    "BLOCK": peer_kernel.BLOCK,
    "FLAG_STRIDE": peer_kernel.FLAG_STRIDE,
    "num_warps": 8,
    "num_stages": 1,
}


class TritonSession:
    """Raises RefusedError where CUDA IPC does not work."""

    kernel = "triton"

    def __init__(self, rank: int, device: torch.device) -> None:
        self._rank = rank
        self._device = device
        self._memory = PeerMemory(peer_kernel.FLAGS_BYTES + 2 * LARGE, rank, device)
        self._rounds = torch.zeros(peer_kernel.PROGRAMS, dtype=torch.int32, device=device)
        for dtype in (torch.bfloat16, torch.int32):
            self._compile(torch.zeros(peer_kernel.BLOCK, dtype=dtype, device=device))

    def takes(self, payload: Payload) -> bool:
        return payload.size <= LARGE

    def reduce(self, payload: Payload, round_number: int) -> Difference | None:
        numbers = self._numbers(payload)
        numbers.put_in(round_number)
        return numbers.compare(self._launch(numbers.tensor), round_number)

    def capture(self, payload: Payload) -> Callable[[int], Difference | None]:
        numbers = self._numbers(payload)
        result = torch.empty_like(numbers.tensor)
        return replaying(captured(lambda: self._launch(numbers.tensor, result)), numbers, result)

    def micros(self, size: int, *, eager: bool = False) -> float:
        numbers = self._numbers(Payload("bf16", size))
        result = torch.empty_like(numbers.tensor)

        def record() -> None:
            for _ in range(CALLS):
                self._launch(numbers.tensor, result)

        return micros_per_call(record if eager else captured(record).replay)

    def settle(self) -> None:
        torch.cuda.synchronize()
        dist.barrier()

    def _numbers(self, payload: Payload) -> Numbers:
        return Numbers(payload, self._rank, self._device)

    def _compile(self, example: torch.Tensor) -> None:
        """Before the rank is ready, and without running it: a hang must not look like a slow start, nor the reverse."""
        peer_kernel.all_reduce.warmup(*self._arguments(example, example), **_CONSTANTS, grid=_GRID)

    def _launch(self, mine: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        result = torch.empty_like(mine) if out is None else out
        peer_kernel.all_reduce[_GRID](*self._arguments(mine, result), **_CONSTANTS)
        return result

    def _arguments(self, mine: torch.Tensor, out: torch.Tensor) -> tuple[Any, ...]:
        return mine, out, self._memory.own, self._memory.peer, self._rounds, mine.numel()
