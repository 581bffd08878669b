"""The metrics of the cluster's nodes with GPUs, from their labels and what they can allocate."""

from collections.abc import Iterable
from dataclasses import dataclass

from flash_contracts.metric_definition import MetricDefinition
from flash_contracts.node_facts import UNKNOWN, NodeFacts
from flash_operator.core.observed.kube import is_ready
from flash_operator.core.observed.snapshot import RawObject

GPUS_OF_A_REPLICA = 2

EACH = "1 for each node with GPUs"
GPUS = MetricDefinition("flash_operator_node_gpus", "gauge", "GPUs that pods of the node can get", ("node",), EACH)
LINKS = MetricDefinition(
    "flash_operator_node_links_info",
    "gauge",
    "1, with the worst link between the node's GPUs and the verdict on it, as its labels gpu-link and gpu-p2p say",
    ("node", "link", "p2p"),
    EACH,
)
USABLE = MetricDefinition(
    "flash_operator_nodes_with_two_gpus", "gauge", "Nodes with at least two GPUs that are Ready and not cordoned"
)
DEFINITIONS = (GPUS, LINKS, USABLE)


@dataclass(frozen=True)
class NodeFigures:
    """One node with GPUs."""

    node: str
    gpus: int
    link: str
    p2p: str
    usable: bool
    """A replica's pod may be bound to it, if it has two free ones."""


def node_figures(nodes: Iterable[RawObject]) -> list[NodeFigures]:
    """Of the nodes that have GPUs, or had them when their links were read."""
    found = (_figures(raw) for raw in nodes)
    return [one for one in found if one.gpus or (one.link, one.p2p) != (UNKNOWN, UNKNOWN)]


def _figures(raw: RawObject) -> NodeFigures:
    facts = NodeFacts.from_node(raw)
    usable = facts.gpus >= GPUS_OF_A_REPLICA and facts.schedulable and is_ready(raw)
    return NodeFigures(facts.name, facts.gpus, facts.link, facts.p2p, usable)
