"""What a rank does with an open arm: it checks every payload, eagerly and in a graph, and times decode's sizes."""

from collections.abc import Callable
from typing import Any, Protocol

from flash_engine.p2p_test.payload import PAYLOADS, TIMED_BYTES, Difference, Payload

EAGER_ROUNDS = 3
REPLAYS = 5

Say = Callable[..., None]
"""Tells a line: the step, and its fields by name."""


class WrongDataError(Exception):
    """A value was not the sum."""


class RefusedError(Exception):
    """NCCL or the driver refuses to do what the arm is about."""


class Session(Protocol):
    """An arm that is open on this rank's GPU, and joined with the other rank."""

    @property
    def kernel(self) -> str:
        """Whose kernel runs, where that is a question."""

    def takes(self, payload: Payload) -> bool:
        """Whether it can all-reduce that."""

    def reduce(self, payload: Payload, round_number: int) -> Difference | None:
        """All-reduce that round's numbers eagerly, and compare."""

    def capture(self, payload: Payload) -> Callable[[int], Difference | None]:
        """Capture a graph of an all-reduce once; what is returned replays it with a round's numbers, and compares."""

    def micros(self, size: int, *, eager: bool = False) -> float:
        """Of one all-reduce of so many bytes in bf16, inside a graph, as in decoding, or eagerly, as in prefill."""

    def settle(self) -> None:
        """Wait for the other rank: memory that it still reads must not go."""


class Backend(Protocol):
    """The GPUs of this machine."""

    def device(self, rank: int) -> dict[str, Any]:
        """Choose the rank's GPU; what `account` calls a device. Raises RuntimeError where there is none."""

    def open(self, variant: str, rank: int, rendezvous: str, say: Say) -> Session:
        """Join the other rank. Raises RefusedError, and whatever torch raises."""


def examine(session: Session, say: Say) -> None:
    """Raises WrongDataError. Both ranks take the same steps, or they would wait for each other for ever."""
    rounds = iter(range(1, 1 << 16))
    for payload in PAYLOADS:
        if session.takes(payload):
            _check(session, payload, say, rounds.__next__)
        else:
            say("note", detail=f"left out: {payload.words}")
    for size in TIMED_BYTES:
        say("begun", what=f"timing {size} bytes")
        say("timed", bytes=size, micros=session.micros(size))
    session.settle()


def _check(session: Session, payload: Payload, say: Say, next_round: Callable[[], int]) -> None:
    for _ in range(EAGER_ROUNDS):
        _must_be_right(session.reduce, payload, next_round(), f"{payload.words}, eager", say)
    say("begun", what=f"{payload.words}, capturing a graph")
    replay = session.capture(payload)
    for _ in range(REPLAYS):
        _must_be_right(lambda _, number: replay(number), payload, next_round(), f"{payload.words}, graph", say)


def _must_be_right(
    reduce: Callable[[Payload, int], Difference | None], payload: Payload, round_number: int, what: str, say: Say
) -> None:
    say("begun", what=what)
    found = reduce(payload, round_number)
    if found:
        raise WrongDataError(f"{what}, round {round_number}: {found.words}")
