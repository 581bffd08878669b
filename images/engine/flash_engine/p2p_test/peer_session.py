"""The `peer` variant: writes to the peer's memory and polls, with vLLM's kernel where it applies and our own otherwise.

Triton and vLLM are imported only here and only when a session is opened: a rank must run without either.
"""

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist

from flash_engine.p2p_test.cuda_device import (
    CALLS,
    InputTensor,
    PeerMemory,
    capture_graph,
    checked_replay,
    micros_per_call,
)
from flash_engine.p2p_test.payload import LARGE, Difference, NotPossibleError, Payload, ReportStep, Session
from flash_engine.p2p_test.variants import WORLD


def open_peer_session(rank: int, device: torch.device, report_step: ReportStep) -> Session:
    """Raises NotPossibleError if the driver refuses peer access, and RuntimeError if no kernel is available."""
    if torch.cuda.device_count() >= WORLD and not torch.cuda.can_device_access_peer(rank, 1 - rank):
        raise NotPossibleError("the driver reports that the GPUs cannot access each other (cudaDeviceCanAccessPeer)")
    kernels: list[tuple[str, Callable[[int, torch.device], Session]]] = [("Triton", TritonSession)]
    if torch.cuda.device_count() >= WORLD and importlib.util.find_spec("vllm"):
        kernels.insert(0, ("vLLM", VllmSession))
    sessions = [session for name, load in kernels if (session := _try_open(name, load, rank, device, report_step))]
    if not sessions:
        raise RuntimeError("neither vLLM's nor Triton's kernel could be used")
    if len(sessions) > 1:
        report_step("note", detail="int32 and 16 MiB use Triton's kernel: vLLM's supports neither")
    return PeerSession(sessions)


def _try_open(
    name: str, load: Callable[[int, torch.device], Session], rank: int, device: torch.device, report_step: ReportStep
) -> Session | None:
    """None if either rank cannot open it, because one rank alone would wait forever."""
    session: Session | None = None
    try:
        session = load(rank, device)
    except NotPossibleError:
        raise
    except Exception as error:  # noqa: BLE001 - another kernel may work
        report_step("note", detail=f"could not use {name}'s kernel: {type(error).__name__}: {error}"[:200])
    opened: list[bool | None] = [None] * WORLD
    dist.all_gather_object(opened, session is not None)
    return session if all(opened) else None


class PeerSession:
    """Combines several kernels. The first that supports a payload runs it, and is the one that is timed."""

    def __init__(self, sessions: Sequence[Session]) -> None:
        self._sessions = sessions
        self.kernel = sessions[0].kernel

    def supports(self, payload: Payload) -> bool:
        return any(session.supports(payload) for session in self._sessions)

    def reduce(self, payload: Payload, round_number: int) -> Difference | None:
        return self._for(payload).reduce(payload, round_number)

    def capture(self, payload: Payload) -> Callable[[int], Difference | None]:
        return self._for(payload).capture(payload)

    def micros(self, size: int, *, eager: bool = False) -> float:
        return self._for(Payload("bf16", size)).micros(size, eager=eager)

    def wait_for_peer(self) -> None:
        self._sessions[0].wait_for_peer()

    def _for(self, payload: Payload) -> Session:
        return next(session for session in self._sessions if session.supports(payload))


