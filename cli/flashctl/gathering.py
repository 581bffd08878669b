"""Reads what an explanation needs. What the user may not read is left out, and named."""

from collections.abc import Callable

from flash_contracts.names import DEPLOYMENT_LABEL, KIND
from flash_operator.core.observed.snapshot import RawObject
from flashctl.cluster import Cluster
from flashctl.errors import NoRightError, NotFoundError
from flashctl.explain.facts import Facts
from flashctl.explain.operator_state import lease_name


def facts_about(cluster: Cluster, name: str) -> Facts:
    """Raises CommandError if the deployment itself cannot be read."""
    flash = cluster.get(KIND, name)
    unread: list[str] = []
    pods = _readable(lambda: cluster.listed("Pod", labels={DEPLOYMENT_LABEL: name}), "pods", unread)
    events = _readable(lambda: events_about(cluster, name, pods), "events", unread)
    nodes = _readable(lambda: _nodes(cluster, flash, pods), "nodes", unread)
    return Facts(
        flash=flash,
        now=cluster.now(),
        pods=tuple(pods),
        nodes=tuple(nodes),
        events=tuple(events),
        leases=operator_leases(cluster, (flash.get("spec") or {}).get("operatorClass") or ""),
        unread=tuple(unread),
    )


def operator_leases(cluster: Cluster, operator_class: str) -> tuple[RawObject, ...] | str:
    """The operator's Leases in all namespaces, or why they cannot be read."""
    try:
        name = lease_name(operator_class)
        return tuple(cluster.listed("Lease", everywhere=True, fields={"metadata.name": name}))
    except NoRightError as error:
        return str(error)


def events_about(cluster: Cluster, name: str, pods: list[RawObject]) -> list[RawObject]:
    """Events of the deployment, its Deployment and its pods. The API server cannot select by several names."""
    names = {name, *(str(pod["metadata"]["name"]) for pod in pods)}
    return [event for event in cluster.listed("Event") if (event.get("regarding") or {}).get("name") in names]


def _nodes(cluster: Cluster, flash: RawObject, pods: list[RawObject]) -> list[RawObject]:
    of_pods = {(pod.get("spec") or {}).get("nodeName") for pod in pods}
    of_status = {one.get("node") for one in (flash.get("status") or {}).get("pods") or []}
    found = (cluster.find("Node", name) for name in sorted(filter(None, of_pods | of_status)))
    return [node for node in found if node is not None]


def _readable(read: Callable[[], list[RawObject]], what: str, unread: list[str]) -> list[RawObject]:
    try:
        return read()
    except (NoRightError, NotFoundError) as error:
        unread.append(f"{what}: {error}")
        return []
