"""The reconcile on a real API server: what it writes, what it leaves alone, and what it survives."""

import json
import uuid
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from builders import SETTINGS, a_flash_object
from cluster_fixtures import ControlPlane
from flash_operator.api.names import DEPLOYMENT_LABEL, ENGINE_FLAGS_ANNOTATION, KIND
from flash_operator.core.plan import PodAnnotation
from flash_operator.runtime.cluster import ApiError, Cluster, UnreachableError
from flash_operator.runtime.gates import Gates
from flash_operator.runtime.keys import FlashKey
from flash_operator.runtime.observer import Observer
from flash_operator.runtime.reconciler import Reconciler

pytestmark = pytest.mark.apiserver

CHILDREN = "deployments,services,configmaps,poddisruptionbudgets"


class Site:
    """A namespace of its own on the API server, and a reconciler for it."""

    def __init__(self, server: ControlPlane, cluster: Cluster, reconciler: Reconciler, namespace: str) -> None:
        self.server = server
        self.cluster = cluster
        self.namespace = namespace
        self._reconciler = reconciler

    def apply(self, raw: dict[str, Any]) -> None:
        self.server.kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps(raw))

    def apply_flash(self, name: str = "flash", **spec: Any) -> FlashKey:
        raw = a_flash_object(name, **spec)
        raw["metadata"] = {"name": name, "namespace": self.namespace}
        self.apply(raw)
        return FlashKey(self.namespace, name)

    async def reconcile(self, key: FlashKey) -> int:
        """Reconcile, and count the writes."""
        before = self.cluster.writes
        await self._reconciler.reconcile(key)
        return self.cluster.writes - before

    def get(self, *args: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.server.kubectl("get", *args, "-n", self.namespace, "-o", "json").stdout)
        return found


@pytest.fixture
async def site(crd_server: ControlPlane, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    monkeypatch.setenv("KUBECONFIG", str(crd_server.kubeconfig))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    namespace = f"site-{uuid.uuid4().hex[:6]}"
    crd_server.kubectl("create", "namespace", namespace)
    cluster = await Cluster.connect()
    async with aiohttp.ClientSession() as session:
        observer = Observer(cluster, Gates(session), SETTINGS)
        yield Site(crd_server, cluster, Reconciler(cluster, observer, "test"), namespace)
    await cluster.close()


async def test_a_new_deployment_gets_its_children_and_a_status(site: Site) -> None:
    key = site.apply_flash()
    await site.reconcile(key)

    children = site.get(CHILDREN, "-l", f"{DEPLOYMENT_LABEL}=flash")["items"]
    assert sorted(child["kind"] for child in children) == [
        "ConfigMap",
        "Deployment",
        "PodDisruptionBudget",
        "Service",
    ]
    assert {child["metadata"]["ownerReferences"][0]["kind"] for child in children} == {KIND}
    conditions = site.get("dsf", "flash")["status"]["conditions"]
    assert conditions[0]["type"] == "Ready"
    assert conditions[0]["reason"] == "PodsMissing"
    shown = site.get("deployment", "flash", "--show-managed-fields")
    managers = {field["manager"] for field in shown["metadata"]["managedFields"]}
    assert managers == {"flash-operator"}


async def test_reconciles_come_to_rest(site: Site) -> None:
    """Server defaults, other orders of keys, quantities written in another way: none of it may look like drift."""
    key = site.apply_flash(
        engine={"resources": {"requests": {"cpu": "1000m", "memory": "2048Mi"}}},
        placement={"tolerations": [{"operator": "Exists"}]},
    )
    await site.reconcile(key)
    assert await site.reconcile(key) <= 1, "the status may tell of the Deployment that is there now"
    assert await site.reconcile(key) == 0
    assert await site.reconcile(key) == 0


async def test_only_the_children_that_differ_are_written(site: Site) -> None:
    key = site.apply_flash()
    await site.reconcile(key)
    await site.reconcile(key)
    site.apply_flash(readiness={"minDecodeTokensPerSecond": 70})
    before = site.get("deployment", "flash")["metadata"]["generation"]

    assert await site.reconcile(key) == 2, "the gate's ConfigMap and the status"
    assert site.get("deployment", "flash")["metadata"]["generation"] == before
    assert '"minTokensPerSecond": 70' in site.get("configmap", "flash-gate")["data"]["gate.json"]


async def test_an_edit_by_hand_is_put_right_and_an_addition_is_left(site: Site) -> None:
    key = site.apply_flash()
    await site.reconcile(key)
    site.server.kubectl("-n", site.namespace, "scale", "deployment/flash", "--replicas=7")
    site.server.kubectl("-n", site.namespace, "label", "service/flash", "team=a")
    await site.reconcile(key)

    assert site.get("deployment", "flash")["spec"]["replicas"] == 1
    assert site.get("service", "flash")["metadata"]["labels"]["team"] == "a"


async def test_a_field_that_is_given_up_is_removed(site: Site) -> None:
    key = site.apply_flash(placement={"nodeSelector": {"a": "b"}})
    await site.reconcile(key)
    site.apply_flash(placement={"nodeSelector": {}})
    await site.reconcile(key)

    assert "nodeSelector" not in site.get("deployment", "flash")["spec"]["template"]["spec"]


async def test_a_pod_on_a_node_is_handed_its_flags_once(site: Site) -> None:
    key = site.apply_flash()
    await site.reconcile(key)
    metadata = {"name": f"node-{site.namespace}", "labels": {"deepseekflash.dev/gpu-link": "phb"}}
    site.apply({"apiVersion": "v1", "kind": "Node", "metadata": metadata})
    labels = {DEPLOYMENT_LABEL: "flash", "app.kubernetes.io/managed-by": "flash-operator"}
    container = {"name": "engine", "image": "x"}
    pod = {"nodeName": f"node-{site.namespace}", "containers": [container], "automountServiceAccountToken": False}
    site.server.kubectl("-n", site.namespace, "create", "serviceaccount", "default", check=False)
    site.apply(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "flash-a", "namespace": site.namespace, "labels": labels},
            "spec": pod,
        }
    )
    await site.reconcile(key)
    annotations = site.get("pod", "flash-a")["metadata"]["annotations"]
    assert json.loads(annotations[ENGINE_FLAGS_ANNOTATION])["row"] == "T8"
    assert await site.reconcile(key) == 1, "the status tells of the flags"
    assert await site.reconcile(key) == 0
    site.server.kubectl("delete", "node", f"node-{site.namespace}")


