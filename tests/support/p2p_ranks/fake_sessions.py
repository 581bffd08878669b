"""GPUs made of plain lists: a session adds the inputs of both ranks itself, and can corrupt the result."""

from collections.abc import Callable
from typing import Any

from flash_engine.p2p_test.payload import SMALL, Difference, Payload, ReportStep, difference, expected_sum, input_value

Corruption = Callable[[list[int], int], list[int]]
"""Takes the correct result and the round number, and returns what the rank gets."""


class FakeSession:
    kernel = "fake"

    def __init__(self, corrupt: Corruption | None = None, *, only_graphs: bool = False) -> None:
        self._corrupt = corrupt or (lambda right, _round: right)
        self._only_graphs = only_graphs
        self.has_waited = False

    def supports(self, payload: Payload) -> bool:
        return payload.size <= SMALL

    def reduce(self, payload: Payload, round_number: int) -> Difference | None:
        corrupt: Corruption = (lambda right, _round: right) if self._only_graphs else self._corrupt
        return self._compared(payload, round_number, corrupt)

    def capture(self, payload: Payload) -> Callable[[int], Difference | None]:
        return lambda round_number: self._compared(payload, round_number, self._corrupt)

    def micros(self, size: int, *, eager: bool = False) -> float:  # noqa: ARG002 - a fake takes no time
        return size / 1000

    def wait_for_peer(self) -> None:
        self.has_waited = True

    def _compared(self, payload: Payload, round_number: int, corrupt: Corruption) -> Difference | None:
        right = [expected_sum(position, round_number) for position in range(payload.count)]
        return difference(right, corrupt(right, round_number))


def zeros(right: list[int], _round: int) -> list[int]:
    return [0] * len(right)


def stale(right: list[int], round_number: int) -> list[int]:
    return [expected_sum(position, round_number - 1) for position in range(len(right))]


def stale_peer(right: list[int], round_number: int) -> list[int]:
    return [input_value(at, 0, round_number) + input_value(at, 1, round_number - 1) for at in range(len(right))]


def own_twice(right: list[int], round_number: int) -> list[int]:
    return [2 * input_value(at, 0, round_number) for at in range(len(right))]


def shifted(right: list[int], _round: int) -> list[int]:
    return right[8:] + right[:8]


def torn(right: list[int], round_number: int) -> list[int]:
    return right[:-8] + stale(right, round_number)[-8:]


class FakeBackend:
    def device(self, rank: int) -> dict[str, Any]:
        return {"uuid": f"GPU-{rank}", "nccl": "2.30.4"}

    def open(self, _variant: str, _rank: int, _rendezvous: str, _report_step: ReportStep) -> FakeSession:
        return FakeSession()
