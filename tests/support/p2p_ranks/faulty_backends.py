"""Real GPUs, of which the second rank goes wrong: by wrong numbers, or by stopping in the midst of an all-reduce."""

import os
import signal
from collections.abc import Callable

from flash_engine.p2p_test.checks import Say, Session
from flash_engine.p2p_test.cuda import CudaBackend
from flash_engine.p2p_test.payload import LARGE, Difference, Payload


class SpoilingSession:
    """Puts in the numbers of another round, and knows nothing of it: what a link that corrupts looks like."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.kernel = session.kernel

    def takes(self, payload: Payload) -> bool:
        return self._session.takes(payload)

    def reduce(self, payload: Payload, round_number: int) -> Difference | None:
        self._session.reduce(payload, round_number + 1)
        return None

    def capture(self, payload: Payload) -> Callable[[int], Difference | None]:
        return self._session.capture(payload)

    def micros(self, size: int, *, eager: bool = False) -> float:
        return self._session.micros(size, eager=eager)

    def settle(self) -> None:
        self._session.settle()


class StoppingSession(SpoilingSession):
    """Stops its process before the first large all-reduce: its peer's kernel waits on the GPU."""

    def reduce(self, payload: Payload, round_number: int) -> Difference | None:
        if payload.size == LARGE:
            os.kill(os.getpid(), signal.SIGSTOP)
        return self._session.reduce(payload, round_number)


class SpoilingBackend(CudaBackend):
    """Rank 1 spoils every arm with peer-to-peer."""

    def open(self, variant: str, rank: int, rendezvous: str, say: Say) -> Session:
        session = super().open(variant, rank, rendezvous, say)
        return SpoilingSession(session) if rank == 1 and variant != "ncclP2pOff" else session


class StoppingBackend(CudaBackend):
    """Rank 1 stops in two arms, one of NCCL's and the one with our kernel."""

    def open(self, variant: str, rank: int, rendezvous: str, say: Say) -> Session:
        session = super().open(variant, rank, rendezvous, say)
        return StoppingSession(session) if rank == 1 and variant in ("nccl", "peer") else session
