"""Turns a reading into the node's labels and warnings. Pure.

Of several cards or pairs the worst one counts, because the device plugin may assign any two.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from flash_contracts.node_facts import DRIVER_REFUSED, LABEL_VALUE, LANE_GIGABYTES_PER_SECOND, LINKS, UNKNOWN
from flash_node.dump import PAIR, GpuDump, NodeDump, PairDump

ANCESTORS = {0: "pix", 10: "pix", 20: "pxb", 30: "phb", 40: "node", 50: "sys"}
"""nvmlGpuTopologyLevel_t, with the names of nvidia-smi. 0 means two GPUs on one board."""

STATUSES = {0: "granted", 1: "cns", 2: "gns", 3: "tns", 4: "dr", 5: "ns"}
"""nvmlGpuP2PStatus_t. 6 is the driver's own "unknown"."""

VIRTUALIZATION = {0: "none", 1: "passthrough", 2: "vgpu", 3: "vgpu", 4: "vgpu"}

PHYSICAL = 0
GUEST = "passthrough"


@dataclass(frozen=True)
class Assessment:
    """What to publish on the node. Labels are without their prefix."""

    labels: dict[str, str]
    matrix: str | None
    """JSON with the link and the peer-to-peer status of each pair. None if there is only one pair."""
    warnings: tuple[str, ...]
    """Messages for people. Each names its card."""


def assess(dump: NodeDump) -> Assessment:
    gpus, pairs = dump.gpus, dump.pairs
    labels = {
        "gpu-link": worst_link(pairs),
        "gpu-p2p": worst_p2p(pairs, gpus),
        "gpu-pcie": _pcie(gpus),
        "gpu-numa": _numa(gpus),
        "gpu-numa-nodes": _numa_nodes(gpus),
        "gpu-iommu": _worst([iommu_of(gpu) for gpu in gpus], ("off", "identity", UNKNOWN, "translated")),
        "gpu-virt": _worst([_virt(gpu) for gpu in gpus], ("none", GUEST, "vgpu", UNKNOWN)),
        "gpu-bar1": _bar1(gpus),
        "gpu-power-w": _power(gpus),
        "gpu-driver": _label_value(dump.driver),
        "gpu-cards": _cards(gpus),
    }
    acs = _worst([gpu.acs for gpu in gpus], ("off", UNKNOWN, "redirect"))
    if acs != UNKNOWN:
        # Only root can read ACS, so an administrator's label is not overwritten with "unknown".
        labels["gpu-acs"] = acs
    entries = [_matrix_entry(pair, gpus) for pair in pairs]
    matrix = json.dumps(entries, separators=(",", ":")) if len(pairs) > 1 else None
    return Assessment(labels, matrix, tuple(_warnings(dump)))


def link_of(pair: PairDump) -> str:
    """The link of a pair, with the name of nvidia-smi."""
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


def worst_link(pairs: Sequence[PairDump]) -> str:
    return _worst([link_of(pair) for pair in pairs], LINKS)


def worst_p2p(pairs: Sequence[PairDump], gpus: Sequence[GpuDump]) -> str:
    return _worst([p2p_of(pair, gpus) for pair in pairs], ("granted", UNKNOWN, *reversed(DRIVER_REFUSED)))


def _worst(values: Iterable[str | None], best_first: Sequence[str]) -> str:
    """A missing value counts as unknown. Without any values the result is unknown too."""
    ranks = [best_first.index(value or UNKNOWN) for value in values]
    return best_first[max(ranks)] if ranks else UNKNOWN


def _virt(gpu: GpuDump) -> str | None:
    return None if gpu.virtualization is None else VIRTUALIZATION.get(gpu.virtualization)


def _has_own_bar(gpu: GpuDump) -> bool:
    """The BAR1 of a vGPU has a fixed size that nobody can change."""
    return _virt(gpu) != "vgpu"


def iommu_of(gpu: GpuDump) -> str | None:
    """None for a guest without an IOMMU of its own: it cannot see the host's IOMMU, which may translate anyway."""
    return None if gpu.iommu == "off" and gpu.virtualization != PHYSICAL else gpu.iommu


