"""What is all-reduced: numbers by which stale, torn, swapped or zero data is seen. Pure, and free of torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from flash_engine.p2p_test.variants import WORLD

Kind: TypeAlias = Literal["bf16", "int32"]

ITEM_BYTES: dict[Kind, int] = {"bf16": 2, "int32": 4}
SMALL, LARGE = 8 << 10, 16 << 20
TIMED_BYTES = (8192, 16384, 65536, 262144, 1048576)
"""What decoding all-reduces: one to 128 tokens of 4096 hidden values in bf16."""

_PRIME = 127
"""Each rank's numbers are 1 to 127, so their sum is at most 254: bf16 holds every whole number up to 256."""


@dataclass(frozen=True)
class Payload:
    """What one all-reduce is about."""

    kind: Kind
    size: int
    """Bytes."""

    @property
    def count(self) -> int:
        return self.size // ITEM_BYTES[self.kind]

    @property
    def words(self) -> str:
        return f"{self.kind}, {self.size} bytes"


PAYLOADS = (Payload("bf16", SMALL), Payload("int32", SMALL), Payload("bf16", LARGE), Payload("int32", LARGE))


def number(position: Any, rank: int, round_number: int) -> Any:
    """What `rank` puts in at `position`. A position may be a tensor of int64, then so is the answer.

    A multiplicative hash (Knuth), for with anything linear data that is shifted or a round old looks right too often.
    """
    mixed = (position * 1_103_515_245 + rank * 777_767_777 + round_number * 1_640_531_527 + 12_345) % (1 << 31)
    return (mixed // (1 << 16)) % _PRIME + 1


def total(position: Any, round_number: int) -> Any:
    """What every rank must get."""
    return sum(number(position, rank, round_number) for rank in range(WORLD))


@dataclass(frozen=True)
class Difference:
    """How wrong data is wrong."""

    wrong: int
    of: int
    index: int
    """The first wrong one."""
    expected: float
    got: float

    @property
    def words(self) -> str:
        return f"{self.wrong} of {self.of} wrong, first at {self.index}: expected {self.expected}, got {self.got}"


def difference(expected: Sequence[float], got: Sequence[float]) -> Difference | None:
    """None where all are equal. The same for tensors is in `device`."""
    wrong = [index for index, (wanted, there) in enumerate(zip(expected, got, strict=True)) if wanted != there]
    return Difference(len(wrong), len(got), wrong[0], expected[wrong[0]], got[wrong[0]]) if wrong else None
