"""Machines described by users (`machines/*.yaml`), with the expected labels and flags.

`topology` and `p2p` are output of nvidia-smi (`topo -m`, and `topo -p2p r` or one status for every pair). `fails` maps
NVML calls to their error codes. What a description omits, the machine does not have.
"""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).with_name("machines")

LEVELS = {"X": 0, "PIX": 10, "PXB": 20, "PHB": 30, "NODE": 40, "SYS": 50}
"""nvmlGpuTopologyLevel_t by the names of nvidia-smi."""

STATUSES = {"OK": 0, "CNS": 1, "GNS": 2, "TNS": 3, "DR": 4, "NS": 5, "U": 6, "X": 0}
"""nvmlGpuP2PStatus_t by the names of nvidia-smi."""

Matrix = list[list[str]]


@dataclass(frozen=True)
class Machine:
    """One machine. Lists have one entry per card."""

    name: str
    source: str
    driver: str
    topology: str
    p2p: str
    card: dict[str, Any]
    buses: list[str]
    roots: list[str]
    numa: list[int] = field(default_factory=list)
    lanes: list[int] = field(default_factory=list)
    lanesNow: list[int] = field(default_factory=list)  # noqa: N815 - as in the file
    mig: list[bool] = field(default_factory=list)
    cards: list[dict[str, Any]] = field(default_factory=list)
    """What differs from `card`, for each card; for machines whose cards are not alike."""
    sockets: dict[int, list[int]] = field(default_factory=dict)
    """NUMA nodes with the socket of each of their CPUs. Empty if /sys does not list them."""
    others: dict[str, str | None] = field(default_factory=dict)
    """Addresses of NVIDIA cards that NVML does not list, with their kernel drivers."""
    iommu: str | None = None
    """Type of its IOMMU groups. None for a machine without an IOMMU."""
    acs: str | None = None
    """`redirect`, `off`, or None if only the part of the configuration space that any user may read is present."""
    fails: dict[Any, dict[str, int]] = field(default_factory=dict)
    tested: str | None = None
    """The verdict of the p2p test."""
    expected: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def load(cls, name: str) -> "Machine":
        return cls(name=name, **yaml.safe_load((FOLDER / f"{name}.yaml").read_text()))

    def card_at(self, index: int) -> dict[str, Any]:
        return {**self.card, **(self.cards[index] if self.cards else {})}

    @cached_property
    def links(self) -> Matrix:
        return _matrix(self.topology, len(self.buses))

    @cached_property
    def statuses(self) -> Matrix:
        count = len(self.buses)
        return _matrix(self.p2p, count) if "GPU0" in self.p2p else [[self.p2p.strip()] * count] * count

    @property
    def numa_nodes(self) -> list[int]:
        """From the description, or else from the column `NUMA Affinity`, the last but one."""
        rows = [line.split() for line in self.topology.splitlines()[1 : len(self.buses) + 1]]
        return self.numa or [int(row[-2]) for row in rows]


def names() -> list[str]:
    return sorted(file.stem for file in FOLDER.glob("*.yaml"))


def _matrix(text: str, count: int) -> Matrix:
    """The cells between the names of the cards and the columns after them."""
    rows = [line.split() for line in text.splitlines() if line.split()[0].startswith("GPU")][1:]
    return [row[1 : count + 1] for row in rows]
