"""What a dump contains: everything about one deployment that the user may read, without Secrets."""

import json
from collections.abc import Iterator
from typing import Any

from flash_contracts.names import DEPLOYMENT_LABEL, LABEL_PREFIX, RESTORE_LABEL
from flash_contracts.redaction import redact
from flash_operator.core.observed.snapshot import RawObject
from flash_operator.core.resources.deployment import GATE_PORT
from flashctl.cluster import Cluster
from flashctl.errors import CommandError
from flashctl.explain.facts import Facts
from flashctl.log_merge import Source, sources
from flashctl.redaction import known_secrets, redacted

CHILDREN = (
    "ConfigMap", "ControllerRevision", "Deployment", "HorizontalPodAutoscaler", "PodDisruptionBudget", "ReplicaSet",
    "ScaledObject", "Service",
)  # fmt: skip
"""Kinds with the deployment's label. Never Secret."""
LOG_LINES = 20_000
LOG_BYTES = 8 << 20
"""Of one container. More would be no help in a report, and each replica has three."""


class DumpContents:
    """Reads while it is iterated. Afterwards `unread` says what could not be read, and why."""

    def __init__(self, cluster: Cluster, facts: Facts, secrets: tuple[str, ...] = ()) -> None:
        self._cluster, self._facts = cluster, facts
        self.unread: list[str] = list(facts.unread)
        self._children = list(self._read_children())
        known = (facts.flash, *facts.pods, *(raw for _, raw in self._children))
        self._secrets = (*secrets, *known_secrets(known))

    def files(self) -> Iterator[tuple[str, str]]:
        """Path and text, without secrets."""
        facts = self._facts
        yield "deployment.json", self._document(facts.flash)
        yield from ((f"children/{kind}-{_name(raw)}.json", self._document(raw)) for kind, raw in self._children)
        yield from ((f"pods/{_name(pod)}.json", self._document(pod)) for pod in facts.pods)
        yield from ((f"nodes/{_name(node)}.json", self._document(node_facts(node))) for node in facts.nodes)
        yield "events.json", self._document(list(facts.events))
        yield "leases.json", self._document(facts.leases if isinstance(facts.leases, str) else list(facts.leases))
        yield from self._gate_results()
        yield from self._logs()

    def _document(self, value: Any) -> str:
        return json.dumps(redacted(value, self._secrets), indent=1, sort_keys=True)

    def _read_children(self) -> Iterator[tuple[str, RawObject]]:
        for kind in CHILDREN:
            yield from ((kind, raw) for raw in self._listed(kind, DEPLOYMENT_LABEL))
        yield from (("Job", raw) for raw in self._listed("Job", RESTORE_LABEL))

    def _listed(self, kind: str, label: str) -> list[RawObject]:
        try:
            return self._cluster.listed(kind, labels={label: self._facts.name})
        except CommandError as error:
            self.unread.append(f"{kind}: {error}")
            return []

    def _gate_results(self) -> Iterator[tuple[str, str]]:
        for pod in self._facts.pods:
            name = _name(pod)
            try:
                answer = self._cluster.proxy(name, GATE_PORT, "/result").decode(errors="replace")
            except CommandError as error:
                self.unread.append(f"result of the gate of {name}: {error}")
                continue
            yield f"gates/{name}.json", redacted(answer, self._secrets)

    def _logs(self) -> Iterator[tuple[str, str]]:
        for source in sources(self._facts.pods):
            for previous in (False, True):
                text = self._log(source, previous=previous)
                if text:
                    end = "-previous" if previous else ""
                    yield f"logs/{source.pod}-{source.container}{end}.log", text

    def _log(self, source: Source, *, previous: bool) -> str:
        query = {"container": source.container, "timestamps": "true", "tailLines": str(LOG_LINES)}
        query |= {"limitBytes": str(LOG_BYTES), "previous": "true" if previous else ""}
        try:
            return redact("\n".join(self._cluster.log_lines(source.pod, query)), self._secrets)
        except CommandError as error:
            if not previous:  # most containers have no previous log
                self.unread.append(f"log of {source.pod} {source.container}: {error}")
            return ""


def node_facts(node: RawObject) -> RawObject:
    """What matters about a node, without its addresses, its images and others' labels."""
    metadata, status = node["metadata"], node.get("status") or {}
    ours = (LABEL_PREFIX, "nvidia.com/")
    return {
        "name": metadata["name"],
        "labels": _ours(metadata.get("labels"), ours),
        "annotations": _ours(metadata.get("annotations"), ours),
        "unschedulable": bool((node.get("spec") or {}).get("unschedulable")),
        "taints": (node.get("spec") or {}).get("taints") or [],
        "allocatable": status.get("allocatable"),
        "capacity": status.get("capacity"),
        "conditions": status.get("conditions"),
        "nodeInfo": {key: value for key, value in (status.get("nodeInfo") or {}).items() if not key.endswith("ID")},
    }


def _ours(found: dict[str, str] | None, prefixes: tuple[str, ...]) -> dict[str, str]:
    return {key: value for key, value in (found or {}).items() if key.startswith(prefixes)}


def _name(raw: RawObject) -> str:
    return str(raw["metadata"]["name"])