async def test_events_are_written_once_and_found_by_describe(site: Site) -> None:
    key = site.apply_flash("starting")
    await site.reconcile(key)
    described = site.server.kubectl("describe", "dsf", "starting", "-n", site.namespace).stdout
    assert "Conditions:" in described


async def test_a_deployment_that_is_gone_is_no_error(site: Site) -> None:
    assert await site.reconcile(FlashKey(site.namespace, "never-was")) == 0


async def test_flags_for_a_namesake_of_a_vanished_pod_are_a_conflict(site: Site) -> None:
    site.server.kubectl("-n", site.namespace, "create", "serviceaccount", "default", check=False)
    container = {"name": "engine", "image": "x"}
    site.apply(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "namesake", "namespace": site.namespace},
            "spec": {"containers": [container], "automountServiceAccountToken": False},
        }
    )
    stale = PodAnnotation(site.namespace, "namesake", "uid-of-another", {ENGINE_FLAGS_ANNOTATION: "{}"})
    with pytest.raises(ApiError) as caught:
        await site.cluster.annotate(stale)
    assert caught.value.conflict
    assert ENGINE_FLAGS_ANNOTATION not in site.get("pod", "namesake")["metadata"].get("annotations", {})


async def test_a_refusal_carries_the_servers_own_words(site: Site) -> None:
    with pytest.raises(ApiError, match="not found") as caught:
        await site.cluster.apply_status(site.namespace, "nobody", {})
    assert caught.value.not_found


async def test_a_child_that_the_server_refuses_is_told_in_status_in_its_own_words(site: Site) -> None:
    """A podTemplate is checked by nobody until it is a Deployment; "not ready" alone would help nobody."""
    key = site.apply_flash(podTemplate={"spec": {"restartPolicy": "Sometimes"}})
    with pytest.raises(ApiError, match="restartPolicy"):
        await site.reconcile(key)

    ready = site.get("dsf", "flash")["status"]["conditions"][0]
    assert (ready["status"], ready["reason"]) == ("False", "ChildRefused")
    assert "restartPolicy" in ready["message"]


async def test_deleting_what_is_gone_is_as_good(site: Site) -> None:
    await site.cluster.delete("Service", site.namespace, "never-was")


async def test_a_server_that_does_not_answer_is_unreachable(
    site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    config = json.loads(site.server.kubeconfig.read_text())
    config["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:1"
    (tmp_path / "config").write_text(json.dumps(config))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    nowhere = await Cluster.connect()
    try:
        with pytest.raises(UnreachableError, match="GET /apis"):
            await nowhere.list(KIND)
    finally:
        await nowhere.close()
