"""Is this cluster able to run DeepSeek-Flash? One line for each thing that is needed or useful. Pure."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, NamedTuple

from rich.table import Table
from rich.text import Text

from flash_contracts.names import VERSION
from flash_contracts.node_facts import UNKNOWN, NodeFacts
from flash_operator.api.v1alpha1 import FlashSpec
from flash_operator.core.observed.snapshot import RawObject
from flashctl.explain.operator_state import operator_state
from flashctl.output import Document, plain

MINIMUM = (1, 33)
IMAGE_VOLUMES = (1, 35)
"""From this version they are on by default; before, behind the feature gate ImageVolume."""
PAIR = 2
COLOURS = {"ok": "green", "warning": "yellow", "missing": "red"}
Level = Literal["ok", "warning", "missing"]


class CheckLine(Document):
    """One line."""

    name: str
    level: Level
    found: str
    do: str | None = None
    """What to do about a warning, or about what is missing."""
    required: bool = True
    """Whether no deployment can work without it."""


class CheckDocument(Document):
    """`check -o json`."""

    able: bool
    """Nothing that is required is missing."""
    lines: list[CheckLine]


class Permission(NamedTuple):
    """A right that commands use."""

    verb: str
    kind: str
    subresource: str
    needed_for: str
    required: bool = False


PERMISSIONS = (
    Permission("list", "DeepSeekFlashDeployment", "", "every command", required=True),
    Permission("patch", "DeepSeekFlashDeployment", "", "update, rollback, retry"),
    Permission("list", "Pod", "", "explain, logs, dump"),
    Permission("get", "Pod", "log", "logs, dump"),
    Permission("get", "Pod", "proxy", "bench, dump"),
    Permission("patch", "Pod", "", "quarantine, release"),
    Permission("list", "Event", "", "explain, dump"),
    Permission("list", "Node", "", "topology, check"),
    Permission("list", "Lease", "", "explain: whether the operator lives"),
)
EVERYWHERE = ("Node", "Lease")
"""Kinds that are read in all namespaces."""


@dataclass(frozen=True)
class Findings:
    """What was read. A text instead of objects says why they could not be read."""

    now: datetime
    server_version: str
    served_versions: Sequence[str]
    crd: RawObject | str | None
    leases: Sequence[RawObject] | str
    operators: Sequence[RawObject] | str
    """Deployments of the operator."""
    labellers: Sequence[RawObject] | str
    """DaemonSets of the labeller."""
    nodes: Sequence[RawObject] | str
    runtime_classes: Sequence[RawObject] | str
    groups: frozenset[str]
    """API groups that the cluster serves."""
    rights: Mapping[Permission, bool] = field(default_factory=dict)


def check(found: Findings) -> CheckDocument:
    lines = [
        _server(found),
        _crd(found),
        _operator(found),
        _labeller(found),
        _pairs(found),
        _labels(found),
        _runtime(found),
        _image_volumes(found),
        *_rights(found),
        _optional(found, "KEDA", "keda.sh", "spec.scaling by KEDA needs it (docs/scaling.md)"),
        _optional(found, "Prometheus operator", "monitoring.coreos.com", "PodMonitors and alerts need it"),
    ]
    return CheckDocument(able=not any(one.level == "missing" and one.required for one in lines), lines=lines)


def operator_class(deployment: RawObject) -> str:
    """The class that an operator's Deployment is started for; empty for the one without."""
    spec = ((deployment.get("spec") or {}).get("template") or {}).get("spec") or {}
    arguments = [str(one) for container in spec.get("containers") or [] for one in container.get("args") or []]
    option = "--operator-class="
    return next((one.removeprefix(option) for one in arguments if one.startswith(option)), "")


def version_of(text: str) -> tuple[int, int] | None:
    """`v1.35.2+k3s1` as (1, 35)."""
    numbers = re.match(r"v?(\d+)\.(\d+)", text)
    return (int(numbers[1]), int(numbers[2])) if numbers else None


