"""`kubectl dsf topology`: the nodes with GPUs."""

from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from flashctl import completion
from flashctl.errors import NoRightError, NotFoundError
from flashctl.exits import Exit
from flashctl.nearest import suggestion
from flashctl.session import Session, on_cluster
from flashctl.topology_table import PAIR, NodeTopology, TopologyDocument, details, has_gpus, node_topology, table

NodeArgument = Annotated[str | None, typer.Argument(help="All, if none is named.", autocompletion=completion.nodes)]


@on_cluster
def topology(session: Session, *, node: NodeArgument = None) -> Exit:
    """Show the nodes with GPUs: link, peer-to-peer verdict, and the flags that engines get there and why.

    Ends with 1 if no node has two GPUs.
    """
    nodes = session.cluster.listed("Node")
    known = [str(one["metadata"]["name"]) for one in nodes]
    if node and node not in known:
        raise NotFoundError(f"there is no node {node}{suggestion(node, known)}")
    nodes = [one for one in nodes if node in (None, one["metadata"]["name"])]
    unread: list[str] = []
    try:
        pods = session.cluster.listed("Pod", everywhere=True)
    except NoRightError as error:
        pods = None
        unread.append(f"which GPUs are free: {error}")
    found = [node_topology(one, pods) for one in nodes if node or has_gpus(one)]
    session.show(TopologyDocument(nodes=found, unread=unread), _text(found, unread, one=node is not None))
    return Exit.DONE if any(one.gpus >= PAIR for one in found) else Exit.NOT_READY


def _text(found: list[NodeTopology], unread: list[str], *, one: bool) -> RenderableType:
    if not found:
        return Text("no node offers GPUs: is the device plugin installed? kubectl dsf check looks further")
    shown: RenderableType = details(found[0]) if one else table(found)
    return Group(shown, *(Text(f"not known: {line}", style="yellow") for line in unread))
