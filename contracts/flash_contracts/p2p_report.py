"""What the test of a node's links found: the termination message of its Job, and an annotation of the node.

Of one engine image, so that it may be older or newer than the operator that reads it.
"""

from dataclasses import dataclass, field
from typing import ClassVar, Literal, TypeAlias

from flash_contracts.document import KEY, BadDocumentError, Document

Outcome: TypeAlias = Literal["healthy", "hang", "corrupt", "notPossible", "inconclusive"]

DECODE_BYTES = (8192, 16384, 65536, 262144)
"""Sizes that decoding all-reduces: one to 32 tokens of 4096 hidden values in bf16."""

ANNOTATION_LIMIT = 4096
"""A kubelet cuts a termination message there; a node needs no more."""


@dataclass(frozen=True)
class VariantTimes:
    """Microseconds of one all-reduce, summed over `DECODE_BYTES`; None for an arm that was not measured at all."""

    peer: float | None
    nccl: float | None
    nccl_p2p_off: float | None


@dataclass(frozen=True)
class VariantReport(Document):
    """One way to all-reduce.

    `ncclP2pOff`, `nccl` as it is, `ncclP2p` (at every level: what NCCL does by itself depends on the CPU's vendor), and
    `peer` (writes and polls, as custom all-reduce does).
    """

    OMITS_DEFAULTS: ClassVar[bool] = True

    variant: str = field(metadata={KEY: "arm"})
    outcome: str
    """An `Outcome`."""
    detail: str = ""
    kernel: str = ""
    """Of the peer arm: whose kernel ran. Times of another kernel than vLLM's say nothing about vLLM's."""
    micros: dict[int, float] = field(default_factory=dict)
    """Microseconds of one all-reduce, by its bytes."""

    @property
    def decode_micros(self) -> float | None:
        """None where a size is missing: sums over different sizes cannot be compared."""
        if self.outcome != "healthy" or not set(DECODE_BYTES) <= set(self.micros):
            return None
        return round(sum(self.micros[size] for size in DECODE_BYTES), 1)


@dataclass(frozen=True)
class P2pReport(Document):
    """One run of the test."""

    IS_VERSIONED: ClassVar[bool] = True
    WRITER: ClassVar[str] = "flash-probe"
    READERS: ClassVar[tuple[str, ...]] = ("operator",)

    verdict: Outcome
    reason: str = ""
    schema: str = ""
    """Names the test itself: another one may find something else."""
    driver: str | None = None
    nccl: str | None = None
    gpus: tuple[str, ...] = ()
    """The UUIDs of the GPUs that were tested, in the order of the ranks."""
    variants: tuple[VariantReport, ...] = field(default=(), metadata={KEY: "arms"})

    @classmethod
    def of_text(cls, text: str) -> "P2pReport":
        """Read a report; anything else is an inconclusive one, with what was there instead."""
        try:
            return cls.parse_text(text)
        except BadDocumentError:
            found = " ".join(text.split())[:200]
            return cls("inconclusive", f"the probe left no report; its last words: {found or 'none'}")

    @property
    def variant_times(self) -> VariantTimes:
        times = {variant.variant: variant.decode_micros for variant in self.variants}
        peer = next((variant for variant in self.variants if variant.variant == "peer"), None)
        return VariantTimes(
            peer=peer.decode_micros if peer and peer.kernel == "vllm" else None,
            # The table sets the level where peer-to-peer is on, so that is the arm that an engine will use.
            nccl=times.get("ncclP2p", times.get("nccl")),
            nccl_p2p_off=times.get("ncclP2pOff"),
        )
