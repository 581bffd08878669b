"""Turns a reading into the node's labels and warnings. Pure.

With several cards or pairs, the worst one counts, because the device plugin may assign any two.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from flash_contracts.node_facts import (
    DRIVER_REFUSED,
    LABEL_VALUE,
    LANE_GIGABYTES_PER_SECOND,
    LINKS,
    PCIE,
    UNKNOWN,
    WATTS,
)
from flash_node import findings
from flash_node.dump import PAIR, GpuDump, NodeDump, PairDump
from flash_node.interpretation import GUEST, iommu_of, link_of, p2p_of, virtualization_of


@dataclass(frozen=True)
class Assessment:
    """What to publish on the node. Labels are given without their prefix."""

    labels: dict[str, str]
    matrix: str | None
    """JSON with the link and the peer-to-peer status of each pair. None if there is only one pair."""
    warnings: tuple[str, ...]
    """Messages about things that people can change. Each names its card."""
    notes: tuple[str, ...] = ()
    """Messages that only explain."""
    undecided: frozenset[str] = frozenset()
    """Labels that are unknown although everything was read, because it is open which cards an engine gets."""


def assess(dump: NodeDump) -> Assessment:
    gpus, pairs = dump.gpus, dump.every_pair
    labels = {
        "gpu-link": worst_link(pairs),
        "gpu-p2p": worst_p2p(pairs, gpus),
        "gpu-pcie": _pcie(gpus),
        "gpu-numa": _numa(gpus),
        "gpu-numa-nodes": _numa_nodes(dump),
        "gpu-iommu": _worst([iommu_of(gpu) for gpu in gpus], ("off", "identity", UNKNOWN, "translated")),
        "gpu-virt": _worst([virtualization_of(gpu) for gpu in gpus], ("none", GUEST, "vgpu", UNKNOWN)),
        "gpu-bar1": _bar1(gpus),
        "gpu-power-w": _power(gpus),
        "gpu-driver": _label_value(dump.driver),
        "gpu-cards": _cards(gpus),
    }
    acs = _worst([gpu.acs for gpu in gpus], ("off", UNKNOWN, "redirect"))
    if acs != UNKNOWN:
        # Only root can read ACS, so "unknown" must not overwrite an administrator's label.
        labels["gpu-acs"] = acs
    entries = [_matrix_entry(pair, gpus) for pair in pairs]
    matrix = json.dumps(entries, separators=(",", ":")) if len(pairs) > 1 else None
    return Assessment(
        labels,
        matrix,
        warnings=(*findings.warnings(dump), *_driver_warning(dump)),
        notes=tuple(findings.notes(dump)),
        undecided=frozenset({"gpu-numa-nodes"} if _are_numa_nodes_read(gpus) else ()),
    )


def _driver_warning(dump: NodeDump) -> Iterable[str]:
    if dump.driver is not None and _label_value(dump.driver) == UNKNOWN:
        yield f"driver version {dump.driver[:80]!r} is not a valid label value"


def worst_link(pairs: Sequence[PairDump]) -> str:
    return _worst([link_of(pair) for pair in pairs], LINKS)


def worst_p2p(pairs: Sequence[PairDump], gpus: Sequence[GpuDump]) -> str:
    return _worst([p2p_of(pair, gpus) for pair in pairs], ("granted", UNKNOWN, *reversed(DRIVER_REFUSED)))


def _worst(values: Iterable[str | None], best_first: Sequence[str]) -> str:
    """A missing value counts as unknown. Without any values the result is unknown too."""
    ranks = [best_first.index(value or UNKNOWN) for value in values]
    return best_first[max(ranks)] if ranks else UNKNOWN


def _pcie(gpus: Sequence[GpuDump]) -> str:
    links = [(gpu.pcie_generation, gpu.pcie_lanes) for gpu in gpus]
    rates = {
        LANE_GIGABYTES_PER_SECOND[generation] * lanes: f"gen{generation}-x{lanes}"
        for generation, lanes in links
        if generation in LANE_GIGABYTES_PER_SECOND and lanes
    }
    if not rates or None in {part for link in links for part in link}:
        return UNKNOWN
    slowest = rates[min(rates)]
    return slowest if PCIE.match(slowest) else UNKNOWN


def _numa(gpus: Sequence[GpuDump]) -> str:
    nodes = {gpu.numa_node for gpu in gpus}
    if not nodes or None in nodes:
        return UNKNOWN
    return "same" if len(nodes) == 1 else "cross"


def _numa_nodes(dump: NodeDump) -> str:
    """NUMA nodes of an engine's two cards, in the driver's order. Unknown if it is open which cards it gets.

    Unknown too if one of them has no CPUs, because numactl refuses to start a process there.
    """
    nodes = [gpu.numa_node for gpu in dump.gpus]
    if not _are_numa_nodes_read(dump.gpus):
        return UNKNOWN
    if len(nodes) > PAIR and len(set(nodes)) > 1:
        return UNKNOWN
    if any(dump.sockets_of(node) == () for node in nodes if node is not None):
        return UNKNOWN
    return "-".join(str(node) for node in nodes[:PAIR])


def _are_numa_nodes_read(gpus: Sequence[GpuDump]) -> bool:
    return len(gpus) >= PAIR and all(gpu.numa_node is not None for gpu in gpus)


def _bar1(gpus: Sequence[GpuDump]) -> str:
    sizes = [(gpu.bar1, gpu.memory) for gpu in gpus]
    verdicts = [
        None if bar1 is None or memory is None else ("full" if bar1 >= memory else "small") for bar1, memory in sizes
    ]
    return _worst(verdicts, ("full", UNKNOWN, "small"))


def _power(gpus: Sequence[GpuDump]) -> str:
    limits = [gpu.power_limit for gpu in gpus if gpu.power_limit is not None]
    if not limits or len(limits) < len(gpus):
        return UNKNOWN
    watts = str(round(min(limits) / 1000))
    return watts if WATTS.fullmatch(watts) else UNKNOWN


def _cards(gpus: Sequence[GpuDump]) -> str:
    """A hash that changes when a card is replaced, added or moved, because earlier tests do not apply to the new set.

    Unknown for a single card: a lost card disappears from the driver's list, or stays in it without a name.
    """
    known = [f"{gpu.uuid} {gpu.bus}" for gpu in gpus if gpu.uuid or gpu.bus]
    if len(known) < max(PAIR, len(gpus)):
        return UNKNOWN
    return hashlib.sha256("\n".join(sorted(known)).encode()).hexdigest()[:10]


def _label_value(text: str | None) -> str:
    return text if text and LABEL_VALUE.fullmatch(text) else UNKNOWN


def _matrix_entry(pair: PairDump, gpus: Sequence[GpuDump]) -> dict[str, object]:
    return {"gpus": [pair.first, pair.second], "link": link_of(pair), "p2p": p2p_of(pair, gpus)}
