"""Takes each right of the chart's operator away: a real API server then refuses a request of the operator's own code.

An installation that watches one namespace has every rule of the chart, each in the role of one place. One for all
namespaces has the same rules, those of the watched namespace in its ClusterRole. The table below says which flow needs
which right; a right that is not in it is superfluous, and fails the first test.
"""

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import count
from typing import Any, NamedTuple

import aiohttp
import kopf
import pytest
from structlog.testing import capture_logs

from builders import SETTINGS, a_flash_object
from cluster_fixtures import ControlPlane
from flash_contracts.activation import FIRST_PORT
from flash_contracts.names import DEPLOYMENT_LABEL, PLURAL
from flash_operator.api.v1alpha1 import FlashDeployment
from flash_operator.core.observed.raw import RawObject
from flash_operator.core.p2p_test.job import P2pTestSettings
from flash_operator.core.plan import ObjectRef
from flash_operator.core.status.events import EventSpec
from flash_operator.runtime.activators import Activators
from flash_operator.runtime.child_watches import ChildWatches
from flash_operator.runtime.cluster import ApiError, Cluster
from flash_operator.runtime.events import EventRecorder, flash_event, node_event
from flash_operator.runtime.gates import Gates
from flash_operator.runtime.keys import FlashKey, NodeKey
from flash_operator.runtime.lease import LeaderLease
from flash_operator.runtime.metrics import Metrics
from flash_operator.runtime.node_reconciler import NodeReconciler
from flash_operator.runtime.resync import Resync
from flash_operator.runtime.store import Store
from flash_operator.runtime.watches import Watches, kopf_settings
from flash_operator.runtime.workqueue import WorkQueue
from keda_api import a_keda_crd
from rendered_chart import bundle, granted, render
from runtime_site import Site
from waiting import eventually

pytestmark = pytest.mark.apiserver

RELEASE, WATCHED = "each-right-release", "each-right-watched"
VALUES = (f"watchNamespace={WATCHED}", "activator.enabled=true")
ACCOUNT = f"system:serviceaccount:{RELEASE}:flash"
GPU_LABELS = {
    "deepseekflash.dev/gpu-link": "node",
    "deepseekflash.dev/gpu-p2p": "granted",
    "deepseekflash.dev/gpu-driver": "595.84",
    "deepseekflash.dev/gpu-cards": "3fa9c21b07",
}
OURS = {"app.kubernetes.io/managed-by": "flash-operator"}
WITH_URL = replace(SETTINGS, demand_url="http://flash-metrics.system.svc:8080")
SECONDS_TO_COMPLAIN = 5.0


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
            with self.site.operator(WITH_URL, activators=found), self.owner.operator(WITH_URL, activators=found):
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
    return heard.text, done, place


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
        await place.owner.reconcile(place.key)
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
    """From its Job to the end of that, because an engine has got the GPUs; and the event that says so."""
    node = await place.node(GPU_LABELS)
    gpus = '{"status":{"allocatable":{"nvidia.com/gpu":"2"}}}'
    place.kubectl("patch", "node", node, "--subresource=status", "--type=merge", "-p", gpus)
    reconciler = NodeReconciler(place.cluster, P2pTestSettings(RELEASE, "e:1"), "test", namespace=WATCHED)
    try:
        await reconciler.reconcile(NodeKey(node))
        await place.pod(nodeName=node, containers=[{"name": "e", "image": "x", "resources": TWO_GPUS}])
        await reconciler.reconcile(NodeKey(node))
    finally:
        place.kubectl("delete", "node", node)


TWO_GPUS = {"limits": {"nvidia.com/gpu": "2"}}


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


class Right(NamedTuple):
    place: str
    verb: str
    resource: str

    @property
    def user(self) -> str:
        return f"without-{self.place}-{self.verb}-{self.resource.replace('/', '-')}"


CASES = {
    Right(place, verb, resource): flow
    for flow, (_, needs) in NEEDS.items()
    for rights, resources in needs.items()
    for place, verb in [rights.split(": ")]
    for resource in resources
}


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


RBAC = "rbac.authorization.k8s.io"


def place_of(role: RawObject) -> str:
    if role["kind"] == "ClusterRole":
        return "cluster"
    return {RELEASE: "release", WATCHED: "watched", "default": "default"}[role["metadata"]["namespace"]]


def roles_of_the_operator(documents: list[RawObject]) -> dict[str, RawObject]:
    """By the bindings of its account."""
    bound = {
        (document["roleRef"]["kind"], document["roleRef"]["name"], document["metadata"].get("namespace"))
        for document in documents
        if document["kind"] in ("RoleBinding", "ClusterRoleBinding")
        and any(subject["name"] == "flash" for subject in document["subjects"])
    }
    roles = [document for document in documents if document["kind"] in ("Role", "ClusterRole")]
    ours = [r for r in roles if (r["kind"], r["metadata"]["name"], r["metadata"].get("namespace")) in bound]
    return {place_of(role): role for role in ours}


def rights_of(roles: dict[str, RawObject]) -> dict[Right, str]:
    """With their API groups."""
    return {
        Right(place, verb, resource): group for place, role in roles.items() for group, resource, verb in granted(role)
    }


