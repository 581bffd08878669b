"""Building blocks on a GPU: checked inputs, CUDA graphs, timing by CUDA events, and memory shared with the peer."""

import ctypes
import statistics
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from flash_engine.p2p_test.payload import Difference, Kind, NotPossibleError, Payload, expected_sum, input_value
from flash_engine.p2p_test.variants import WORLD

CALLS = 20
"""All-reduces in a timed graph."""
TIMED_REPLAYS = 20
WARM_UP = 3

_TYPES: dict[Kind, torch.dtype] = {"bf16": torch.bfloat16, "int32": torch.int32}
_BITS: dict[Kind, torch.dtype] = {"bf16": torch.int16, "int32": torch.int32}


class InputTensor:
    """This rank's input of one payload. Its address is fixed, as CUDA graphs need."""

    def __init__(self, payload: Payload, rank: int, device: torch.device) -> None:
        self.payload = payload
        self.tensor = torch.zeros(payload.count, dtype=_TYPES[payload.kind], device=device)
        self._rank = rank
        self._positions = torch.arange(payload.count, dtype=torch.int64, device=device)

    def fill(self, round_number: int) -> None:
        self.tensor.copy_(input_value(self._positions, self._rank, round_number))

    def compare(self, result: torch.Tensor, round_number: int) -> Difference | None:
        """Wait for the GPU and compare bits, so that a NaN counts as wrong too."""
        expected = expected_sum(self._positions, round_number).to(result.dtype)
        bits = _BITS[self.payload.kind]
        wrong = (expected.view(bits) != result.view(bits)).nonzero()
        if not len(wrong):
            return None
        index = int(wrong[0].item())
        return Difference(len(wrong), result.numel(), index, expected[index].item(), result[index].item())


def capture_graph(record: Callable[[], Any]) -> torch.cuda.CUDAGraph:
    """Capture what `record` queues."""
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    # NCCL's watchdog thread queries events meanwhile, which the default mode forbids to every thread.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        record()
    torch.cuda.synchronize()
    return graph


def checked_replay(
    graph: torch.cuda.CUDAGraph, inputs: InputTensor, result: torch.Tensor
) -> Callable[[int], Difference | None]:
    """A function that replays the graph with the inputs of a round and checks the result.

    The graph must all-reduce `inputs` into `result`.
    """

    def replay(round_number: int) -> Difference | None:
        inputs.fill(round_number)
        graph.replay()
        return inputs.compare(result, round_number)

    return replay


def micros_per_call(queue_calls: Callable[[], Any]) -> float:
    """Time of one all-reduce, as a median over `TIMED_REPLAYS`. `queue_calls` queues `CALLS` of them."""
    for _ in range(WARM_UP):
        queue_calls()
    torch.cuda.synchronize()
    times = []
    for _ in range(TIMED_REPLAYS):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        queue_calls()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) * 1000 / CALLS)
    return round(float(statistics.median(times)), 2)


_LAZY_ENABLE_PEER_ACCESS = 1
_HANDLE_BYTES = 64


class _Handle(ctypes.Structure):
    _fields_ = (("reserved", ctypes.c_char * _HANDLE_BYTES),)


class PeerMemory:
    """Zeroed GPU memory of the same size on both ranks, mapped into each other by CUDA IPC until the processes end.

    Raises NotPossibleError if CUDA IPC does not work.

    It calls the driver directly. Torch can share memory too, but it opens memory of another GPU as belonging to that
    GPU, and our kernel may not touch it there. Opened from this rank's GPU, as here and in vLLM, it can be accessed
    by this GPU.
    """

    def __init__(self, size: int, rank: int, device: torch.device) -> None:
        torch.zeros(1, device=device)  # makes this GPU's context the current one
        self._driver = ctypes.CDLL("libcuda.so.1")
        self.own = self._allocate(size)
        handles: list[bytes | None] = [None] * WORLD
        dist.all_gather_object(handles, self._export())
        self.peer = self._open(handles[1 - rank] or b"")
        # No rank may write before both have zeroed and opened the memory.
        dist.barrier()

    def _allocate(self, size: int) -> int:
        address = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(size))
        self._call("cuMemsetD8_v2", address, ctypes.c_ubyte(0), ctypes.c_size_t(size))
        torch.cuda.synchronize()
        return address.value

    def _export(self) -> bytes:
        handle = _Handle()
        self._ipc_call("cuIpcGetMemHandle", ctypes.byref(handle), ctypes.c_uint64(self.own))
        return bytes(handle)

    def _open(self, handle: bytes) -> int:
        address = ctypes.c_uint64()
        copy = _Handle.from_buffer_copy(handle)
        self._ipc_call("cuIpcOpenMemHandle_v2", ctypes.byref(address), copy, ctypes.c_uint(_LAZY_ENABLE_PEER_ACCESS))
        return address.value

    def _ipc_call(self, name: str, *arguments: Any) -> None:
        try:
            self._call(name, *arguments)
        except OSError as error:
            raise NotPossibleError(str(error)) from error

    def _call(self, name: str, *arguments: Any) -> None:
        """Raises OSError with the driver's name for the error."""
        code = getattr(self._driver, name)(*arguments)
        if code:
            error_name = ctypes.c_char_p()
            self._driver.cuGetErrorName(code, ctypes.byref(error_name))
            raise OSError(f"{name}: {(error_name.value or b'unknown error').decode()} ({code})")
