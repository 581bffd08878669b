"""Why these flags: those in force by node, and what its labels call for now."""

import re
from typing import Any

from pydantic import Field, ValidationError

from flash_contracts.flags import derive
from flash_contracts.flags.flag_set import FlagSet
from flash_contracts.flags.table import TABLE
from flash_contracts.names import ENGINE_FLAGS_ANNOTATION
from flash_contracts.node_facts import NodeFacts
from flash_operator.api.v1alpha1 import FlashDeployment
from flash_operator.core.observed.snapshot import RawObject
from flash_operator.core.resources.engine_env import engine_env
from flashctl.explain.facts import Facts
from flashctl.output import Document

EXPLAINED = re.compile(r"^(?P<flag>.+?) \((?P<why>\w+: .*)\)$", re.DOTALL)


class FlagGroup(Document):
    """Flags with the same reason."""

    why: str
    """Source and reason; empty if none is known."""
    flags: list[str]


class NodeFlags(Document):
    """The flags of the engines on one node."""

    node: str
    pods: list[str]
    row: str | None = None
    """Of the table in docs/topology.md."""
    row_means: str | None = None
    link: str | None = None
    p2p: str | None = None
    origin: str | None = None
    outdated: bool = False
    groups: list[FlagGroup] = Field(default_factory=list)
    now_called_for: str | None = None
    """The row that the node's labels call for, if it is another one."""


def flags_by_node(facts: Facts, *, from_pods: bool) -> list[NodeFlags]:
    nodes = {str(node["metadata"]["name"]): node for node in facts.nodes}
    lines = _of_pods(facts) if from_pods and facts.pods else _of_status(facts)
    merged: dict[tuple[str, str | None, str | None], NodeFlags] = {}
    for line in lines:
        key = (line.node, line.row, line.origin)
        known = merged.get(key)
        merged[key] = line if known is None else known.model_copy(update={"pods": [*known.pods, *line.pods]})
    return [_with_labels(line, nodes.get(line.node), facts) for line in merged.values()]


def _of_status(facts: Facts) -> list[NodeFlags]:
    return [
        NodeFlags(
            node=one["node"],
            pods=[str(one.get("name"))],
            row=one.get("row"),
            row_means=row_means(one.get("row")),
            link=one.get("link"),
            p2p=one.get("p2p"),
            origin=one.get("flagsOrigin"),
            outdated=one.get("flagsOutdated") == "Outdated",
            groups=grouped(one.get("flags") or []),
        )
        for one in facts.status.get("pods") or []
        if one.get("node") and (one.get("row") or one.get("flags"))
    ]


def _of_pods(facts: Facts) -> list[NodeFlags]:
    found = []
    for pod in facts.pods:
        text = (pod["metadata"].get("annotations") or {}).get(ENGINE_FLAGS_ANNOTATION)
        node = (pod.get("spec") or {}).get("nodeName")
        flags = _parsed(text)
        if node and flags:
            found.append(
                NodeFlags(
                    node=node,
                    pods=[str(pod["metadata"]["name"])],
                    row=flags.row,
                    row_means=row_means(flags.row),
                    groups=grouped(list(flags.explained())),
                )
            )
    return found


def _parsed(text: Any) -> FlagSet | None:
    try:
        return FlagSet.parse_text(text) if text else None
    except ValueError:
        return None


def _with_labels(line: NodeFlags, node: RawObject | None, facts: Facts) -> NodeFlags:
    called_for = derived(node, facts.flash) if node else None
    if node is None or called_for is None:
        return line
    read = NodeFacts.from_node(node)
    update: dict[str, Any] = {"link": line.link or read.link, "p2p": line.p2p or read.p2p}
    if line.row and called_for.row != line.row:
        update["now_called_for"] = f"{called_for.row}: {row_means(called_for.row)}"
    return line.model_copy(update=update)


def derived(node: RawObject, flash: RawObject) -> FlagSet | None:
    """The flags that the operator would hand to this deployment's engine on the node; None for a spec that this plugin
    cannot read."""
    try:
        spec = FlashDeployment.from_object(flash).spec
    except (ValidationError, ValueError, KeyError, TypeError):
        return None
    facts = NodeFacts.from_node(node).with_claim_of(f"{flash['metadata'].get('namespace')}/{flash['metadata']['name']}")
    return derive(facts, spec.interconnect, engine_env(spec))


def row_means(row: str | None) -> str | None:
    """Why the row is as it is. None for a row of a newer operator."""
    return TABLE[row].why if row in TABLE else None


def grouped(explained: list[str]) -> list[FlagGroup]:
    """Flags by their reason, in order: twelve lines become three."""
    groups: dict[str, list[str]] = {}
    for line in explained:
        found = EXPLAINED.match(line)
        flag, why = (found["flag"], found["why"]) if found else (line, "")
        groups.setdefault(why, []).append(flag)
    return [FlagGroup(why=why, flags=flags) for why, flags in groups.items()]
