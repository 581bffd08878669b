"""Flows of the operator's own code against an API server, and which of the chart's rights each of them needs."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import aiohttp
import kopf
from structlog.testing import capture_logs

from builders import SETTINGS, a_flash_object
from chart_rights import Right
from flash_contracts.activation import FIRST_PORT
from flash_contracts.names import DEPLOYMENT_LABEL, P2P_TEST_LABEL, PLURAL
from flash_operator.api.v1alpha1 import FlashDeployment
from flash_operator.core.observed.raw import RawObject
from flash_operator.core.p2p_test.job import P2pTestSettings, p2p_test_name
from flash_operator.core.plan import ObjectRef
from flash_operator.core.status.events import EventSpec
from flash_operator.runtime.activators import Activators
from flash_operator.runtime.child_watches import ChildWatches
from flash_operator.runtime.cluster import ApiError, Cluster
from flash_operator.runtime.events import EventRecorder, flash_event, node_event
from flash_operator.runtime.keys import FlashKey, NodeKey
from flash_operator.runtime.lease import LeaderLease
from flash_operator.runtime.metrics import Metrics
from flash_operator.runtime.node_reconciler import NodeReconciler
from flash_operator.runtime.resync import Resync
from flash_operator.runtime.store import Store
from flash_operator.runtime.watches import Watches, kopf_settings
from flash_operator.runtime.workqueue import WorkQueue
from runtime_site import Site

RELEASE, WATCHED = "each-right-release", "each-right-watched"
GPU_LABELS = {
    "deepseekflash.dev/gpu-link": "node",
    "deepseekflash.dev/gpu-p2p": "granted",
    "deepseekflash.dev/gpu-driver": "595.84",
    "deepseekflash.dev/gpu-cards": "3fa9c21b07",
}
HEALTHY = json.dumps({"version": 1, "verdict": "healthy", "reason": "all variants agree", "schema": "v1-abcdef"})
OURS = {"app.kubernetes.io/managed-by": "flash-operator"}
WITH_URL = replace(SETTINGS, demand_url="http://flash-metrics.system.svc:8080")


@dataclass
class Place:
    """An operator with some account, and the administrator who prepares what it finds."""

    owner: Site
    site: Site
    name: str

    @property
    def key(self) -> FlashKey:
        return FlashKey(WATCHED, self.name)

    @property
    def cluster(self) -> Cluster:
        return self.site.cluster

    async def put(self, raw: RawObject) -> RawObject:
        return await self.owner.cluster.apply(raw)

    async def flash(self, **spec: Any) -> FlashDeployment:
        raw = a_flash_object(self.name, **spec)
        raw["metadata"] = {"name": self.name, "namespace": WATCHED}
        return FlashDeployment.from_object(await self.put(raw))

    async def pod(self, **spec: Any) -> RawObject:
        """One of the deployment's replicas."""
        labels = {**OURS, DEPLOYMENT_LABEL: self.name}
        raw = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": self.name, "namespace": WATCHED}}
        raw["metadata"]["labels"] = labels  # type: ignore[index]
        containers = [{"name": "engine", "image": "x"}]
        return await self.put(
            {**raw, "spec": {"containers": containers, "automountServiceAccountToken": False, **spec}}
        )

    async def node(self, labels: dict[str, str] | None = None) -> str:
        metadata = {"name": f"node-{self.name}", "labels": labels or {}}
        self.owner.apply({"apiVersion": "v1", "kind": "Node", "metadata": metadata})
        return f"node-{self.name}"

    def kubectl(self, *args: str) -> None:
        self.owner.server.kubectl(*args)

    @asynccontextmanager
    async def with_activators(self) -> AsyncIterator[None]:
        """Where the chart installs them, and KEDA is there."""
        async with aiohttp.ClientSession() as session:
            service = (RELEASE, "flash-activator")
            found = Activators(self.owner.cluster, session, service, lambda: (self.key,), port=FIRST_PORT)
            with self.site.operator(WITH_URL, activators=found):
                yield


Flow = Callable[[Place], Awaitable[object]]


async def lists(place: Place) -> None:
    await Resync(Store(), WorkQueue(), place.cluster, Metrics(), WATCHED).load()


async def watches_of_children(place: Place) -> None:
    """For a second, or until one of them is refused."""
    store = Store()
    resync = Resync(store, WorkQueue(), place.cluster, Metrics(), WATCHED)
    await resync.load()
    following = ChildWatches(store, place.cluster, resync, lambda _, __: None, WATCHED)
    with capture_logs() as logs:
        running = asyncio.create_task(following.run())
        await until(lambda: any(log["log_level"] == "error" for log in logs), 1.0)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    raise_any(logs)


async def watches_of_kopf(place: Place) -> object:
    """kopf reads KUBECONFIG itself."""
    del place
    watches, stop = Watches(Store(), WorkQueue()), asyncio.Event()
    heard = Heard()
    logging.getLogger("kopf").addHandler(heard)
    running = asyncio.create_task(
        kopf.operator(
            registry=watches.registry,
            settings=kopf_settings(),
            standalone=True,
            namespaces=[WATCHED],
            stop_flag=stop,
        )
    )
    await until(lambda: running.done() or "forbidden" in heard.text, 1.5)
    stop.set()
    done = await asyncio.gather(running, return_exceptions=True)
    logging.getLogger("kopf").removeHandler(heard)
    return heard.text, done


