"""Interprets single readings in nvidia-smi's terms. Pure."""

from collections.abc import Sequence

from flash_contracts.node_facts import DRIVER_REFUSED, UNKNOWN
from flash_node.dump import GpuDump, PairDump

ANCESTORS = {0: "pix", 10: "pix", 20: "pxb", 30: "phb", 40: "node", 50: "sys"}
"""nvmlGpuTopologyLevel_t with nvidia-smi's names. 0 means two GPUs on one board."""

STATUSES = {0: "granted", 1: "cns", 2: "gns", 3: "tns", 4: "dr", 5: "ns"}
"""nvmlGpuP2PStatus_t. 6 is the driver's own "unknown"."""

VIRTUALIZATION = {0: "none", 1: "passthrough", 2: "vgpu", 3: "vgpu", 4: "vgpu"}

PHYSICAL = 0
GUEST = "passthrough"


def link_of(pair: PairDump) -> str:
    """The link of a pair, by nvidia-smi's name."""
    if pair.nvlink == 0:
        return "nvlink"
    return UNKNOWN if pair.ancestor is None else ANCESTORS.get(pair.ancestor, UNKNOWN)


def p2p_of(pair: PairDump, gpus: Sequence[GpuDump]) -> str:
    """The peer-to-peer status of a pair. It is refused if either direction, or only writing, is refused.

    MIG slices have no peer-to-peer, whatever the driver reports for their cards (NVIDIA's MIG user guide).
    """
    if any(gpu.mig for gpu in gpus if gpu.index in (pair.first, pair.second)):
        return "ns"
    statuses = [UNKNOWN if status is None else STATUSES.get(status, UNKNOWN) for status in pair.p2p]
    refused = [status for status in DRIVER_REFUSED if status in statuses]
    if refused:
        return refused[0]
    return UNKNOWN if UNKNOWN in statuses else "granted"


def iommu_of(gpu: GpuDump) -> str | None:
    """The IOMMU's mode. None for a guest without its own IOMMU: it cannot see the host's, which may translate."""
    return None if gpu.iommu == "off" and gpu.virtualization != PHYSICAL else gpu.iommu


def virtualization_of(gpu: GpuDump) -> str | None:
    """none, passthrough or vgpu; None if unknown."""
    return None if gpu.virtualization is None else VIRTUALIZATION.get(gpu.virtualization)


def pcie_of(gpu: GpuDump) -> str | None:
    """Generation and lanes of a card's link, such as gen5-x16. None if either is unknown."""
    return f"gen{gpu.pcie_generation}-x{gpu.pcie_lanes}" if gpu.pcie_generation and gpu.pcie_lanes else None
