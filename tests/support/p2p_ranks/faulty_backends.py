"""Real GPUs with a faulty second rank: it uses wrong inputs, or stops in the middle of an all-reduce."""

import os
import signal
from collections.abc import Callable

from flash_engine.p2p_test.cuda_backend import CudaBackend
from flash_engine.p2p_test.payload import LARGE, Difference, Payload, ReportStep, Session


class WrongInputSession:
    """Uses the inputs of another round without noticing, which looks to the peer like a link that corrupts data."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.kernel = session.kernel

    def supports(self, payload: Payload) -> bool:
        return self._session.supports(payload)

    def reduce(self, payload: Payload, round_number: int) -> Difference | None:
        self._session.reduce(payload, round_number + 1)
        return None

    def capture(self, payload: Payload) -> Callable[[int], Difference | None]:
        return self._session.capture(payload)

    def micros(self, size: int, *, eager: bool = False) -> float:
        return self._session.micros(size, eager=eager)

    def wait_for_peer(self) -> None:
        self._session.wait_for_peer()


class StoppingSession(WrongInputSession):
    """Stops its process before the first large all-reduce, so that the peer's kernel waits on the GPU."""

    def reduce(self, payload: Payload, round_number: int) -> Difference | None:
        if payload.size == LARGE:
            os.kill(os.getpid(), signal.SIGSTOP)
        return self._session.reduce(payload, round_number)


class WrongInputBackend(CudaBackend):
    """Rank 1 uses wrong inputs in every variant with peer-to-peer."""

    def open(self, variant: str, rank: int, rendezvous: str, report_step: ReportStep) -> Session:
        session = super().open(variant, rank, rendezvous, report_step)
        return WrongInputSession(session) if rank == 1 and variant != "ncclP2pOff" else session


class StoppingBackend(CudaBackend):
    """Rank 1 stops in two variants: one of NCCL, and the one with our kernel."""

    def open(self, variant: str, rank: int, rendezvous: str, report_step: ReportStep) -> Session:
        session = super().open(variant, rank, rendezvous, report_step)
        return StoppingSession(session) if rank == 1 and variant in ("nccl", "peer") else session
