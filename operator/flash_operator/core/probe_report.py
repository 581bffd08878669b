"""What `flash-probe` found on a node, as it stands in its termination message and in an annotation of the node.

The probe (images/engine/flash_engine/probe) is of the engine's image and may be older or newer than this operator, so
reading it never fails: a report that makes no sense is an inconclusive one.
"""

from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

DECODE_BYTES = (8192, 16384, 65536, 262144)
"""Sizes that decoding all-reduces: one to 32 tokens of 4096 hidden values in bf16."""

ANNOTATION_LIMIT = 4096
"""A kubelet cuts a termination message there; a node needs no more."""


@dataclass(frozen=True)
class ArmTimes:
    """Microseconds of one all-reduce, summed over `DECODE_BYTES`; None for an arm that was not measured at all."""

    peer: float | None
    nccl: float | None
    nccl_p2p_off: float | None


class Arm(BaseModel):
    """One way to all-reduce.

    `ncclP2pOff`, `nccl` as it is, `ncclP2p` (at every level: what NCCL does by itself depends on the CPU's vendor), and
    `peer` (writes and polls, as custom all-reduce does).
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    arm: str
    outcome: str
    detail: str = ""
    kernel: str = ""
    """Of the peer arm: whose kernel ran. Times of another kernel than vLLM's say nothing about vLLM's."""
    micros: dict[int, float] = {}

    @property
    def decode_micros(self) -> float | None:
        """None where a size is missing: sums over different sizes cannot be compared."""
        if self.outcome != "healthy" or not set(DECODE_BYTES) <= set(self.micros):
            return None
        return round(sum(self.micros[size] for size in DECODE_BYTES), 1)


class ProbeReport(BaseModel):
    """One run of the probe."""

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)

    verdict: Literal["healthy", "hang", "corrupt", "notPossible", "inconclusive"]
    reason: str = ""
    # Named here, for a model has a method of that name.
    probe: str = Field(default="", alias="schema")
    driver: str | None = None
    nccl: str | None = None
    arms: tuple[Arm, ...] = ()

    @classmethod
    def parse(cls, text: str) -> "ProbeReport":
        """Read a report; anything else is told as inconclusive, with the words that were there instead."""
        try:
            return cls.model_validate_json(text)
        except ValidationError:
            said = " ".join(text.split())[:200]
            return cls(verdict="inconclusive", reason=f"the probe left no report; its last words: {said or 'none'}")

    @property
    def arm_times(self) -> ArmTimes:
        times = {arm.arm: arm.decode_micros for arm in self.arms}
        peer = next((arm for arm in self.arms if arm.arm == "peer"), None)
        return ArmTimes(
            peer=peer.decode_micros if peer and peer.kernel == "vllm" else None,
            # The table sets the level where peer-to-peer is on, so that is the arm that an engine will use.
            nccl=times.get("ncclP2p", times.get("nccl")),
            nccl_p2p_off=times.get("ncclP2pOff"),
        )