async def a_new_deployment(place: Place) -> None:
    await place.flash(replicas=2)
    await place.site.reconcile(place.key)


async def scaled_by_an_hpa(place: Place) -> object:
    await place.flash(scaling={"maxReplicas": 3, "by": "Hpa"})
    return await status_after(place)


async def scaled_to_zero(place: Place) -> object:
    await place.flash(replicas=0, scaling={"minReplicas": 0, "maxReplicas": 3})
    async with place.with_activators():
        return await status_after(place)


async def no_hpa_any_more(place: Place) -> None:
    await place.flash(scaling={"maxReplicas": 3, "by": "Hpa"})
    await place.owner.reconcile(place.key)
    await place.flash()
    await place.site.reconcile(place.key)


async def no_zero_any_more(place: Place) -> None:
    async with place.with_activators():
        await place.flash(replicas=0, scaling={"minReplicas": 0, "maxReplicas": 3})
        await place.site.reconcile(place.key)
        await place.flash(replicas=1)
        await place.site.reconcile(place.key)


RESTORING = {"source": "pvc://models/v4", "restoreMtp": {"source": "hf://owner/official@0123abc"}}


async def a_head_to_restore(place: Place) -> None:
    await place.flash(model=RESTORING)
    await place.site.reconcile(place.key)


async def no_head_any_more(place: Place) -> None:
    await place.flash(model=RESTORING)
    await place.owner.reconcile(place.key)
    await place.flash(model={"source": "pvc://models/v4"}, speculation={"method": "Disabled"})
    await place.site.reconcile(place.key)


async def a_pod_that_is_bound(place: Place) -> None:
    await place.flash()
    await place.owner.reconcile(place.key)
    node = await place.node({"deepseekflash.dev/gpu-link": "phb"})
    await place.pod(nodeName=node)
    await place.site.reconcile(place.key)


async def a_pod_that_has_ended(place: Place) -> None:
    await place.flash()
    await place.owner.reconcile(place.key)
    await place.pod()
    status = '{"status":{"phase":"Failed","reason":"Evicted"}}'
    place.kubectl("patch", "pod", place.name, "-n", WATCHED, "--subresource=status", "--type=merge", "-p", status)
    await place.site.reconcile(place.key)


async def templates_that_are_superseded(place: Place) -> None:
    for image in ("e:1", "e:2"):
        await place.flash(engine={"image": image})
        await place.owner.reconcile(place.key)
    await place.flash(engine={"image": "e:3"})
    await place.site.reconcile(place.key)


async def an_eviction(place: Place) -> None:
    uid = (await place.pod())["metadata"]["uid"]
    assert await place.cluster.evict(ObjectRef("Pod", WATCHED, place.name, uid))


async def an_event_that_is_repeated(place: Place) -> None:
    event = EventSpec("Normal", "Tried", "it was tried", "Try")
    recorder, flash = EventRecorder(place.cluster), await place.flash()
    for _ in range(2):
        await recorder.emit(flash_event(flash, event, datetime.now(UTC), "test"))


async def a_nodes_event_that_is_repeated(place: Place) -> None:
    event, node = EventSpec("Normal", "Tried", "it was tried", "Try"), {"metadata": {"name": place.name}}
    recorder = EventRecorder(place.cluster)
    for _ in range(2):
        await recorder.emit(node_event(node, event, datetime.now(UTC), "test"))


async def a_stored_spec(place: Place) -> None:
    await place.flash()
    await place.owner.reconcile(place.key)
    await place.site.reconcile(place.key)


async def the_lease(place: Place) -> None:
    lease = LeaderLease(place.cluster, RELEASE, place.name, operator_class=place.name)
    await lease.try_once()
    await lease.try_once()


async def a_test_of_links(place: Place) -> None:
    """From its Job to the verdict, with the event that says so."""
    node = await place.node(GPU_LABELS)
    gpus = '{"status":{"allocatable":{"nvidia.com/gpu":"2"}}}'
    place.kubectl("patch", "node", node, "--subresource=status", "--type=merge", "-p", gpus)
    reconciler = NodeReconciler(place.cluster, P2pTestSettings(RELEASE, "e:1"), "test", namespace=WATCHED)
    try:
        await reconciler.reconcile(NodeKey(node))
        await a_healthy_report(place, node)
        await reconciler.reconcile(NodeKey(node))
    finally:
        place.kubectl("delete", "node", node)