def _pcie(gpus: Sequence[GpuDump]) -> str:
    links = [(gpu.pcie_generation, gpu.pcie_lanes) for gpu in gpus]
    rates = {
        LANE_GIGABYTES_PER_SECOND[generation] * lanes: f"gen{generation}-x{lanes}"
        for generation, lanes in links
        if generation in LANE_GIGABYTES_PER_SECOND and lanes
    }
    return rates[min(rates)] if rates and None not in {part for link in links for part in link} else UNKNOWN


def _numa(gpus: Sequence[GpuDump]) -> str:
    nodes = {gpu.numa_node for gpu in gpus}
    if not nodes or None in nodes:
        return UNKNOWN
    return "same" if len(nodes) == 1 else "cross"


def _numa_nodes(gpus: Sequence[GpuDump]) -> str:
    """NUMA nodes of an engine's two cards, in the driver's order. Unknown if it is open which cards it gets."""
    nodes = [gpu.numa_node for gpu in gpus]
    if None in nodes or len(gpus) < PAIR:
        return UNKNOWN
    if len(gpus) > PAIR and len(set(nodes)) > 1:
        return UNKNOWN
    return "-".join(str(node) for node in nodes[:PAIR])


def _bar1(gpus: Sequence[GpuDump]) -> str:
    sizes = [(gpu.bar1, gpu.memory) for gpu in gpus]
    verdicts = [
        None if bar1 is None or memory is None else ("full" if bar1 >= memory else "small") for bar1, memory in sizes
    ]
    return _worst(verdicts, ("full", UNKNOWN, "small"))


def _power(gpus: Sequence[GpuDump]) -> str:
    limits = [gpu.power_limit for gpu in gpus if gpu.power_limit is not None]
    return str(round(min(limits) / 1000)) if limits and len(limits) == len(gpus) else UNKNOWN


def _cards(gpus: Sequence[GpuDump]) -> str:
    """A hash that changes when a card is replaced, added, or moved: an earlier test does not apply to the new set."""
    known = [f"{gpu.uuid} {gpu.bus}" for gpu in gpus if gpu.uuid or gpu.bus]
    if not known or len(known) < len(gpus):
        return UNKNOWN
    return hashlib.sha256("\n".join(sorted(known)).encode()).hexdigest()[:10]


def _label_value(text: str | None) -> str:
    return text if text and LABEL_VALUE.fullmatch(text) else UNKNOWN


def _matrix_entry(pair: PairDump, gpus: Sequence[GpuDump]) -> dict[str, object]:
    return {"gpus": [pair.first, pair.second], "link": link_of(pair), "p2p": p2p_of(pair, gpus)}


def _warnings(dump: NodeDump) -> Iterable[str]:
    yield from dump.faults
    if dump.is_empty:
        yield "no GPU was found"
    elif len(dump.gpus) < PAIR:
        yield "only one GPU was found: an engine needs two"
    if dump.driver is not None and _label_value(dump.driver) == UNKNOWN:
        yield f"driver version {dump.driver[:80]!r} is not a valid label value"
    for gpu in dump.gpus:
        yield from _gpu_warnings(gpu)


def _gpu_warnings(gpu: GpuDump) -> Iterable[str]:
    name = f"GPU {gpu.index}"
    if gpu.mig:
        yield f"{name} has MIG enabled, and MIG slices have no peer-to-peer: disable MIG to use a pair of whole cards"
    if gpu.bar1 is not None and gpu.memory is not None and gpu.bar1 < gpu.memory and _has_own_bar(gpu):
        remedy = "resizable BAR in the host's firmware and for the guest" if _virt(gpu) == GUEST else "resizable BAR"
        yield f"{name} has a BAR1 of {gpu.bar1 >> 20} MiB for {gpu.memory >> 20} MiB of memory: enable {remedy}"
    if gpu.pcie_lanes and gpu.pcie_lanes_now and gpu.pcie_lanes_now < gpu.pcie_lanes:
        yield f"{name} runs on {gpu.pcie_lanes_now} of {gpu.pcie_lanes} PCIe lanes: check its slot, riser and BIOS"
