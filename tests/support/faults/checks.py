"""What must hold after every run, whatever went wrong in it. Each check returns what is wrong; empty if nothing is."""

from typing import Any

from faults.site import REPLICAS, TAKEN, FaultSite, deployments_path
from flash_contracts.names import DEPLOYMENT_LABEL

CHILDREN = (
    "/apis/apps/v1/namespaces/{}/deployments",
    "/apis/apps/v1/namespaces/{}/controllerrevisions",
    "/api/v1/namespaces/{}/services",
    "/api/v1/namespaces/{}/configmaps",
    "/apis/policy/v1/namespaces/{}/poddisruptionbudgets",
)

RawObject = dict[str, Any]


async def not_settled(site: FaultSite) -> list[str]:
    """Every deployment is ready, and its status says what is true; the one whose name is taken says so."""
    found = await _items(site, deployments_path(site.namespace))
    pods = await _items(site, f"/api/v1/namespaces/{site.namespace}/pods")
    wrong = [] if len(found) == len(REPLICAS) + 1 else [f"{len(found)} deployments"]
    for raw in found:
        name, status = raw["metadata"]["name"], raw.get("status", {})
        if name == TAKEN:
            message = _condition(status, "Ready").get("message", "")
            wrong += [] if "exists already" in message else [f"{name}: {message!r}"]
            continue
        own = [pod for pod in pods if pod["metadata"]["labels"].get(DEPLOYMENT_LABEL) == name]
        truth = (REPLICAS[name], sorted(pod["metadata"]["uid"] for pod in own if _is_ready(pod)))
        said = (status.get("readyReplicas"), sorted(pod["uid"] for pod in status.get("pods", [])))
        wrong += [] if said == truth else [f"{name}: the status says {said}, and it is {truth}"]
        ready = _condition(status, "Ready")
        wrong += [] if ready.get("status") == "True" else [f"{name}: {ready}"]
    return [*wrong, *await _orphans(site, found), *await _unproven_endpoints(site, pods)]


async def _orphans(site: FaultSite, owners: list[RawObject]) -> list[str]:
    uids = {raw["metadata"]["uid"] for raw in owners}
    children = [child for path in CHILDREN for child in await _items(site, path.format(site.namespace))]
    ours = [child for child in children if DEPLOYMENT_LABEL in (child["metadata"].get("labels") or {})]
    without = [child for child in ours if not uids & {o["uid"] for o in child["metadata"].get("ownerReferences", [])}]
    return [f"{child['metadata']['name']} has no owner" for child in without]


async def _unproven_endpoints(site: FaultSite, pods: list[RawObject]) -> list[str]:
    slices = await _items(site, f"/apis/discovery.k8s.io/v1/namespaces/{site.namespace}/endpointslices")
    ready = [
        address
        for one in slices
        for endpoint in one.get("endpoints") or []
        if endpoint.get("conditions", {}).get("ready")
        for address in endpoint["addresses"]
    ]
    alive = {pod["status"].get("podIP") for pod in pods}
    return [f"{address} is an endpoint" for address in ready if address not in site.kubelet.passed & alive]


async def broken_promises(site: FaultSite) -> list[str]:
    """What must not have happened at any moment of the run."""
    wrong = [
        f"the template of a Deployment has changed: {sorted(revisions)}"
        for revisions in site.history.templates.values()
        if len(revisions) > 1
    ]
    for namespace, deployment, node in site.history.lost_pods:
        is_own = namespace in (site.namespace, site.doomed)
        if is_own and node not in site.gone_nodes and (namespace, deployment) not in site.deleted:
            wrong.append(f"a pod of {namespace}/{deployment} on {node} was deleted, and nobody asked for it")
    service = await site.send("GET", f"/api/v1/namespaces/{site.namespace}/services/{TAKEN}")
    if service["metadata"]["resourceVersion"] != site.foreign["metadata"]["resourceVersion"]:
        wrong.append("somebody else's Service was written to")
    return wrong


async def _items(site: FaultSite, path: str) -> list[RawObject]:
    found: list[RawObject] = (await site.send("GET", path))["items"]
    return found


def _condition(status: RawObject, name: str) -> RawObject:
    return next((one for one in status.get("conditions", []) if one["type"] == name), {})


def _is_ready(pod: RawObject) -> bool:
    return _condition(pod["status"], "Ready").get("status") == "True"
