"""The readings of one node, in a form that can be saved, attached to a bug report, and loaded again.

They are raw values from NVML and /sys, which `assessment` interprets. None means that a value could not be read;
`faults` has the reasons.
"""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.alias_generators import to_camel

PAIR = 2


class BadDumpError(ValueError):
    """The file is not a dump. The message names the file and the fault."""


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=to_camel, populate_by_name=True)


class GpuDump(_Document):
    """One card. Memory in bytes, power in milliwatts."""

    index: Annotated[int, Field(ge=0)]
    name: str | None = None
    uuid: str | None = None
    bus: str | None = None
    """PCI address in the form of /sys: 0000:01:00.0."""
    memory: int | None = None
    bar1: int | None = None
    power_limit: int | None = None
    """The limit in force."""
    pcie_generation: int | None = None
    """The maximum of card and slot together. The generation in use falls while the card is idle."""
    pcie_lanes: int | None = None
    pcie_lanes_now: int | None = None
    virtualization: int | None = None
    """nvmlGpuVirtualizationMode_t: 0 none, 1 passthrough, 2 vGPU, 3 and 4 a vGPU host."""
    mig: bool | None = None
    """Also None if the card does not support MIG."""
    numa_node: int | None = None
    """Also None if the firmware does not provide it (-1 in /sys)."""
    pcie_root: str | None = None
    """The root complex, for example pci0000:80."""
    iommu: Literal["off", "identity", "translated"] | None = None
    acs: Literal["off", "redirect"] | None = None
    """Of the PCIe bridges above the card. Only root can read it."""


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

    def to_text(self) -> str:
        return self.model_dump_json(by_alias=True, indent=1, exclude_none=True) + "\n"

    @classmethod
    def load(cls, file: Path) -> "NodeDump":
        """Raises BadDumpError, also for a file that cannot be read."""
        try:
            return cls.model_validate_json(file.read_bytes())
        except OSError as error:
            raise BadDumpError(f"{file}: {error.strerror}") from error
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the document"
            more = f", and {error.error_count() - 1} more" if error.error_count() > 1 else ""
            message = first["msg"].removeprefix("Value error, ")
            raise BadDumpError(f"{file} is not a dump of flash-topology --save: {where}: {message}{more}") from error
