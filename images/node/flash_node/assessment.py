"""What a reading means: the labels of a node, and what speaks against its speed. Pure.

Of several cards or pairs the worst one counts, for the device plugin may hand out any two.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from flash_contracts.node_facts import DRIVER_REFUSED, LABEL_VALUE, LANE_GIGABYTES_PER_SECOND, LINKS, UNKNOWN
from flash_node.dump import PAIR, Gpu, NodeDump, Pair

ANCESTORS = {0: "pix", 10: "pix", 20: "pxb", 30: "phb", 40: "node", 50: "sys"}
"""nvmlGpuTopologyLevel_t in nvidia-smi's words; 0 is two GPUs of one board."""

STATUSES = {0: "granted", 1: "cns", 2: "gns", 3: "tns", 4: "dr", 5: "ns"}
"""nvmlGpuP2PStatus_t; 6 is the driver's own "unknown"."""

VIRTUALIZATION = {0: "none", 1: "passthrough", 2: "vgpu", 3: "vgpu", 4: "vgpu"}

PHYSICAL = 0
GUEST = "passthrough"


@dataclass(frozen=True)
class Assessment:
    """What is to stand on the node: labels without their prefix, and the pairs where there are several."""

    labels: dict[str, str]
    matrix: str | None
    """JSON: each pair with its link and its peer-to-peer."""
    warnings: tuple[str, ...]
    """For a person, each with the card it is about."""


def assess(dump: NodeDump) -> Assessment:
    gpus, pairs = dump.gpus, dump.pairs
    labels = {
        "gpu-link": worst_link(pairs),
        "gpu-p2p": driver_word(pairs, gpus),
        "gpu-pcie": _pcie(gpus),
        "gpu-numa": _numa(gpus),
        "gpu-numa-nodes": _numa_nodes(gpus),
        "gpu-iommu": _worst([iommu_of(gpu) for gpu in gpus], ("off", "identity", UNKNOWN, "translated")),
        "gpu-virt": _worst([_virt(gpu) for gpu in gpus], ("none", GUEST, "vgpu", UNKNOWN)),
        "gpu-bar1": _bar1(gpus),
        "gpu-power-w": _power(gpus),
        "gpu-driver": _label(dump.driver),
        "gpu-cards": _cards(gpus),
    }
    acs = _worst([gpu.acs for gpu in gpus], ("off", UNKNOWN, "redirect"))
    if acs != UNKNOWN:
        # Only root can read it, so what an administrator has set is not overwritten with a shrug.
        labels["gpu-acs"] = acs
    matrix = json.dumps([_entry(pair, gpus) for pair in pairs], separators=(",", ":")) if len(pairs) > 1 else None
    return Assessment(labels, matrix, tuple(_warnings(dump)))


def link_of(pair: Pair) -> str:
    """nvidia-smi's word for one pair."""
    if pair.nvlink == 0:
        return "nvlink"
    return UNKNOWN if pair.ancestor is None else ANCESTORS.get(pair.ancestor, UNKNOWN)


def p2p_of(pair: Pair, gpus: Sequence[Gpu]) -> str:
    """The word for one pair: a refusal in one direction, or of writing alone, is one.

    Slices of a card know no peer-to-peer, whatever the driver says of the cards (NVIDIA's MIG user guide).
    """
    if any(gpu.mig for gpu in gpus if gpu.index in (pair.first, pair.second)):
        return "ns"
    words = [UNKNOWN if status is None else STATUSES.get(status, UNKNOWN) for status in pair.p2p]
    refused = [word for word in DRIVER_REFUSED if word in words]
    if refused:
        return refused[0]
    return UNKNOWN if UNKNOWN in words else "granted"


def worst_link(pairs: Sequence[Pair]) -> str:
    return _worst([link_of(pair) for pair in pairs], LINKS)


def driver_word(pairs: Sequence[Pair], gpus: Sequence[Gpu]) -> str:
    return _worst([p2p_of(pair, gpus) for pair in pairs], ("granted", UNKNOWN, *reversed(DRIVER_REFUSED)))


def _worst(values: Iterable[str | None], best_first: Sequence[str]) -> str:
    """A value that is missing is unknown, and so is a node without any."""
    ranks = [best_first.index(value or UNKNOWN) for value in values]
    return best_first[max(ranks)] if ranks else UNKNOWN


def _virt(gpu: Gpu) -> str | None:
    return None if gpu.virtualization is None else VIRTUALIZATION.get(gpu.virtualization)


