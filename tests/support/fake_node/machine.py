"""A machine as somebody has described it: `machines/*.yaml`, with the labels and flags that must come of it.

What a description leaves out is no part of it. `topology` and `p2p` are what nvidia-smi prints (`topo -m`, and
`topo -p2p r` or one word for every pair), `fails` names NVML calls with the error that each ends with.
"""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).with_name("machines")

WORDS = {"X": 0, "PIX": 10, "PXB": 20, "PHB": 30, "NODE": 40, "SYS": 50}
"""nvmlGpuTopologyLevel_t by nvidia-smi's words."""

STATUSES = {"OK": 0, "CNS": 1, "GNS": 2, "TNS": 3, "DR": 4, "NS": 5, "U": 6, "X": 0}
"""nvmlGpuP2PStatus_t likewise."""

Matrix = list[list[str]]


@dataclass(frozen=True)
class Machine:
    """One machine; lists have an entry for each card."""

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
    iommu: str | None = None
    """The type of its IOMMU groups; None for a machine without an IOMMU."""
    acs: str | None = None
    """`redirect`, `off`, or None where only the part of the configuration space that any user may read is there."""
    fails: dict[Any, dict[str, int]] = field(default_factory=dict)
    tested: str | None = None
    """What a test of the links has found there."""
    expected: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def load(cls, name: str) -> "Machine":
        return cls(name=name, **yaml.safe_load((FOLDER / f"{name}.yaml").read_text()))

    @cached_property
    def links(self) -> Matrix:
        return _matrix(self.topology, len(self.buses))

    @cached_property
    def statuses(self) -> Matrix:
        count = len(self.buses)
        return _matrix(self.p2p, count) if "GPU0" in self.p2p else [[self.p2p.strip()] * count] * count

    @property
    def numa_nodes(self) -> list[int]:
        """Of the column `NUMA Affinity`, which is the last but one, unless the description has them."""
        rows = [line.split() for line in self.topology.splitlines()[1 : len(self.buses) + 1]]
        return self.numa or [int(row[-2]) for row in rows]


def names() -> list[str]:
    return sorted(file.stem for file in FOLDER.glob("*.yaml"))


def _matrix(text: str, count: int) -> Matrix:
    """The words between the cards' names and whatever comes behind them."""
    rows = [line.split() for line in text.splitlines() if line.split()[0].startswith("GPU")][1:]
    return [row[1 : count + 1] for row in rows]
