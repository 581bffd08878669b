"""The arm that writes to the peer and polls: with vLLM's kernel for what it takes, with our own for the rest."""

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from datetime import timedelta

import torch
import torch.distributed as dist

from flash_engine.p2p_test.checks import RefusedError, Say, Session
from flash_engine.p2p_test.payload import Difference, Payload
from flash_engine.p2p_test.variants import WORLD

JOIN_TIMEOUT = timedelta(minutes=10)
"""Far longer than the parent waits, which is the one to judge."""


class PeerSession:
    """Several kernels as one; the first that takes a payload does it, and is timed with it."""

    def __init__(self, sessions: Sequence[Session]) -> None:
        self._sessions = sessions
        self.kernel = sessions[0].kernel

    def takes(self, payload: Payload) -> bool:
        return any(session.takes(payload) for session in self._sessions)

    def reduce(self, payload: Payload, round_number: int) -> Difference | None:
        return self._for(payload).reduce(payload, round_number)

    def capture(self, payload: Payload) -> Callable[[int], Difference | None]:
        return self._for(payload).capture(payload)

    def micros(self, size: int, *, eager: bool = False) -> float:
        return self._for(Payload("bf16", size)).micros(size, eager=eager)

    def settle(self) -> None:
        self._sessions[0].settle()

    def _for(self, payload: Payload) -> Session:
        return next(session for session in self._sessions if session.takes(payload))


def open_peer(rank: int, device: torch.device, rendezvous: str, say: Say) -> Session:
    """Raises RefusedError where the driver keeps the GPUs apart, and RuntimeError where there is no kernel."""
    dist.init_process_group(
        "gloo", init_method=f"file://{rendezvous}", timeout=JOIN_TIMEOUT, world_size=WORLD, rank=rank
    )
    _must_reach_peer(rank)
    loads = [("Triton", _triton)]
    if torch.cuda.device_count() >= WORLD and importlib.util.find_spec("vllm"):
        loads.insert(0, ("vLLM", _vllm))
    sessions = [session for name, load in loads if (session := _opened(name, load, rank, device, say))]
    if not sessions:
        raise RuntimeError("neither vLLM's nor Triton's kernel could be used")
    if len(sessions) > 1:
        say("note", detail="int32 and 16 MiB with Triton's kernel: vLLM's does neither")
    return PeerSession(sessions)


def _must_reach_peer(rank: int) -> None:
    if torch.cuda.device_count() >= WORLD and not torch.cuda.can_device_access_peer(rank, 1 - rank):
        raise RefusedError("the driver says that the GPUs cannot access each other (cudaDeviceCanAccessPeer)")


def _opened(
    name: str, load: Callable[[int, torch.device], Session], rank: int, device: torch.device, say: Say
) -> Session | None:
    """None where either rank cannot have it: one alone would wait for ever."""
    session: Session | None = None
    try:
        session = load(rank, device)
    except RefusedError:
        raise
    except Exception as error:  # noqa: BLE001 - another kernel may do
        say("note", detail=f"not with {name}'s kernel: {type(error).__name__}: {error}"[:200])
    have: list[bool | None] = [None] * WORLD
    dist.all_gather_object(have, session is not None)
    return session if all(have) else None


def _triton(rank: int, device: torch.device) -> Session:
    session: Session = importlib.import_module("flash_engine.p2p_test.triton_session").TritonSession(rank, device)
    return session


def _vllm(rank: int, device: torch.device) -> Session:
    session: Session = importlib.import_module("flash_engine.p2p_test.vllm_session").VllmSession(rank, device)
    return session