async def a_healthy_report(place: Place, node: str) -> None:
    """As the Job's pod leaves it behind."""
    name = p2p_test_name(node)
    job = await place.owner.cluster.get("Job", name, RELEASE) or {"metadata": {"uid": "none"}}
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": job["metadata"]["uid"]}
    metadata = {"name": name, "namespace": RELEASE, "labels": {P2P_TEST_LABEL: name}, "ownerReferences": [owner]}
    spec = {
        "nodeName": node,
        "containers": [{"name": "p2p-test", "image": "e:1"}],
        "automountServiceAccountToken": False,
    }
    await place.put({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
    container = {"name": "p2p-test", "image": "e:1", "imageID": "", "ready": False, "restartCount": 0}
    ended = {"exitCode": 0, "message": HEALTHY, "startedAt": None, "finishedAt": None}
    status = {"phase": "Succeeded", "containerStatuses": [{**container, "state": {"terminated": ended}}]}
    patch = json.dumps({"status": status})
    place.kubectl("patch", "pod", name, "-n", RELEASE, "--subresource=status", "--type=merge", "-p", patch)


async def where_the_activators_are(place: Place) -> None:
    async with aiohttp.ClientSession() as session:
        await Activators(place.cluster, session, (RELEASE, "flash-activator"), tuple).find()


async def status_after(place: Place) -> object:
    """What cannot be read or written of autoscalers is said in the status, and stops nothing else."""
    await place.site.reconcile(place.key)
    found = await place.owner.cluster.get("DeepSeekFlashDeployment", place.name, WATCHED)
    return (found or {}).get("status")


KINDS = ("deployments", "controllerrevisions", "services", "configmaps", "poddisruptionbudgets")
NEEDS: dict[str, tuple[Flow, dict[str, tuple[str, ...]]]] = {
    "lists": (lists, {"watched: list": (PLURAL, "pods", "jobs", *KINDS), "cluster: list": ("nodes",)}),
    "watches": (watches_of_children, {"watched: watch": ("pods", "jobs", *KINDS)}),
    "watches by kopf": (watches_of_kopf, {"watched: watch": (PLURAL,), "cluster: watch": ("nodes",)}),
    "a new deployment": (
        a_new_deployment,
        {"watched: create": KINDS, "watched: patch": (*KINDS, f"{PLURAL}/status"), "watched: get": (PLURAL,)},
    ),
    "scaled by an HPA": (
        scaled_by_an_hpa,
        {f"watched: {verb}": ("horizontalpodautoscalers",) for verb in ("list", "create", "patch")},
    ),
    "scaled to zero": (
        scaled_to_zero,
        {f"watched: {verb}": ("scaledobjects", "endpointslices") for verb in ("list", "create", "patch")},
    ),
    "no HPA any more": (no_hpa_any_more, {"watched: delete": ("horizontalpodautoscalers",)}),
    "no zero any more": (no_zero_any_more, {"watched: delete": ("scaledobjects", "endpointslices")}),
    "a head to restore": (a_head_to_restore, {"watched: create": ("jobs",), "watched: patch": ("jobs",)}),
    "no head any more": (no_head_any_more, {"watched: delete": ("jobs",)}),
    "a pod that is bound": (a_pod_that_is_bound, {"watched: patch": ("pods",), "cluster: get": ("nodes",)}),
    "a pod that has ended": (a_pod_that_has_ended, {"watched: delete": ("pods",)}),
    "superseded templates": (
        templates_that_are_superseded,
        {"watched: delete": ("controllerrevisions", "configmaps")},
    ),
    "an eviction": (an_eviction, {"watched: create": ("pods/eviction",)}),
    "an event twice": (
        an_event_that_is_repeated,
        {f"watched: {verb}": ("events",) for verb in ("create", "get", "patch")},
    ),
    "a stored spec": (a_stored_spec, {"watched: create": (PLURAL,)}),
    "the lease": (the_lease, {f"release: {verb}": ("leases",) for verb in ("get", "create", "update")}),
    "a test of links": (
        a_test_of_links,
        {
            **{f"release: {verb}": ("jobs",) for verb in ("get", "create", "patch", "delete")},
            "release: list": ("pods",),
            "cluster: patch": ("nodes",),
            "default: create": ("events",),
        },
    ),
    "an event of a node twice": (
        a_nodes_event_that_is_repeated,
        {f"default: {verb}": ("events",) for verb in ("get", "patch")},
    ),
    "activators": (where_the_activators_are, {"release: list": ("endpointslices",)}),
}
"""Name -> the flow, and the resources by place and verb for which it is the proof."""

CASES = {
    Right(place, verb, resource): flow
    for flow, (_, needs) in NEEDS.items()
    for rights, resources in needs.items()
    for place, verb in [rights.split(": ")]
    for resource in resources
}
"""Right -> the name of its flow."""


class Heard(logging.Handler):
    """What is logged by kopf."""

    text = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.text += self.format(record)


async def until(look: Callable[[], bool], seconds: float) -> None:
    deadline = asyncio.get_running_loop().time() + seconds
    while not look() and asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(0.02)


def raise_any(logs: list[Any]) -> None:
    """Logs that are captured in a flow are not seen outside of it."""
    text = str([log for log in logs if log["log_level"] in ("warning", "error")])
    if text != "[]":
        raise ApiError(403, text)
