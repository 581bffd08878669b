"""The nodes with GPUs: their links, the verdict on peer-to-peer, and the flags that engines get there and why. Pure."""

from collections.abc import Mapping, Sequence

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from flash_contracts.flags import derive
from flash_contracts.flags.interconnect import DefaultInterconnect
from flash_contracts.flags.table import TABLE, classify
from flash_contracts.names import DEPLOYMENT_LABEL
from flash_contracts.node_facts import UNKNOWN, NodeFacts
from flash_operator.core.observed.gpu_demand import gpus_of
from flash_operator.core.observed.snapshot import RawObject
from flashctl.explain.flag_lines import FlagGroup, grouped
from flashctl.output import Document, plain

PAIR = 2


class NodeTopology(Document):
    """One node."""

    name: str
    gpus: int
    """Allocatable ones."""
    free_gpus: int | None = None
    """Absent if the pods of all namespaces may not be read."""
    product: str | None = None
    link: str
    p2p: str
    driver: str | None = None
    row: str
    """Row of the flags table (docs/topology.md), for spec.interconnect's defaults."""
    seen: str
    """What selects the row."""
    means: str
    evidence: str
    flags: list[FlagGroup]
    engines: list[str]
    """Engine pods there, as NAMESPACE/POD."""
    schedulable: bool
    labels_managed: bool
    """False if an administrator maintains the labels."""
    claims: list[str]
    """Engines that failed there with peer-to-peer and worked without it."""
    warnings: list[str]


class TopologyDocument(Document):
    """`topology -o json`."""

    nodes: list[NodeTopology]
    unread: list[str]


def node_topology(node: RawObject, pods: Sequence[RawObject] | None) -> NodeTopology:
    """`pods` are all pods of the cluster; None if they may not be read."""
    facts = NodeFacts.from_node(node)
    row, seen = classify(facts)
    here = [pod for pod in pods or () if (pod.get("spec") or {}).get("nodeName") == facts.name]
    return NodeTopology(
        name=facts.name,
        gpus=facts.gpus,
        free_gpus=None if pods is None else max(0, facts.gpus - sum(gpus_of(pod) for pod in here)),
        product=facts.product,
        link=facts.link,
        p2p=facts.p2p,
        driver=facts.driver,
        row=row.name,
        seen=seen,
        means=row.why,
        evidence=TABLE[row.name].evidence,
        flags=grouped(list(derive(facts, DefaultInterconnect(), {}).explained())),
        engines=sorted(_name(pod) for pod in here if DEPLOYMENT_LABEL in (pod["metadata"].get("labels") or {})),
        schedulable=facts.schedulable,
        labels_managed=facts.managed,
        claims=[f"{claim.deployment}: {claim.kind}" for claim in facts.claims],
        warnings=[*facts.warnings, *([facts.staleness] if facts.staleness else []), *_hints(facts)],
    )


def _hints(facts: NodeFacts) -> list[str]:
    if facts.gpus and facts.gpus < PAIR:
        return ["one GPU: a replica needs two"]
    if facts.gpus and facts.link == UNKNOWN:
        return ["the links are unknown: install the labeller, or label the node (docs/topology.md)"]
    return []


def _name(pod: RawObject) -> str:
    return f"{pod['metadata'].get('namespace', '')}/{pod['metadata']['name']}"


def has_gpus(node: RawObject) -> bool:
    """It offers GPUs, or is labelled as one that should."""
    labels: Mapping[str, str] = node["metadata"].get("labels") or {}
    return NodeFacts.from_node(node).gpus > 0 or any(label.startswith("deepseekflash.dev/gpu-") for label in labels)


def table(found: Sequence[NodeTopology]) -> Table:
    drawn = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("NODE", "GPUS", "FREE", "LINK", "P2P", "ROW", "WHY"):
        drawn.add_column(column, no_wrap=column != "WHY")
    for node in found:
        drawn.add_row(
            node.name,
            str(node.gpus),
            "?" if node.free_gpus is None else str(node.free_gpus),
            node.link,
            Text(node.p2p, style=_colour(node.p2p)),
            node.row,
            plain("; ".join([node.seen, *node.warnings])),
        )
    return drawn


def _colour(p2p: str) -> str:
    return {"verified": "green", "hang": "red", "corrupt": "red"}.get(p2p, "yellow")


def details(node: NodeTopology) -> Group:
    """All about one node."""
    keeper = "the labeller" if node.labels_managed else "an administrator"
    free = "unknown" if node.free_gpus is None else node.free_gpus
    card = f", {node.product}" if node.product else ""
    lines = [
        f"GPUs: {node.gpus}, free: {free}{card}{'' if node.schedulable else ', cordoned'}",
        f"link {node.link}, p2p {node.p2p}, driver {node.driver or 'unknown'}, labels maintained by {keeper}",
        f"row {node.row} because {node.seen}: {node.means} (evidence: {node.evidence})",
        f"engines: {', '.join(node.engines) or 'none'}",
    ]
    parts: list[RenderableType] = [Text(node.name, style="bold"), *(Text(f"  {plain(line)}") for line in lines)]
    parts += ["", Text("FLAGS", style="bold")]
    parts += [Padding(Text(f"{' '.join(group.flags)}  <- {group.why}"), (0, 0, 0, 2)) for group in node.flags]
    notes = [*(f"claim of {claim}" for claim in node.claims), *node.warnings]
    if notes:
        parts += ["", Text("WARNINGS", style="bold"), *(Padding(Text(plain(note)), (0, 0, 0, 2)) for note in notes)]
    return Group(*parts)