def without(right: Right, roles: dict[str, RawObject]) -> list[RawObject]:
    """A user who has all rights of the chart's account but one. Those of the other places come from groups."""
    role = roles[right.place]
    rules = [
        {"apiGroups": [group], "resources": [resource], "verbs": [verb]}
        for group, resource, verb in sorted(granted(role))
        if (verb, resource) != (right.verb, right.resource)
    ]
    metadata = {key: value for key, value in role["metadata"].items() if key == "namespace"} | {"name": right.user}
    made = {"apiVersion": role["apiVersion"], "kind": role["kind"], "metadata": metadata, "rules": rules}
    return [made, binding(made, {"kind": "User", "name": right.user})]


def binding(role: RawObject, subject: dict[str, str]) -> RawObject:
    metadata = {**role["metadata"], "name": f"{role['metadata']['name']}-{subject['name'].lower()}"}
    return {
        "apiVersion": role["apiVersion"],
        "kind": f"{role['kind']}Binding",
        "metadata": {key: metadata[key] for key in ("name", "namespace") if key in metadata},
        "roleRef": {"apiGroup": RBAC, "kind": role["kind"], "name": role["metadata"]["name"]},
        "subjects": [{"apiGroup": RBAC, **subject}],
    }


@pytest.fixture(scope="module")
def documents() -> list[RawObject]:
    return render(*VALUES, namespace=RELEASE)


@pytest.fixture(scope="module")
def installed(crd_server: ControlPlane, documents: list[RawObject]) -> Iterator[dict[str, RawObject]]:
    """The chart's roles, a user without each of their rights, and KEDA's API."""
    roles = roles_of_the_operator(documents)
    for namespace in (RELEASE, WATCHED):
        crd_server.kubectl("create", "namespace", namespace)
        crd_server.kubectl("create", "serviceaccount", "default", "-n", namespace)
    accounts = [one for one in documents if "Role" in one["kind"] or one["kind"] == "ServiceAccount"]
    groups = [binding(role, {"kind": "Group", "name": place}) for place, role in roles.items()]
    users = [made for right in rights_of(roles) for made in without(right, roles)]
    made = bundle([*accounts, *groups, *users, a_keda_crd()])
    crd_server.kubectl("apply", "--server-side", "-f", "-", stdin=made)
    eventually(lambda: keda_is_served(crd_server), "KEDA's API is served")
    yield roles
    crd_server.kubectl("delete", "--wait=false", "-f", "-", stdin=made)
    crd_server.kubectl("delete", "pods", "--all", "-n", WATCHED, "--grace-period=0", "--force")
    crd_server.kubectl("delete", "namespace", RELEASE, WATCHED, "--wait=false")
    eventually(lambda: not keda_is_served(crd_server), "KEDA's API is gone")


def keda_is_served(server: ControlPlane) -> bool:
    return server.kubectl("get", "--raw=/apis/keda.sh/v1alpha1/scaledobjects", check=False).returncode == 0


def test_every_right_of_the_chart_is_needed_by_a_flow(documents: list[RawObject]) -> None:
    """Otherwise take it out of the chart, or add the flow that needs it."""
    roles = roles_of_the_operator(documents)
    assert roles.keys() == {"cluster", "release", "watched", "default"}
    assert rights_of(roles).keys() == CASES.keys()


names = count()


async def complaints(server: ControlPlane, flow: Flow, user: str, groups: tuple[str, ...] = ()) -> str:
    """What the flow says and raises as this user."""
    unique = f"right-{next(names)}-{uuid.uuid4().hex[:4]}"
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
        patch.setenv("KUBECONFIG", str(server.kubeconfig))
        owner = await Cluster.connect()
        patch.setenv("KUBECONFIG", str(server.identity(unique, user, groups=groups)))
        cluster = await Cluster.connect()
        try:
            async with aiohttp.ClientSession() as session:
                sites = (Site(server, one, Gates(session), WATCHED, watched=WATCHED) for one in (owner, cluster))
                place = Place(*sites, name=unique)
                with capture_logs() as logs:
                    try:
                        found = await flow(place)
                    except ApiError as error:
                        found = error
                return f"{found} {logs}"
        finally:
            await owner.close()
            await cluster.close()


@pytest.mark.parametrize("flow", NEEDS)
async def test_with_all_rights_of_the_chart_nothing_is_refused(
    flow: str, crd_server: ControlPlane, installed: dict[str, RawObject]
) -> None:
    del installed
    assert "forbidden" not in await complaints(crd_server, NEEDS[flow][0], ACCOUNT)


@pytest.mark.parametrize(("right", "flow"), CASES.items(), ids=[right.user for right in CASES])
async def test_without_a_right_the_operator_says_what_it_may_not_do(
    right: Right, flow: str, crd_server: ControlPlane, installed: dict[str, RawObject]
) -> None:
    others = tuple(place for place in installed if place != right.place)
    found = await complaints(crd_server, NEEDS[flow][0], right.user, others)
    group = rights_of(installed)[right]
    assert f'cannot {right.verb} resource "{right.resource}" in API group "{group}"' in found.replace('\\"', '"')
