"""GPUs of plain lists: two ranks' numbers are added here, unless the session was told to spoil them."""

from collections.abc import Callable
from typing import Any

from flash_engine.p2p_test.checks import Say
from flash_engine.p2p_test.payload import SMALL, Difference, Payload, difference, number, total

Spoil = Callable[[list[int], int], list[int]]
"""Gets what is right, and the round; returns what the rank gets."""


class FakeSession:
    kernel = "fake"

    def __init__(self, spoil: Spoil | None = None, *, only_graphs: bool = False) -> None:
        self._spoil = spoil or (lambda right, _round: right)
        self._only_graphs = only_graphs
        self.settled = False

    def takes(self, payload: Payload) -> bool:
        return payload.size <= SMALL

    def reduce(self, payload: Payload, round_number: int) -> Difference | None:
        spoil: Spoil = (lambda right, _round: right) if self._only_graphs else self._spoil
        return self._compared(payload, round_number, spoil)

    def capture(self, payload: Payload) -> Callable[[int], Difference | None]:
        return lambda round_number: self._compared(payload, round_number, self._spoil)

    def micros(self, size: int, *, eager: bool = False) -> float:  # noqa: ARG002 - a fake takes no time
        return size / 1000

    def settle(self) -> None:
        self.settled = True

    def _compared(self, payload: Payload, round_number: int, spoil: Spoil) -> Difference | None:
        right = [total(position, round_number) for position in range(payload.count)]
        return difference(right, spoil(right, round_number))


def zeros(right: list[int], _round: int) -> list[int]:
    return [0] * len(right)


def stale(right: list[int], round_number: int) -> list[int]:
    return [total(position, round_number - 1) for position in range(len(right))]


def stale_peer(right: list[int], round_number: int) -> list[int]:
    return [number(at, 0, round_number) + number(at, 1, round_number - 1) for at in range(len(right))]


def own_twice(right: list[int], round_number: int) -> list[int]:
    return [2 * number(at, 0, round_number) for at in range(len(right))]


def shifted(right: list[int], _round: int) -> list[int]:
    return right[8:] + right[:8]


def torn(right: list[int], round_number: int) -> list[int]:
    return right[:-8] + stale(right, round_number)[-8:]


class FakeBackend:
    def device(self, rank: int) -> dict[str, Any]:
        return {"uuid": f"GPU-{rank}", "nccl": "2.30.4"}

    def open(self, _arm: str, _rank: int, _rendezvous: str, _say: Say) -> FakeSession:
        return FakeSession()