def _has_own_bar(gpu: Gpu) -> bool:
    """A vGPU has a window of fixed size, which nobody can switch."""
    return _virt(gpu) != "vgpu"


def iommu_of(gpu: Gpu) -> str | None:
    """A guest does not see the IOMMU of its host, which may translate all the same."""
    return None if gpu.iommu == "off" and gpu.virtualization != PHYSICAL else gpu.iommu


def _pcie(gpus: Sequence[Gpu]) -> str:
    links = [(gpu.pcie_generation, gpu.pcie_lanes) for gpu in gpus]
    rates = {
        LANE_GIGABYTES_PER_SECOND[generation] * lanes: f"gen{generation}-x{lanes}"
        for generation, lanes in links
        if generation in LANE_GIGABYTES_PER_SECOND and lanes
    }
    return rates[min(rates)] if rates and None not in {part for link in links for part in link} else UNKNOWN


def _numa(gpus: Sequence[Gpu]) -> str:
    nodes = {gpu.numa_node for gpu in gpus}
    if not nodes or None in nodes:
        return UNKNOWN
    return "same" if len(nodes) == 1 else "cross"


def _numa_nodes(gpus: Sequence[Gpu]) -> str:
    """The node of each card that an engine will have, in the driver's order; unknown where it may get any two."""
    nodes = [gpu.numa_node for gpu in gpus]
    if None in nodes or len(gpus) < PAIR:
        return UNKNOWN
    if len(gpus) > PAIR and len(set(nodes)) > 1:
        return UNKNOWN
    return "-".join(str(node) for node in nodes[:PAIR])


def _bar1(gpus: Sequence[Gpu]) -> str:
    sizes = [(gpu.bar1, gpu.memory) for gpu in gpus]
    words = [
        None if bar1 is None or memory is None else ("full" if bar1 >= memory else "small") for bar1, memory in sizes
    ]
    return _worst(words, ("full", UNKNOWN, "small"))


def _power(gpus: Sequence[Gpu]) -> str:
    limits = [gpu.power_limit for gpu in gpus if gpu.power_limit is not None]
    return str(round(min(limits) / 1000)) if limits and len(limits) == len(gpus) else UNKNOWN


def _cards(gpus: Sequence[Gpu]) -> str:
    """Another value where a card was changed, added, or put elsewhere: what was tested before says nothing of that."""
    known = [f"{gpu.uuid} {gpu.bus}" for gpu in gpus if gpu.uuid or gpu.bus]
    if not known or len(known) < len(gpus):
        return UNKNOWN
    return hashlib.sha256("\n".join(sorted(known)).encode()).hexdigest()[:10]


def _label(text: str | None) -> str:
    return text if text and LABEL_VALUE.fullmatch(text) else UNKNOWN


def _entry(pair: Pair, gpus: Sequence[Gpu]) -> dict[str, object]:
    return {"gpus": [pair.first, pair.second], "link": link_of(pair), "p2p": p2p_of(pair, gpus)}


def _warnings(dump: NodeDump) -> Iterable[str]:
    yield from dump.faults
    if dump.is_void:
        yield "no GPU was found"
    elif len(dump.gpus) < PAIR:
        yield "one GPU: an engine needs two"
    if dump.driver is not None and _label(dump.driver) == UNKNOWN:
        yield f"driver version {dump.driver[:80]!r} is no label value"
    for gpu in dump.gpus:
        yield from _of_card(gpu)


def _of_card(gpu: Gpu) -> Iterable[str]:
    name = f"GPU {gpu.index}"
    if gpu.mig:
        yield f"{name} is cut into MIG slices, which know no peer-to-peer: switch MIG off for a pair of whole cards"
    if gpu.bar1 is not None and gpu.memory is not None and gpu.bar1 < gpu.memory and _has_own_bar(gpu):
        where = (
            "resizable BAR on, in the host's firmware and for the guest" if _virt(gpu) == GUEST else "resizable BAR on"
        )
        yield f"{name} has a BAR1 of {gpu.bar1 >> 20} MiB for {gpu.memory >> 20} MiB of memory: switch {where}"
    if gpu.pcie_lanes and gpu.pcie_lanes_now and gpu.pcie_lanes_now < gpu.pcie_lanes:
        yield f"{name} runs on {gpu.pcie_lanes_now} of {gpu.pcie_lanes} PCIe lanes: look at its slot, riser and BIOS"
