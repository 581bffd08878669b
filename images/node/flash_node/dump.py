"""The readings of one node, in a form that can be saved, attached to a bug report, and loaded again.

They are raw values from NVML and /sys, which `assessment` interprets. None means that a value could not be read;
`faults` has the reasons.
"""

from itertools import combinations
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic.alias_generators import to_camel

from flash_node.foreign import decoded, foreign_format

PAIR = 2

Amount = Annotated[int, Field(ge=0, lt=1 << 64)]
"""A number from NVML."""


MOST_GPUS = 64
MOST_NUMA_NODES = 1024
"""The kernel's MAX_NUMNODES, which no host exceeds."""

HOW_TO_SAVE = (
    "take a dump on the node itself with `flash-topology --save FILE`, or in its labeller's pod with "
    "`kubectl exec POD -- flash-topology --save - > FILE`"
)


class BadDumpError(ValueError):
    """The file is not a dump. The message names the file, the fault, and how to get a dump."""


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=to_camel, populate_by_name=True)


class GpuDump(_Document):
    """One card. Memory in bytes, power in milliwatts."""

    index: Annotated[int, Field(ge=0, lt=MOST_GPUS)]
    name: str | None = None
    uuid: str | None = None
    bus: str | None = None
    """PCI address in the form of /sys: 0000:01:00.0."""
    memory: Amount | None = None
    bar1: Amount | None = None
    power_limit: Amount | None = None
    """The limit in force."""
    pcie_generation: Amount | None = None
    """The maximum of card and slot together. The current generation falls while the card is idle."""
    pcie_lanes: Amount | None = None
    pcie_lanes_now: Amount | None = None
    virtualization: int | None = None
    """nvmlGpuVirtualizationMode_t: 0 none, 1 passthrough, 2 vGPU, 3 and 4 a vGPU host."""
    mig: bool | None = None
    """Also None if the card does not support MIG."""
    numa_node: Annotated[int | None, Field(lt=MOST_NUMA_NODES)] = None
    """Also None if the firmware does not provide it (-1 in /sys)."""
    pcie_root: str | None = None
    """The root complex, for example pci0000:80."""
    iommu: Literal["off", "identity", "translated"] | None = None
    acs: Literal["off", "redirect"] | None = None
    """State of the PCIe bridges above the card. Only root can read it."""

    @field_validator("numa_node")
    @classmethod
    def _drop_minus_one(cls, node: int | None) -> int | None:
        return node if node is None or node >= 0 else None


class PairDump(_Document):
    """A pair of cards."""

    first: int
    second: int
    ancestor: int | None = None
    """nvmlGpuTopologyLevel_t of their common ancestor."""
    nvlink: int | None = None
    """nvmlGpuP2PStatus_t of NVLink between them; 0 is OK."""
    # The alias is explicit because camel case would turn it into p2P.
    p2p: tuple[int | None, int | None, int | None, int | None] = Field(default=(None, None, None, None), alias="p2p")
    """nvmlGpuP2PStatus_t of reading and writing, from first to second and then from second to first."""


class NumaDump(_Document):
    """A NUMA node of the host."""

    index: Annotated[int, Field(ge=0)]
    sockets: tuple[int, ...] | None = None
    """The packages of its CPUs (physical_package_id). Empty for a node without CPUs; None if it could not be read."""


class OtherCardDump(_Document):
    """An NVIDIA card on the PCI bus that NVML does not list."""

    bus: str
    driver: str | None = None
    """The kernel driver bound to it: vfio-pci, nouveau, nvidia, or none."""


class NodeDump(_Document):
    """One reading of one node."""

    version: Literal[1] = 1
    node: str
    taken_at: str
    source: str = ""
    """The origin of a dump that was written by hand from a bug report."""
    driver: str | None = None
    gpus: tuple[GpuDump, ...] = ()
    pairs: tuple[PairDump, ...] = ()
    numa: tuple[NumaDump, ...] = ()
    """The host's NUMA nodes. Empty if /sys does not list them, and in dumps of earlier versions."""
    other_cards: tuple[OtherCardDump, ...] = ()
    faults: tuple[str, ...] = ()
    """The calls that failed, with their errors."""
    node_labels: dict[str, str] = {}
    """The Node's labels on which the flags depend. Empty if no cluster was reachable."""
    p2p_report: str | None = Field(default=None, alias="probeReport")
    """The p2p test's report from the Node's annotation. Flags depend on its times."""

    @model_validator(mode="after")
    def _check_consistency(self) -> Self:
        cards = [gpu.index for gpu in self.gpus]
        if len(set(cards)) < len(cards):
            raise ValueError("two cards have the same index")
        pairs = [frozenset((pair.first, pair.second)) for pair in self.pairs]
        for pair in pairs:
            if len(pair) != PAIR or not pair <= set(cards):
                raise ValueError(f"a pair has the cards {sorted(pair)}, but the cards are {sorted(cards)}")
        if len(set(pairs)) < len(pairs):
            raise ValueError("two pairs have the same cards")
        return self

    @property
    def is_empty(self) -> bool:
        """Whether no card could be read."""
        return not self.gpus

    @property
    def absent_pairs(self) -> tuple[PairDump, ...]:
        """Pairs of its cards that the dump lacks, for example because it was edited by hand."""
        present = {frozenset((pair.first, pair.second)) for pair in self.pairs}
        every = combinations([gpu.index for gpu in self.gpus], PAIR)
        return tuple(PairDump(first=one, second=other) for one, other in every if {one, other} not in present)

    @property
    def every_pair(self) -> tuple[PairDump, ...]:
        return (*self.pairs, *self.absent_pairs)

    def sockets_of(self, numa_node: int) -> tuple[int, ...] | None:
        """The CPU sockets of a NUMA node. None if the dump does not contain them."""
        return next((node.sockets for node in self.numa if node.index == numa_node), None)

    def to_text(self) -> str:
        return self.model_dump_json(by_alias=True, indent=1, exclude_none=True) + "\n"

    @classmethod
    def load(cls, file: Path) -> "NodeDump":
        """Load a dump. Raises BadDumpError if the file is not a dump or cannot be read."""
        try:
            content = file.read_bytes()
        except OSError as error:
            raise BadDumpError(f"{file}: {error.strerror}") from error
        try:
            return cls.model_validate_json(decoded(content) or content)
        except ValidationError as error:
            foreign = foreign_format(content)
            what = f"{foreign}; {HOW_TO_SAVE}" if foreign else f"{_fault(error)}; correct it, or {HOW_TO_SAVE}"
            raise BadDumpError(f"{file} is not a dump of flash-topology --save: {what}") from error


def _fault(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"]) or "the document"
    more = f", and {error.error_count() - 1} more" if error.error_count() > 1 else ""
    message = first["msg"].removeprefix("Value error, ")
    if first["loc"] == ("version",):
        message = f"this flash-topology reads version 1, not {first['input']!r}: use the one that wrote the dump"
    if first["type"] == "extra_forbidden":
        message = "not a key of a dump: it is misspelt, or a newer flash-topology wrote it, which can show it"
    return f"{where}: {message}{more}"
