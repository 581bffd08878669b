"""What was read on one node: a value that can be saved, sent with a bug report, and read back.

Raw values as NVML and /sys give them; what they mean is for `assessment`. None stands for a value that could not be
read, and `faults` says why.
"""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.alias_generators import to_camel

PAIR = 2


class BadDumpError(ValueError):
    """A file that is no dump; the message names the file and what is wrong."""


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=to_camel, populate_by_name=True)


class Gpu(_Document):
    """One card. Memory in bytes, power in milliwatts."""

    index: Annotated[int, Field(ge=0)]
    name: str | None = None
    uuid: str | None = None
    bus: str | None = None
    """PCI address as /sys has it: 0000:01:00.0."""
    memory: int | None = None
    bar1: int | None = None
    power_limit: int | None = None
    """The limit in force."""
    pcie_generation: int | None = None
    """The most that card and slot can do together; what is in use falls while the card idles."""
    pcie_lanes: int | None = None
    pcie_lanes_now: int | None = None
    virtualization: int | None = None
    """nvmlGpuVirtualizationMode_t: 0 none, 1 passthrough, 2 vGPU, 3 and 4 a host of vGPUs."""
    mig: bool | None = None
    """None where the card has no such mode, too."""
    numa_node: int | None = None
    """None where the firmware does not tell (-1 in /sys), too."""
    pcie_root: str | None = None
    """The root complex, as in pci0000:80."""
    iommu: Literal["off", "identity", "translated"] | None = None
    acs: Literal["off", "redirect"] | None = None
    """Of the bridges above the card; only root can read it."""


class Pair(_Document):
    """Two cards."""

    first: int
    second: int
    ancestor: int | None = None
    """nvmlGpuTopologyLevel_t of their common ancestor."""
    nvlink: int | None = None
    """nvmlGpuP2PStatus_t of NVLink between them; 0 is OK."""
    # Named here, for camel case would make p2P of it.
    p2p: tuple[int | None, int | None, int | None, int | None] = Field(default=(None, None, None, None), alias="p2p")
    """nvmlGpuP2PStatus_t of reading and writing from first to second, then back."""


class NodeDump(_Document):
    """One node, read once."""

    version: Literal[1] = 1
    node: str
    taken_at: str
    source: str = ""
    """Where it comes from, for a dump that somebody wrote down from a report."""
    driver: str | None = None
    gpus: tuple[Gpu, ...] = ()
    pairs: tuple[Pair, ...] = ()
    faults: tuple[str, ...] = ()
    """Calls that failed, in words."""
    node_labels: dict[str, str] = {}
    """Labels of the Node that the flags depend on besides; empty where no cluster was asked."""
    probe_report: str | None = None
    """What a test of the links has left on the Node: flags depend on its times."""

    @model_validator(mode="after")
    def _is_of_one_machine(self) -> Self:
        cards = [gpu.index for gpu in self.gpus]
        if len(set(cards)) < len(cards):
            raise ValueError("two cards have the same index")
        pairs = [frozenset((pair.first, pair.second)) for pair in self.pairs]
        for pair in pairs:
            if len(pair) != PAIR or not pair <= set(cards):
                raise ValueError(f"a pair is of the cards {sorted(pair)}, and the cards are {sorted(cards)}")
        if len(set(pairs)) < len(pairs):
            raise ValueError("two pairs are of the same cards")
        return self

    @property
    def is_void(self) -> bool:
        """Nothing at all is known of the cards."""
        return not self.gpus

    def to_text(self) -> str:
        return self.model_dump_json(by_alias=True, indent=1, exclude_none=True) + "\n"

    @classmethod
    def load(cls, file: Path) -> "NodeDump":
        """Raises BadDumpError, for a file that cannot be read as well."""
        try:
            return cls.model_validate_json(file.read_bytes())
        except OSError as error:
            raise BadDumpError(f"{file}: {error.strerror}") from error
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the document"
            more = f", and {error.error_count() - 1} more" if error.error_count() > 1 else ""
            told = first["msg"].removeprefix("Value error, ")
            raise BadDumpError(f"{file} is no dump of flash-topology --save: {where}: {told}{more}") from error