class TritonSession:
    """Runs our own kernel. Raises NotPossibleError if CUDA IPC does not work, and ImportError without Triton."""

    kernel = "triton"

    def __init__(self, rank: int, device: torch.device) -> None:
        self._rank = rank
        self._device = device
        kernel: Any = importlib.import_module("flash_engine.p2p_test.peer_kernel")
        self._all_reduce = kernel.all_reduce
        self._grid = (kernel.PROGRAMS,)
        self._constants = {
            "DATA_BYTES": LARGE,
            "PROGRAMS": kernel.PROGRAMS,
            "BLOCK": kernel.BLOCK,
            "FLAG_STRIDE": kernel.FLAG_STRIDE,
            "num_warps": 8,
            "num_stages": 1,
        }
        self._memory = PeerMemory(kernel.FLAGS_BYTES + 2 * LARGE, rank, device)
        self._rounds = torch.zeros(kernel.PROGRAMS, dtype=torch.int32, device=device)
        for dtype in (torch.bfloat16, torch.int32):
            self._compile(torch.zeros(kernel.BLOCK, dtype=dtype, device=device))

    def supports(self, payload: Payload) -> bool:
        return payload.size <= LARGE

    def reduce(self, payload: Payload, round_number: int) -> Difference | None:
        inputs = self._inputs(payload)
        inputs.fill(round_number)
        return inputs.compare(self._launch(inputs.tensor), round_number)

    def capture(self, payload: Payload) -> Callable[[int], Difference | None]:
        inputs = self._inputs(payload)
        result = torch.empty_like(inputs.tensor)
        return checked_replay(capture_graph(lambda: self._launch(inputs.tensor, result)), inputs, result)

    def micros(self, size: int, *, eager: bool = False) -> float:
        inputs = self._inputs(Payload("bf16", size))
        result = torch.empty_like(inputs.tensor)

        def record() -> None:
            for _ in range(CALLS):
                self._launch(inputs.tensor, result)

        return micros_per_call(record if eager else capture_graph(record).replay)

    def wait_for_peer(self) -> None:
        torch.cuda.synchronize()
        dist.barrier()

    def _inputs(self, payload: Payload) -> InputTensor:
        return InputTensor(payload, self._rank, self._device)

    def _compile(self, example: torch.Tensor) -> None:
        """Compile without running, before the rank is ready: a hang must not look like a slow start, or vice versa."""
        self._all_reduce.warmup(*self._arguments(example, example), **self._constants, grid=self._grid)

    def _launch(self, mine: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        result = torch.empty_like(mine) if out is None else out
        self._all_reduce[self._grid](*self._arguments(mine, result), **self._constants)
        return result

    def _arguments(self, mine: torch.Tensor, out: torch.Tensor) -> tuple[Any, ...]:
        return mine, out, self._memory.own, self._memory.peer, self._rounds, mine.numel()


class DeclinedError(Exception):
    """vLLM declined to use its kernel."""


class VllmSession:
    """Runs vLLM's own kernel: floats only, less than 8 MiB. Raises DeclinedError, and whatever vLLM raises."""

    kernel = "vllm"

    def __init__(self, rank: int, device: torch.device) -> None:
        self._rank = rank
        self._device = device
        module: Any = importlib.import_module("vllm.distributed.device_communicators.custom_all_reduce")
        self._custom = module.CustomAllreduce(group=dist.group.WORLD, device=device)
        # Since about vLLM 0.30 the last part of its setup is a separate call.
        finalize = getattr(self._custom, "finalize_p2p", None)
        if finalize:
            finalize()
        if self._custom.disabled:
            raise DeclinedError("vLLM's custom all-reduce disabled itself; its log has the reason")

    def supports(self, payload: Payload) -> bool:
        return payload.kind == "bf16" and payload.size < self._custom.max_size

    def reduce(self, payload: Payload, round_number: int) -> Difference | None:
        inputs = self._inputs(payload)
        inputs.fill(round_number)
        return inputs.compare(self._reduced(inputs.tensor), round_number)

    def capture(self, payload: Payload) -> Callable[[int], Difference | None]:
        inputs = self._inputs(payload)
        result: list[torch.Tensor] = []
        graph = self._capture_graph(lambda: result.append(self._reduced(inputs.tensor)))
        return checked_replay(graph, inputs, result[0])

    def micros(self, size: int, *, eager: bool = False) -> float:
        inputs = self._inputs(Payload("bf16", size))

        def record() -> None:
            for _ in range(CALLS):
                self._reduced(inputs.tensor)

        return micros_per_call(record if eager else self._capture_graph(record).replay)

    def wait_for_peer(self) -> None:
        torch.cuda.synchronize()
        dist.barrier()

    def _inputs(self, payload: Payload) -> InputTensor:
        return InputTensor(payload, self._rank, self._device)

    def _capture_graph(self, record: Callable[[], Any]) -> torch.cuda.CUDAGraph:
        """When the context ends, vLLM sends the other rank the address of the graph's input."""
        with self._custom.capture():
            return capture_graph(record)

    def _reduced(self, tensor: torch.Tensor) -> torch.Tensor:
        reduced: torch.Tensor | None = self._custom.custom_all_reduce(tensor)
        if reduced is None:
            raise DeclinedError(f"vLLM's custom all-reduce declined {tensor.numel()} numbers of {tensor.dtype}")
        return reduced
