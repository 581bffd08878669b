"""The report of the p2p test on a node: the termination message of its Job, also stored in an annotation of the node.

The test runs in the engine image, so its report may be older or newer than the operator that reads it.
"""

from dataclasses import dataclass, field
from typing import ClassVar, Literal, TypeAlias

from flash_contracts.document import KEY, BadDocumentError, Document

Outcome: TypeAlias = Literal["healthy", "hang", "corrupt", "notPossible", "inconclusive"]

DECODE_BYTES = (8192, 16384, 65536, 262144)
"""Sizes of all-reduces during decoding: 1 to 32 tokens of 4096 hidden values in bf16."""

ANNOTATION_LIMIT = 4096
"""The kubelet truncates termination messages at this size; the node's annotation needs no more."""


@dataclass(frozen=True)
class VariantTimes:
    """Microseconds of one all-reduce, summed over `DECODE_BYTES`. None for a variant that was not measured."""

    peer: float | None
    nccl: float | None
    nccl_p2p_off: float | None


@dataclass(frozen=True)
class VariantReport(Document):
    """The result of one all-reduce variant.

    The variants are `ncclP2pOff`, `nccl` (defaults), `ncclP2p` (peer-to-peer at every level, because NCCL's default
    depends on the CPU vendor) and `peer` (writes to the peer and polls, as custom all-reduce does).
    """

    OMITS_DEFAULTS: ClassVar[bool] = True

    variant: str = field(metadata={KEY: "arm"})
    outcome: str
    """An `Outcome`."""
    detail: str = ""
    kernel: str = ""
    """Whose kernel the `peer` variant ran. Times of another kernel do not apply to vLLM's."""
    micros: dict[int, float] = field(default_factory=dict)
    """Microseconds of one all-reduce, by its size in bytes."""

    @property
    def decode_micros(self) -> float | None:
        """Sum over `DECODE_BYTES`. None if a size is missing, because sums over different sizes cannot be compared."""
        if self.outcome != "healthy" or not set(DECODE_BYTES) <= set(self.micros):
            return None
        return round(sum(self.micros[size] for size in DECODE_BYTES), 1)


@dataclass(frozen=True)
class P2pReport(Document):
    """One run of the p2p test."""

    IS_VERSIONED: ClassVar[bool] = True
    WRITER: ClassVar[str] = "flash-p2p-test"
    READERS: ClassVar[tuple[str, ...]] = ("operator",)

    verdict: Outcome
    reason: str = ""
    schema: str = ""
    """Version of the test itself: another version may have another result."""
    driver: str | None = None
    nccl: str | None = None
    gpus: tuple[str, ...] = ()
    """UUIDs of the tested GPUs, in the order of the ranks."""
    variants: tuple[VariantReport, ...] = field(default=(), metadata={KEY: "arms"})

    @classmethod
    def of_text(cls, text: str) -> "P2pReport":
        """Read a report. Invalid text becomes an inconclusive report that quotes it."""
        try:
            return cls.parse_text(text)
        except BadDocumentError:
            found = " ".join(text.split())[:200]
            return cls("inconclusive", f"the p2p test left no report; its output: {found or 'none'}")

    @property
    def variant_times(self) -> VariantTimes:
        times = {variant.variant: variant.decode_micros for variant in self.variants}
        peer = next((variant for variant in self.variants if variant.variant == "peer"), None)
        return VariantTimes(
            peer=peer.decode_micros if peer and peer.kernel == "vllm" else None,
            # The flags table sets P2P_LEVEL if peer-to-peer is on, so an engine behaves like this variant.
            nccl=times.get("ncclP2p", times.get("nccl")),
            nccl_p2p_off=times.get("ncclP2pOff"),
        )
