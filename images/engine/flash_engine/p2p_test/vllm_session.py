"""The peer arm with vLLM's own kernel, which does floats only, and less than 8 MiB."""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from vllm.distributed.device_communicators.custom_all_reduce import CustomAllreduce

from flash_engine.p2p_test.device import CALLS, Numbers, captured, micros_per_call, replaying
from flash_engine.p2p_test.payload import Difference, Payload


class DeclinedError(Exception):
    """vLLM would not use its kernel here."""


class VllmSession:
    """Raises DeclinedError, and whatever vLLM raises."""

    kernel = "vllm"

    def __init__(self, rank: int, device: torch.device) -> None:
        self._rank = rank
        self._device = device
        self._custom: Any = CustomAllreduce(group=dist.group.WORLD, device=device)
        # Since vLLM 0.30 or so the last part of its start is a step of its own.
        finalize = getattr(self._custom, "finalize_p2p", None)
        if finalize:
            finalize()
        if self._custom.disabled:
            raise DeclinedError("vLLM's custom all-reduce disabled itself; its log says why")

    def takes(self, payload: Payload) -> bool:
        return payload.kind == "bf16" and payload.size < self._custom.max_size

    def reduce(self, payload: Payload, round_number: int) -> Difference | None:
        numbers = self._numbers(payload)
        numbers.put_in(round_number)
        return numbers.compare(self._reduced(numbers.tensor), round_number)

    def capture(self, payload: Payload) -> Callable[[int], Difference | None]:
        numbers = self._numbers(payload)
        result: list[torch.Tensor] = []
        graph = self._captured(lambda: result.append(self._reduced(numbers.tensor)))
        return replaying(graph, numbers, result[0])

    def micros(self, size: int, *, eager: bool = False) -> float:
        numbers = self._numbers(Payload("bf16", size))

        def record() -> None:
            for _ in range(CALLS):
                self._reduced(numbers.tensor)

        return micros_per_call(record if eager else self._captured(record).replay)

    def settle(self) -> None:
        torch.cuda.synchronize()
        dist.barrier()

    def _captured(self, record: Callable[[], Any]) -> torch.cuda.CUDAGraph:
        """At its end vLLM tells the other rank where the graph's input is."""
        with self._custom.capture():
            return captured(record)

    def _reduced(self, tensor: torch.Tensor) -> torch.Tensor:
        reduced: torch.Tensor | None = self._custom.custom_all_reduce(tensor)
        if reduced is None:
            raise DeclinedError(f"vLLM's custom all-reduce declined {tensor.numel()} numbers of {tensor.dtype}")
        return reduced

    def _numbers(self, payload: Payload) -> Numbers:
        return Numbers(payload, self._rank, self._device)
