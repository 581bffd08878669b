"""The payloads that the ranks all-reduce, and the check of every value. Pure: it does not need torch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

from flash_engine.p2p_test.variants import WORLD

Kind: TypeAlias = Literal["bf16", "int32"]

ITEM_BYTES: dict[Kind, int] = {"bf16": 2, "int32": 4}
SMALL, LARGE = 8 << 10, 16 << 20
TIMED_BYTES = (8192, 16384, 65536, 262144, 1048576)
"""Sizes of all-reduces during decoding: 1 to 128 tokens of 4096 hidden values in bf16."""

EAGER_ROUNDS = 3
REPLAYS = 5

_PRIME = 127
"""Each rank's values are 1 to 127, so a sum is at most 254. bf16 represents every integer up to 256 exactly."""


@dataclass(frozen=True)
class Payload:
    """Type and size of the data of one all-reduce."""

    kind: Kind
    size: int
    """Bytes."""

    @property
    def count(self) -> int:
        return self.size // ITEM_BYTES[self.kind]

    @property
    def description(self) -> str:
        return f"{self.kind}, {self.size} bytes"


PAYLOADS = (Payload("bf16", SMALL), Payload("int32", SMALL), Payload("bf16", LARGE), Payload("int32", LARGE))


def input_value(position: Any, rank: int, round_number: int) -> Any:
    """The input of `rank` at `position`. For an int64 tensor of positions the result is a tensor of values.

    The values expose stale, torn, swapped and zero data. They are a multiplicative hash (Knuth): with linear values,
    data that is shifted or a round old would look right too often.
    """
    mixed = (position * 1_103_515_245 + rank * 777_767_777 + round_number * 1_640_531_527 + 12_345) % (1 << 31)
    return (mixed // (1 << 16)) % _PRIME + 1


def expected_sum(position: Any, round_number: int) -> Any:
    """The result that every rank must get."""
    return sum(input_value(position, rank, round_number) for rank in range(WORLD))


@dataclass(frozen=True)
class Difference:
    """How a result differs from the expected one."""

    wrong: int
    of: int
    index: int
    """Position of the first wrong value."""
    expected: float
    got: float

    @property
    def description(self) -> str:
        return f"{self.wrong} of {self.of} wrong, first at {self.index}: expected {self.expected}, got {self.got}"


def difference(expected: Sequence[float], got: Sequence[float]) -> Difference | None:
    """None if all values are equal. `cuda_device` has the same for tensors."""
    wrong = [index for index, (wanted, actual) in enumerate(zip(expected, got, strict=True)) if wanted != actual]
    return Difference(len(wrong), len(got), wrong[0], expected[wrong[0]], got[wrong[0]]) if wrong else None


ReportStep = Callable[..., None]
"""Reports one step to the parent: its name, and its fields as keyword arguments."""


class WrongDataError(Exception):
    """A value was not the expected sum."""


class NotPossibleError(Exception):
    """NCCL or the driver refuses what the variant needs."""


class Session(Protocol):
    """A variant on this rank's GPU, connected to the other rank."""

    @property
    def kernel(self) -> str:
        """Whose kernel runs, for a variant with a choice of kernels."""

    def supports(self, payload: Payload) -> bool:
        """Whether it can all-reduce this payload."""

    def reduce(self, payload: Payload, round_number: int) -> Difference | None:
        """All-reduce the inputs of the round eagerly and check the result."""

    def capture(self, payload: Payload) -> Callable[[int], Difference | None]:
        """Capture an all-reduce in a graph. The returned function replays it for a round and checks the result."""

    def micros(self, size: int, *, eager: bool = False) -> float:
        """Time of one bf16 all-reduce of `size` bytes: in a graph as in decoding, or eagerly as in prefill."""

    def wait_for_peer(self) -> None:
        """Wait until the other rank has finished too, because it may still read this rank's memory."""


class Backend(Protocol):
    """The GPUs of this machine."""

    def device(self, rank: int) -> dict[str, Any]:
        """Select the rank's GPU and return the fields of the step `device`. Raises RuntimeError if there is none."""

    def open(self, variant: str, rank: int, rendezvous: str, report_step: ReportStep) -> Session:
        """Connect to the other rank. Raises NotPossibleError, and whatever torch raises."""


def run_checks(session: Session, report_step: ReportStep) -> None:
    """Check every payload, eagerly and in a graph, and time the sizes of decoding. Raises WrongDataError.

    Both ranks must take the same steps, or they would wait for each other forever.
    """
    rounds = iter(range(1, 1 << 16))
    for payload in PAYLOADS:
        if session.supports(payload):
            _check_payload(session, payload, report_step, rounds.__next__)
        else:
            report_step("note", detail=f"left out: {payload.description}")
    for size in TIMED_BYTES:
        report_step("begun", what=f"timing {size} bytes")
        report_step("timed", bytes=size, micros=session.micros(size))
    session.wait_for_peer()


def _check_payload(session: Session, payload: Payload, report_step: ReportStep, next_round: Callable[[], int]) -> None:
    for _ in range(EAGER_ROUNDS):
        what = f"{payload.description}, eager"
        _check_round(lambda number: session.reduce(payload, number), next_round(), what, report_step)
    report_step("begun", what=f"{payload.description}, capturing a graph")
    replay = session.capture(payload)
    for _ in range(REPLAYS):
        _check_round(replay, next_round(), f"{payload.description}, graph", report_step)


def _check_round(
    reduce: Callable[[int], Difference | None], round_number: int, what: str, report_step: ReportStep
) -> None:
    report_step("begun", what=what)
    found = reduce(round_number)
    if found:
        raise WrongDataError(f"{what}, round {round_number}: {found.description}")
