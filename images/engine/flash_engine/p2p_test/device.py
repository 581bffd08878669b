"""Numbers on a GPU, and time by its events."""

import statistics
from collections.abc import Callable
from typing import Any

import torch

from flash_engine.p2p_test.payload import Difference, Kind, Payload, number, total

CALLS = 20
"""All-reduces in a timed graph."""
REPLAYS = 20
WARM_UP = 3

_TYPES: dict[Kind, torch.dtype] = {"bf16": torch.bfloat16, "int32": torch.int32}
_BITS: dict[Kind, torch.dtype] = {"bf16": torch.int16, "int32": torch.int32}


class Numbers:
    """One payload's memory on a GPU: what this rank puts in, always at the same address, as a graph wants it."""

    def __init__(self, payload: Payload, rank: int, device: torch.device) -> None:
        self.payload = payload
        self.tensor = torch.zeros(payload.count, dtype=_TYPES[payload.kind], device=device)
        self._rank = rank
        self._positions = torch.arange(payload.count, dtype=torch.int64, device=device)

    def put_in(self, round_number: int) -> None:
        self.tensor.copy_(number(self._positions, self._rank, round_number))

    def compare(self, got: torch.Tensor, round_number: int) -> Difference | None:
        """Waits for the GPU. Bits are compared: a NaN is wrong too."""
        expected = total(self._positions, round_number).to(got.dtype)
        bits = _BITS[self.payload.kind]
        wrong = (expected.view(bits) != got.view(bits)).nonzero()
        if not len(wrong):
            return None
        index = int(wrong[0].item())
        return Difference(len(wrong), got.numel(), index, expected[index].item(), got[index].item())


def captured(record: Callable[[], Any]) -> torch.cuda.CUDAGraph:
    """A graph of what `record` queues."""
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    # NCCL's watchdog thread asks for events meanwhile, which the default mode forbids to every thread.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        record()
    torch.cuda.synchronize()
    return graph


def replaying(
    graph: torch.cuda.CUDAGraph, numbers: Numbers, result: torch.Tensor
) -> Callable[[int], Difference | None]:
    """Replays a graph that all-reduces `numbers` into `result`, with the numbers of a round."""

    def replay(round_number: int) -> Difference | None:
        numbers.put_in(round_number)
        graph.replay()
        return numbers.compare(result, round_number)

    return replay


def micros_per_call(reduce_often: Callable[[], Any]) -> float:
    """Of what queues CALLS all-reduces, a graph's replay for instance: the median over REPLAYS."""
    for _ in range(WARM_UP):
        reduce_often()
    torch.cuda.synchronize()
    times = []
    for _ in range(REPLAYS):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        reduce_often()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) * 1000 / CALLS)
    return round(float(statistics.median(times)), 2)
