"""What the picture shows: a reading, the labels it leads to, and the flags that those lead to. Pure.

Labels and flags come from the code that the labeller and the operator run, so that the picture cannot say otherwise.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from flash_contracts.flags.derivation import derive
from flash_contracts.flags.flag_set import FlagSet
from flash_contracts.flags.interconnect import DefaultInterconnect
from flash_contracts.flags.table import TABLE, Row
from flash_contracts.names import LABEL_PREFIX, P2P_LABEL, P2P_REPORT_ANNOTATION
from flash_contracts.node_facts import TESTED, UNKNOWN, NodeFacts
from flash_node.assessment import Assessment, assess, iommu_of, link_of, p2p_of
from flash_node.dump import Gpu, NodeDump, Pair
from flash_node.labels import NodeState, verdict_stands, wanted_labels

Tree = dict[str, dict[str, list[Gpu]]]
"""NUMA node, then root complex, then cards."""


@dataclass(frozen=True)
class View:
    """One node."""

    dump: NodeDump
    found: Assessment
    labels: dict[str, str]
    """Without their prefix: as they stand after the labeller."""
    flags: FlagSet
    row: Row
    warnings: tuple[str, ...]
    assumed: str | None = None
    """A verdict that was asked for in place of the node's."""

    @property
    def tree(self) -> Tree:
        tree: Tree = {}
        for gpu in self.dump.gpus:
            numa = "NUMA node unknown" if gpu.numa_node is None else f"NUMA node {gpu.numa_node}"
            tree.setdefault(numa, {}).setdefault(gpu.pcie_root or "root complex unknown", []).append(gpu)
        return tree

    def verdict_of(self, pair: Pair) -> str:
        """A test speaks for the whole node; otherwise it is the driver's word about these two cards."""
        whole = self.labels.get("gpu-p2p", UNKNOWN)
        return whole if whole in TESTED else p2p_of(pair, self.dump.gpus)

    def pair_words(self, pair: Pair) -> str:
        return f"{link_of(pair)}, {self.verdict_of(pair)}"


def view_of(dump: NodeDump, assumed: str | None = None) -> View:
    """`assumed` is a value of gpu-p2p: what the flags would be if a test had found that."""
    found = assess(dump)
    state = NodeState(dump.node_labels, {}, "")
    after = {**dump.node_labels, **(wanted_labels(state, found) if state.managed else {})}
    if assumed:
        after[P2P_LABEL] = assumed
    labels = {name: value for name, value in after.items() if value is not None}
    report = dump.probe_report if not state.managed or verdict_stands(state, found) else None
    annotations = {P2P_REPORT_ANNOTATION: report} if report else {}
    facts = NodeFacts.from_node({"metadata": {"name": dump.node, "labels": labels, "annotations": annotations}})
    flags = derive(facts, DefaultInterconnect(), {})
    ours = {n.removeprefix(LABEL_PREFIX): value for n, value in sorted(labels.items()) if n.startswith(LABEL_PREFIX)}
    return View(dump, found, ours, flags, TABLE[flags.row], (*found.warnings, *facts.warnings), assumed)


def card_words(gpu: Gpu) -> list[str]:
    """Two lines about one card: its address and link, and what it has."""
    address = gpu.bus.removeprefix("0000:") if gpu.bus else "no address"
    link = f"gen{gpu.pcie_generation}-x{gpu.pcie_lanes}" if gpu.pcie_generation and gpu.pcie_lanes else "link unknown"
    return [f"{address}, {link}{', MIG on' if gpu.mig else ''}", ", ".join(_amounts(gpu)) or "nothing more is known"]


def _amounts(gpu: Gpu) -> Iterator[str]:
    if gpu.memory is not None:
        yield f"{gpu.memory / (1 << 30):.0f} GiB"
    if gpu.power_limit is not None:
        yield f"{gpu.power_limit / 1000:.0f} W"
    if iommu := iommu_of(gpu):
        yield f"IOMMU {iommu}"


@dataclass(frozen=True)
class FlagLine:
    """One flag as a person would write it, from whom it is, and why."""

    flag: str
    source: str
    reason: str


def flag_lines(flags: FlagSet) -> list[FlagLine]:
    lines = [FlagLine(argument.value, argument.source, argument.reason) for argument in flags.args]
    lines += [FlagLine(f"{variable.name}={variable.value}", variable.source, variable.reason) for variable in flags.env]
    return [*lines, *(FlagLine(conflict.reason, "conflict", conflict.message) for conflict in flags.conflicts)]