def _server(found: Findings) -> CheckLine:
    version = version_of(found.server_version)
    name, wanted = "Kubernetes", f"{MINIMUM[0]}.{MINIMUM[1]}"
    if version is None:
        return CheckLine(name=name, level="warning", found=f"version {found.server_version!r}", do=f"needs {wanted}")
    if version < MINIMUM:
        return CheckLine(name=name, level="missing", found=found.server_version, do=f"upgrade to {wanted} or later")
    return CheckLine(name=name, level="ok", found=found.server_version)


def _crd(found: Findings) -> CheckLine:
    name = "CRD"
    if not found.served_versions:
        return CheckLine(name=name, level="missing", found="not installed", do="install the operator's chart")
    if VERSION not in found.served_versions:
        served = ", ".join(found.served_versions)
        return CheckLine(
            name=name, level="missing", found=f"serves {served}, this plugin knows {VERSION}", do="install its plugin"
        )
    if not isinstance(found.crd, dict):
        return CheckLine(name=name, level="ok", found=f"serves {VERSION}; its fields cannot be read")
    here, ours = _fields(found.crd), {str(one.alias or name) for name, one in FlashSpec.model_fields.items()}
    if missing := sorted(ours - here):
        return CheckLine(
            name=name,
            level="warning",
            found=f"older than this plugin: spec has no {', '.join(missing)}",
            do="upgrade the chart, or use the plugin of its version",
        )
    if newer := sorted(here - ours):
        return CheckLine(
            name=name,
            level="warning",
            found=f"newer than this plugin: spec has {', '.join(newer)}",
            do="upgrade the plugin; until then it leaves out what it does not know",
        )
    return CheckLine(name=name, level="ok", found=f"serves {VERSION} with the fields that this plugin knows")


def _fields(crd: RawObject) -> set[str]:
    for version in (crd.get("spec") or {}).get("versions") or []:
        if version.get("name") == VERSION:
            schema = (version.get("schema") or {}).get("openAPIV3Schema") or {}
            return set((((schema.get("properties") or {}).get("spec") or {}).get("properties")) or {})
    return set()


def _operator(found: Findings) -> CheckLine:
    state = operator_state(found.leases if isinstance(found.leases, str) else list(found.leases), found.now)
    if state.state == "Leads":
        return CheckLine(name="Operator", level="ok", found=state.message)
    if state.state == "Unknown":
        return CheckLine(name="Operator", level="warning", found=state.message, do="ask an administrator")
    if isinstance(found.operators, str) or found.operators:
        return CheckLine(name="Operator", level="missing", found=state.message, do="bring it back")
    return CheckLine(name="Operator", level="missing", found="no Deployment of it, no Lease", do="install the chart")


def _labeller(found: Findings) -> CheckLine:
    name, do = "Labeller", "set labeller.enabled in the chart, or label nodes yourself (docs/topology.md)"
    if isinstance(found.labellers, str):
        return CheckLine(name=name, level="warning", found=found.labellers, do="ask an administrator", required=False)
    if not found.labellers:
        return CheckLine(name=name, level="warning", found="not installed", do=do, required=False)
    status = found.labellers[0].get("status") or {}
    ready, wanted = status.get("numberReady", 0), status.get("desiredNumberScheduled", 0)
    level: Level = "ok" if ready >= wanted else "warning"
    do_now = None if level == "ok" else "look at its pods: kubectl get pods -A -l app.kubernetes.io/component=labeller"
    return CheckLine(name=name, level=level, found=f"{ready} of {wanted} nodes", do=do_now, required=False)


def _facts(found: Findings) -> list[NodeFacts]:
    return [] if isinstance(found.nodes, str) else [NodeFacts.from_node(node) for node in found.nodes]


def _pairs(found: Findings) -> CheckLine:
    name = "Nodes with two GPUs"
    if isinstance(found.nodes, str):
        return CheckLine(name=name, level="warning", found=found.nodes, do="ask an administrator")
    facts = _facts(found)
    pairs = [node for node in facts if node.gpus >= PAIR]
    if not pairs:
        some = sum(node.gpus > 0 for node in facts)
        do = "install NVIDIA's GPU operator or device plugin" if not some else "a replica needs two GPUs of one node"
        return CheckLine(name=name, level="missing", found=f"none; {some} with one GPU", do=do)
    cordoned = sum(not node.schedulable for node in pairs)
    if cordoned == len(pairs):
        return CheckLine(name=name, level="warning", found=f"{len(pairs)}, all cordoned", do="kubectl uncordon NODE")
    return CheckLine(name=name, level="ok", found=f"{len(pairs)} of {len(facts)} nodes")


