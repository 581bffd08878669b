"""The content of the picture: a reading, the resulting labels, and the flags that follow from them. Pure.

The labeller's and the operator's own code computes labels and flags, so the picture always agrees with them.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from flash_contracts.flags.derivation import derive
from flash_contracts.flags.flag_set import FlagSet
from flash_contracts.flags.interconnect import DefaultInterconnect
from flash_contracts.flags.table import TABLE, Row
from flash_contracts.names import LABEL_PREFIX, P2P_LABEL, P2P_REPORT_ANNOTATION
from flash_contracts.node_facts import PRODUCT_LABEL, TESTED, UNKNOWN, NodeFacts
from flash_node.assessment import Assessment, assess
from flash_node.dump import GpuDump, NodeDump, PairDump
from flash_node.interpretation import iommu_of, link_of, p2p_of, pcie_of
from flash_node.labels import NodeState, desired_labels, verdict_applies

GpuTree = dict[str, dict[str, list[GpuDump]]]
"""Cards by NUMA node and root complex."""


@dataclass(frozen=True)
class View:
    """The picture of one node."""

    dump: NodeDump
    assessment: Assessment
    labels: dict[str, str]
    """Without their prefix, as the labeller would set them."""
    flags: FlagSet
    row: Row
    warnings: tuple[str, ...]
    assumed: str | None = None
    """A verdict to assume instead of the node's own (--assume)."""

    @property
    def tree(self) -> GpuTree:
        tree: GpuTree = {}
        for gpu in self.dump.gpus:
            tree.setdefault(_numa_title(gpu.numa_node, self.dump), {}).setdefault(
                gpu.pcie_root or "root complex unknown", []
            ).append(gpu)
        return tree

    def verdict_of(self, pair: PairDump) -> str:
        """The tested verdict of the whole node; without one, what the driver reports for this pair."""
        verdict = self.labels.get("gpu-p2p", UNKNOWN)
        return verdict if verdict in TESTED else p2p_of(pair, self.dump.gpus)

    def pair_text(self, pair: PairDump) -> str:
        return f"{link_of(pair)}, {self.verdict_of(pair)}"


def view_of(dump: NodeDump, assumed: str | None = None) -> View:
    """The picture of a dump. `assumed` is a value of gpu-p2p to show the flags for, as if a test had found it."""
    assessment = assess(dump)
    state = NodeState(dump.node_labels, {}, "")
    after = {**dump.node_labels, **(desired_labels(state, assessment) if state.managed else {})}
    if assumed:
        after[P2P_LABEL] = assumed
    labels = {name: value for name, value in after.items() if value is not None}
    report = dump.p2p_report if not state.managed or verdict_applies(state, assessment) else None
    annotations = {P2P_REPORT_ANNOTATION: report} if report else {}
    known = {**_product(dump), **labels}
    facts = NodeFacts.from_node({"metadata": {"name": dump.node, "labels": known, "annotations": annotations}})
    flags = derive(facts, DefaultInterconnect(), {})
    ours = {n.removeprefix(LABEL_PREFIX): value for n, value in sorted(labels.items()) if n.startswith(LABEL_PREFIX)}
    return View(dump, assessment, ours, flags, TABLE[flags.row], (*assessment.warnings, *facts.warnings), assumed)


def _product(dump: NodeDump) -> dict[str, str]:
    """The product label as GPU Feature Discovery sets it, for a dump taken without a cluster."""
    names = [gpu.name.replace(" ", "-") for gpu in dump.gpus if gpu.name]
    return {PRODUCT_LABEL: names[0]} if names else {}


def _numa_title(node: int | None, dump: NodeDump) -> str:
    if node is None:
        return "NUMA node unknown"
    sockets = dump.sockets_of(node)
    if sockets is None:
        return f"NUMA node {node}"
    where = f"CPU {' and '.join(map(str, sockets))}" if sockets else "no CPUs"
    return f"NUMA node {node}, {where}"


def card_lines(gpu: GpuDump) -> list[str]:
    """Two lines about one card: its address and link, and its memory, power and IOMMU."""
    address = gpu.bus.removeprefix("0000:") if gpu.bus else "address unknown"
    return [
        f"{address}, {pcie_of(gpu) or 'link unknown'}{', MIG on' if gpu.mig else ''}",
        ", ".join(_amounts(gpu)) or "nothing else is known",
    ]


def _amounts(gpu: GpuDump) -> Iterator[str]:
    if gpu.memory is not None:
        yield f"{gpu.memory / (1 << 30):.0f} GiB"
    if gpu.power_limit is not None:
        yield f"{gpu.power_limit / 1000:.0f} W"
    if iommu := iommu_of(gpu):
        yield f"IOMMU {iommu}"


@dataclass(frozen=True)
class FlagLine:
    """One flag as on a command line, with its source and its reason."""

    flag: str
    source: str
    reason: str


def flag_lines(flags: FlagSet) -> list[FlagLine]:
    lines = [FlagLine(argument.value, argument.source, argument.reason) for argument in flags.args]
    lines += [FlagLine(f"{variable.name}={variable.value}", variable.source, variable.reason) for variable in flags.env]
    return [*lines, *(FlagLine(conflict.reason, "conflict", conflict.message) for conflict in flags.conflicts)]