def _labels(found: Findings) -> CheckLine:
    name, pairs = "Node labels", [node for node in _facts(found) if node.gpus >= PAIR]
    wrong = [f"{node.name}: {warning}" for node in pairs for warning in node.warnings]
    if wrong:
        return CheckLine(
            name=name, level="warning", found=wrong[0], do="correct the label or remove it", required=False
        )
    unknown = [node.name for node in pairs if UNKNOWN in (node.link, node.p2p)]
    if unknown:
        return CheckLine(
            name=name,
            level="warning",
            found=f"links unknown on {', '.join(unknown[:5])}",
            do="install the labeller; engines there use the safe flags, which are slower",
            required=False,
        )
    verified = sum(node.p2p == "verified" for node in pairs)
    return CheckLine(
        name=name, level="ok", found=f"peer-to-peer verified on {verified} of {len(pairs)}", required=False
    )


def _runtime(found: Findings) -> CheckLine:
    """GPUs that are offered show that the runtime works, with a class or without."""
    name = "NVIDIA runtime"
    if isinstance(found.runtime_classes, str):
        return CheckLine(
            name=name, level="warning", found=found.runtime_classes, do="ask an administrator", required=False
        )
    handlers = [
        str(one["metadata"]["name"]) for one in found.runtime_classes if "nvidia" in str(one.get("handler", ""))
    ]
    if handlers:
        return CheckLine(name=name, level="ok", found=f"RuntimeClass {', '.join(handlers)}", required=False)
    if any(node.gpus for node in _facts(found)):
        return CheckLine(
            name=name,
            level="ok",
            found="no RuntimeClass; GPUs are offered, so it is probably the default",
            required=False,
        )
    do = "install the NVIDIA container toolkit and its RuntimeClass"
    return CheckLine(name=name, level="warning", found="no RuntimeClass of it, and no GPUs", do=do, required=False)


def _image_volumes(found: Findings) -> CheckLine:
    version = version_of(found.server_version) or (0, 0)
    if version >= IMAGE_VOLUMES:
        text = "by the API server's version; the nodes need containerd 2.1 or CRI-O"
        return CheckLine(name="Image volumes", level="ok", found=text, required=False)
    return CheckLine(
        name="Image volumes",
        level="warning",
        found="only with the feature gate ImageVolume",
        do="nothing: oci:// models are downloaded instead; or upgrade to Kubernetes 1.35",
        required=False,
    )


def _rights(found: Findings) -> list[CheckLine]:
    """One line for what you may, and one for each right that you lack."""
    lacking = [right for right, held in found.rights.items() if not held]
    lines = [
        CheckLine(
            name="Your rights",
            level="missing" if right.required else "warning",
            found=f"you may not {right.verb} {right.kind}{f'/{right.subresource}' if right.subresource else ''}",
            do=f"ask for it; needed for: {right.needed_for}",
            required=right.required,
        )
        for right in lacking
    ]
    if lines:
        return lines
    return [CheckLine(name="Your rights", level="ok", found=f"all {len(found.rights)} that the commands use")]


def _optional(found: Findings, name: str, group: str, use: str) -> CheckLine:
    if group in found.groups:
        return CheckLine(name=name, level="ok", found="installed", required=False)
    return CheckLine(
        name=name, level="warning", found="not installed", do=f"only if you want it: {use}", required=False
    )


def table(document: CheckDocument) -> Table:
    drawn = Table(box=None, pad_edge=False, show_header=False)
    for line in document.lines:
        text = Text(plain(line.found))
        if line.do:
            text.append(f"\n{line.do}", style="dim")
        drawn.add_row(Text(line.level, style=COLOURS[line.level]), line.name, text)
    return drawn
