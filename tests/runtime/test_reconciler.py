"""The reconcile on a real API server: what it writes, what it does not change, and which failures it survives."""

import json
from typing import Any

import pytest

from builders import SETTINGS, a_flash_object, a_gate, a_pod, an_unschedulable_pod
from flash_contracts.names import (
    DEPLOYMENT_LABEL,
    ENGINE_FLAGS_ANNOTATION,
    KIND,
    QUARANTINE_ANNOTATION,
    REVISION_ANNOTATION,
)
from flash_contracts.orders import ordered_quarantine
from flash_operator.api.v1alpha1 import FlashDeployment
from flash_operator.core.plan import ObjectRef, PodAnnotation
from flash_operator.core.replicas.baseline import Baseline, BaselineEntry, baseline_config_map
from flash_operator.core.replicas.replica import Replica
from flash_operator.core.resources.deployment import pod_template
from flash_operator.core.resources.drift import with_hash
from flash_operator.core.resources.gate_config import gate_config_name
from flash_operator.core.resources.identity import metadata
from flash_operator.core.resources.revision import revision_of
from flash_operator.core.rollout.engine_update import attempt_of_spec
from flash_operator.core.rollout.rollout import (
    LastKnownGood,
    Target,
    decide_rollout,
    last_known_good_config_map,
)
from flash_operator.core.status.status import CONDITION_SECONDS
from flash_operator.runtime.cluster import ApiError, Cluster, FencedError, UnreachableError
from flash_operator.runtime.keys import FlashKey
from flash_operator.runtime.store import OURS
from runtime_site import Site
from waiting import eventually

pytestmark = pytest.mark.apiserver

POLICY_VERSION = "admissionregistration.k8s.io/v1"
CHILDREN = "deployments,controllerrevisions,services,configmaps,poddisruptionbudgets"


async def test_a_new_deployment_gets_its_children_and_a_status(site: Site) -> None:
    key = site.apply_flash()
    await site.reconcile(key)

    children = site.get(CHILDREN, "-l", f"{DEPLOYMENT_LABEL}=flash")["items"]
    assert sorted(child["kind"] for child in children) == [
        "ConfigMap",
        "ControllerRevision",
        "Deployment",
        "Service",
    ]
    assert {child["metadata"]["ownerReferences"][0]["kind"] for child in children} == {KIND}
    conditions = site.get("dsf", "flash")["status"]["conditions"]
    assert conditions[0]["type"] == "Ready"
    assert conditions[0]["reason"] == "RollingOut"
    shown = site.get("deployment", "flash", "--show-managed-fields")
    managers = {field["manager"] for field in shown["metadata"]["managedFields"]}
    assert managers == {"flash-operator"}


async def test_repeated_reconciles_write_nothing(site: Site) -> None:
    """Server defaults, another order of keys or another notation of quantities must not look like drift."""
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
    assert '"minTokensPerSecond": 70' in stored_gate_config(site)


async def test_a_new_template_surges_if_two_gpus_are_free(site: Site) -> None:
    node = f"free-{site.namespace}"
    key = site.apply_flash(placement={"nodeSelector": {"site": node}})
    await site.reconcile(key)
    site.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node, "labels": {"site": node}}})
    ready = {"allocatable": {"nvidia.com/gpu": "4"}, "conditions": [{"type": "Ready", "status": "True"}]}
    # No controller creates a service account in a new namespace either.
    site.server.kubectl("create", "serviceaccount", "default", "-n", site.namespace)
    # A new node has a taint until its controller removes it; there is none here.
    for patch, part in (({"spec": {"taints": []}}, ()), ({"status": ready}, ("--subresource=status",))):
        site.server.kubectl("patch", "node", node, *part, "--type=merge", "-p", json.dumps(patch))
    strategies = []
    for context in (4096, 2048):
        site.apply_flash(placement={"nodeSelector": {"site": node}}, engine={"contextTokens": context})
        await site.reconcile(key)
        strategies.append(site.get("deployment", "flash")["spec"]["strategy"]["rollingUpdate"])
        site.apply(a_pod_with_gpus(f"other-{context}", site.namespace, node))
    site.server.kubectl("delete", "node", node)

    assert strategies == [{"maxSurge": 1, "maxUnavailable": 0}, {"maxSurge": 0, "maxUnavailable": 1}]


def a_pod_with_gpus(name: str, namespace: str, node: str) -> dict[str, Any]:
    container = {"name": "other", "image": "other", "resources": {"limits": {"nvidia.com/gpu": "4"}}}
    spec = {"nodeName": node, "automountServiceAccountToken": False, "containers": [container]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace}, "spec": spec}


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


async def test_a_bound_pod_gets_its_flags_once(site: Site) -> None:
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


async def test_a_spec_that_was_taken_back_restarts_nothing_although_the_watch_is_behind(site: Site) -> None:
    """The store still has a spec that was applied by mistake; the API server has the former one again."""
    key = site.apply_flash()
    for _ in range(3):
        await site.reconcile(key)
    template = site.get("deployment", "flash")["spec"]["template"]
    site.apply_flash(engine={"extraEnv": [{"name": "A", "value": "B"}]})
    store = await site.stored()
    site.apply_flash()
    await site.reconciler_of(store).reconcile(key)
    assert site.get("deployment", "flash")["spec"]["template"] == template


async def test_a_child_missing_from_the_store_is_read_before_it_is_created(site: Site) -> None:
    """An engine would get another template where the known one is missing."""
    key = site.apply_flash()
    store = await site.stored()
    for _ in range(3):
        await site.reconcile(key)
    before = versions_of_children(site)
    await site.reconciler_of(store).reconcile(key)
    assert versions_of_children(site) == before


def versions_of_children(site: Site) -> dict[str, str]:
    found = site.get(CHILDREN, "-l", f"{DEPLOYMENT_LABEL}=flash")["items"]
    return {f"{child['kind']} {child['metadata']['name']}": child["metadata"]["resourceVersion"] for child in found}


async def test_a_new_deployment_costs_five_requests(site: Site) -> None:
    """Four children, and a status a second later; no look at each name, and no second status for the Deployment."""
    key = site.apply_flash()
    now = 1000.0
    reconciler = site.reconciler_of(await site.stored(), clock=lambda: now)
    before = (site.cluster.reads, site.cluster.writes)
    assert await reconciler.reconcile(key) == CONDITION_SECONDS
    assert (site.cluster.reads, site.cluster.writes) == (before[0], before[1] + 4)
    now += CONDITION_SECONDS
    assert await reconciler.reconcile(key) is None
    assert (site.cluster.reads, site.cluster.writes) == (before[0], before[1] + 5)
    assert site.get("dsf", "flash")["status"]["conditions"][0]["reason"] == "RollingOut"


async def test_a_deployment_at_rest_costs_no_request(site: Site) -> None:
    key = site.apply_flash()
    for _ in range(3):
        await site.reconcile(key)
    reconciler = site.reconciler_of(await site.stored())
    before = (site.cluster.reads, site.cluster.writes)
    assert await reconciler.reconcile(key) is None
    assert (site.cluster.reads, site.cluster.writes) == before


async def test_a_status_that_differs_in_its_message_only_is_written_later(site: Site) -> None:
    key = site.apply_flash()
    for _ in range(3):
        await site.reconcile(key)
    now, store = 1000.0, await site.stored()
    reconciler = site.reconciler_of(store, clock=lambda: now)

    async def reported(message: str, version: int) -> tuple[str, float | None]:
        """The status after the scheduler reported this of the pod, and when the next reconcile is due."""
        store.put(a_pending_pod(site.namespace, message, version))
        again = await reconciler.reconcile(key)
        return site.get("dsf", "flash")["status"]["pods"][0]["message"], again

    assert (await reported("0/1 nodes are available", 10**12))[0] == "0/1 nodes are available"
    now += 4
    assert await reported("0/2 nodes are available", 10**12 + 1) == ("0/1 nodes are available", 6.0)
    now += 6
    assert await reported("0/2 nodes are available", 10**12 + 1) == ("0/2 nodes are available", None)


def a_pending_pod(namespace: str, message: str, version: int) -> dict[str, Any]:
    pod = an_unschedulable_pod("flash-a", message)
    labels = {**OURS, DEPLOYMENT_LABEL: "flash"}
    pod["metadata"] |= {"namespace": namespace, "labels": labels, "resourceVersion": str(version)}
    return pod


async def test_a_rollout_is_paused_and_resumed_by_its_field(site: Site) -> None:
    key = site.apply_flash()
    await site.reconcile(key)
    site.apply_flash(rollout={"state": "Paused"})
    await site.reconcile(key)
    assert site.get("deployment", "flash")["spec"]["paused"] is True
    assert site.get("dsf", "flash")["status"]["rollout"]["state"] == "Paused"
    site.apply_flash(rollout={"state": "Active"})
    await site.reconcile(key)
    assert not site.get("deployment", "flash")["spec"].get("paused")
    await site.reconcile(key)
    assert await site.reconcile(key) == 0


async def test_a_template_that_was_slower_is_taken_back_on_the_server(site: Site) -> None:
    """The former template is applied completely: additions of the new one are removed."""
    key = site.apply_flash()
    await site.reconcile(key)
    flash = FlashDeployment.from_object(site.get("dsf", "flash"))
    former = pod_template(flash, SETTINGS)
    await site.cluster.apply(
        with_hash(last_known_good_config_map(flash, LastKnownGood(revision_of(former), former, 85.0)))
    )
    site.apply_flash(placement={"nodeSelector": {"a": "b"}})
    await site.reconcile(key)
    live = site.get("deployment", "flash")["spec"]["template"]
    assert live["spec"]["nodeSelector"] == {"a": "b"}
    assert site.get("dsf", "flash")["status"]["rollout"]["state"] == "Rolling"

    changed = FlashDeployment.from_object(site.get("dsf", "flash"))
    wanted = pod_template(changed, SETTINGS)
    slow = a_gate(measurement={"decodeTokensPerSecond": 40.0})
    pod = a_pod(ready=True)
    pod["metadata"]["annotations"][REVISION_ANNOTATION] = revision_of(wanted)
    replica = Replica(pod=pod, node=None, derived=None, gate=slow)
    decided = decide_rollout(
        changed,
        Target(wanted, attempt_of_spec(changed)),
        [replica],
        LastKnownGood(revision_of(former), former, 85.0),
        None,
    )
    status = {
        **site.get("dsf", "flash")["status"],
        "rollout": decided.to_status().model_dump(by_alias=True, exclude_none=True),
    }
    await site.cluster.apply_status(site.namespace, "flash", status)
    await site.reconcile(key)

    live = site.get("deployment", "flash")["spec"]["template"]
    assert "nodeSelector" not in live["spec"]
    assert live["metadata"]["annotations"][REVISION_ANNOTATION] == revision_of(former)
    status = site.get("dsf", "flash")["status"]
    assert (status["rollout"]["state"], status["conditions"][0]["reason"]) == ("RolledBack", "RolledBack")
    await site.reconcile(key)
    assert await site.reconcile(key) == 0


async def test_a_grant_and_its_end_reach_the_pods_annotations(site: Site) -> None:
    """The quarantine annotation is set and removed again, and nothing else of the pod changes."""
    site.server.kubectl("-n", site.namespace, "create", "serviceaccount", "default", check=False)
    container = {"name": "engine", "image": "x"}
    metadata = {"name": "slow", "namespace": site.namespace, "annotations": {"team": "a"}}
    spec = {"containers": [container], "automountServiceAccountToken": False}
    site.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
    uid = site.get("pod", "slow")["metadata"]["uid"]

    await site.cluster.annotate(PodAnnotation(site.namespace, "slow", uid, {QUARANTINE_ANNOTATION: "request-1"}))
    assert site.get("pod", "slow")["metadata"]["annotations"] == {"team": "a", QUARANTINE_ANNOTATION: "request-1"}
    seen = site.get("pod", "slow")["metadata"]["resourceVersion"]
    ordered = f"{QUARANTINE_ANNOTATION}={ordered_quarantine('2026-11-28T19:00:00Z')}"
    site.server.kubectl("-n", site.namespace, "annotate", "--overwrite", "pod", "slow", ordered)
    withdrawn: dict[str, str | None] = {QUARANTINE_ANNOTATION: None}
    with pytest.raises(ApiError) as caught:
        await site.cluster.annotate(PodAnnotation(site.namespace, "slow", uid, withdrawn, seen))
    assert caught.value.conflict, "a user ordered the replica out after the operator looked"
    now = site.get("pod", "slow")["metadata"]["resourceVersion"]
    await site.cluster.annotate(PodAnnotation(site.namespace, "slow", uid, withdrawn, now))
    assert site.get("pod", "slow")["metadata"]["annotations"] == {"team": "a"}


async def test_orders_of_a_user_are_answered_in_the_status(site: Site) -> None:
    key = site.apply_flash()
    await site.reconcile(key)
    orders = ("deepseekflash.dev/retry=2026-11-28T19:00:00Z", "deepseekflash.dev/rollback=now")
    site.server.kubectl("-n", site.namespace, "annotate", "dsf", "flash", *orders)
    await site.reconcile(key)
    answers = site.get("dsf", "flash")["status"]["orders"]
    assert [(answer["order"], answer["state"]) for answer in answers] == [("Rollback", "Refused"), ("Retry", "Done")]
    assert await site.reconcile(key) == 0, "an order is carried out once"


async def test_the_server_accepts_the_config_map_of_the_baseline(site: Site) -> None:
    key = site.apply_flash()
    await site.reconcile(key)
    flash = FlashDeployment.from_object(site.get("dsf", "flash"))
    baseline = Baseline({"link=phb | sha256:a": (BaselineEntry("uid", 85.5, "2026-11-24T12:00:00Z"),)})
    await site.cluster.apply(with_hash(baseline_config_map(flash, baseline)))

    assert stored(site, "flash-last-known-good", "baseline.json") == baseline.to_json()
    assert await site.reconcile(key) <= 1, "only the status may change"
    assert stored(site, "flash-last-known-good", "baseline.json") == baseline.to_json()


async def test_documents_under_their_former_names_are_copied_and_left_alone(site: Site) -> None:
    """An upgrade from an operator that wrote the ConfigMaps NAME-history and NAME-proven."""
    key = site.apply_flash(readiness={"floor": "Learned"})
    await site.reconcile(key)
    flash = FlashDeployment.from_object(site.get("dsf", "flash"))
    template = pod_template(flash, SETTINGS)
    baseline = Baseline({"link=phb | sha256:a": (BaselineEntry("uid", 85.5, "2026-11-24T12:00:00Z"),)})
    last_known_good = LastKnownGood(revision_of(template), template, 85.0)
    for name, document in (("history", baseline), ("proven", last_known_good)):
        data = {f"{name}.json": json.dumps(document.to_json())}
        former = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata(flash, f"flash-{name}"), "data": data}
        await site.cluster.apply(with_hash(former))
    generation = site.get("deployment", "flash")["metadata"]["generation"]

    await site.reconcile(key)

    assert stored(site, "flash-last-known-good", "baseline.json") == baseline.to_json()
    assert stored(site, "flash-last-known-good", "last-known-good.json") == last_known_good.to_json()
    assert stored(site, "flash-history", "history.json") == baseline.to_json()
    assert stored(site, "flash-proven", "proven.json") == last_known_good.to_json()
    assert site.get("deployment", "flash")["metadata"]["generation"] == generation, "no rollout"
    assert await site.reconcile(key) == 0


def stored_gate_config(site: Site) -> str:
    name = gate_config_name(site.get("deployment", "flash")["spec"]["template"])
    text: str = site.get("configmap", str(name))["data"]["gate.json"]
    return text


def stored(site: Site, name: str, file: str) -> Any:
    return json.loads(site.get("configmap", name)["data"][file])


async def test_events_are_written_once_and_found_by_describe(site: Site) -> None:
    key = site.apply_flash("starting")
    await site.reconcile(key)
    described = site.server.kubectl("describe", "dsf", "starting", "-n", site.namespace).stdout
    assert "Conditions:" in described


async def test_another_operators_deployment_is_left_alone(site: Site) -> None:
    theirs, ours = site.apply_flash("theirs", operatorClass="blue"), site.apply_flash("ours")
    assert await site.reconcile(theirs) == 0
    assert await site.reconcile(ours) > 0
    with site.operator(SETTINGS, "blue"):
        assert await site.reconcile(theirs) > 0
        assert await site.reconcile(ours) == 0
    assert "spec.operatorClass" in refused_class(site, "Blue")


def refused_class(site: Site, text: str) -> str:
    raw = a_flash_object("bad", operatorClass=text)
    raw["metadata"] = {"name": "bad", "namespace": site.namespace}
    return site.server.kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps(raw), check=False).stderr


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


async def test_a_deployment_that_is_deleted_meanwhile_is_no_error(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    key = site.apply_flash()
    written = site.cluster.apply_status

    async def after_a_deletion(*args: Any) -> Any:
        site.server.kubectl("delete", "dsf", "flash", "-n", site.namespace)
        return await written(*args)

    monkeypatch.setattr(site.cluster, "apply_status", after_a_deletion)
    await site.reconcile(key)
    assert site.get("dsf")["items"] == []


async def test_a_list_of_many_pages_is_read_to_its_end(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flash_operator.runtime.cluster.PAGE", 2)
    for number in range(5):
        site.server.kubectl("create", "configmap", f"page-{number}", "-n", site.namespace)
    found = await site.cluster.list("ConfigMap", site.namespace)
    assert sorted(child["metadata"]["name"] for child in found) == [f"page-{number}" for number in range(5)]


async def test_no_write_is_sent_after_the_end_of_the_lease(site: Site) -> None:
    key = site.apply_flash()
    left = 10.0
    site.cluster.seconds_to_write = lambda: left
    await site.reconcile(key)
    before = site.cluster.writes
    site.apply_flash(replicas=2)
    left = 0.0
    with pytest.raises(FencedError, match="the lease may have ended"):
        await site.reconcile(key)
    assert site.cluster.writes == before
    assert site.get("deployment", "flash")["spec"]["replicas"] == 1


async def test_a_crd_that_is_older_than_the_operator_loses_only_what_it_does_not_know(site: Site) -> None:
    """The operator was upgraded with kubectl, without the CRD."""
    key = site.apply_flash()
    await site.reconcile(key)
    status = site.get("dsf", "flash")["status"]

    await site.cluster.apply_status(site.namespace, "flash", {**status, "replicas": 7, "fieldOfTomorrow": {"a": 1}})

    stored = site.get("dsf", "flash")["status"]
    assert stored == {**status, "replicas": 7}


async def test_a_refusal_carries_the_servers_own_words(site: Site) -> None:
    with pytest.raises(ApiError, match="not found") as caught:
        await site.cluster.apply_status(site.namespace, "nobody", {})
    assert caught.value.not_found


async def test_a_rejected_child_is_reported_in_the_servers_words(site: Site) -> None:
    """A podTemplate is validated only as a part of the Deployment, and "not ready" alone would not help its user."""
    key = site.apply_flash(podTemplate={"spec": {"restartPolicy": "Sometimes"}})
    with pytest.raises(ApiError, match="restartPolicy"):
        await site.reconcile(key)

    ready = site.get("dsf", "flash")["status"]["conditions"][0]
    assert (ready["status"], ready["reason"]) == ("False", "ChildRefused")
    assert "restartPolicy" in ready["message"]


async def test_a_mistyped_pod_template_is_reported_and_stops_no_other_child(site: Site) -> None:
    """The API server answers 500 to a field that does not exist in an apply."""
    key = site.apply_flash(podTemplate={"spec": {"containers": [{"name": "engine", "enviroment": []}]}})
    with pytest.raises(ApiError):
        await site.reconcile(key)

    ready = site.get("dsf", "flash")["status"]["conditions"][0]
    assert (ready["status"], ready["reason"]) == ("False", "ChildRefused")
    assert "enviroment" in ready["message"]
    kinds = {child["kind"] for child in site.get(CHILDREN, "-l", f"{DEPLOYMENT_LABEL}=flash")["items"]}
    assert kinds == {"ConfigMap", "ControllerRevision", "Service"}

    site.apply_flash()
    await site.reconcile(key)
    assert site.get("deployment", "flash")["kind"] == "Deployment"


DROPPED_VALUES: dict[str, dict[str, Any]] = {
    "hostNetwork: false": {"hostNetwork": False},
    "stdin: false": {"containers": [{"name": "engine", "stdin": False}]},
    "initialDelaySeconds: 0": {"containers": [{"name": "engine", "livenessProbe": {"initialDelaySeconds": 0}}]},
    "readOnly: false": {"containers": [{"name": "engine", "volumeMounts": [{"mountPath": "/tmp", "readOnly": False}]}]},
}


@pytest.mark.parametrize("patch", DROPPED_VALUES.values(), ids=DROPPED_VALUES.keys())
async def test_a_value_that_the_server_drops_is_written_once(site: Site, patch: dict[str, Any]) -> None:
    key = site.apply_flash(podTemplate={"spec": patch})
    for _ in range(3):
        await site.reconcile(key)
    assert await site.reconcile(key) == 0


async def test_a_mutating_policy_is_not_fought(site: Site) -> None:
    """Like Kyverno or a registry's webhook: it changes the image and adds a toleration."""
    add_policy(site)
    key = site.apply_flash(placement={"tolerations": [{"key": "gpu", "operator": "Exists"}]})
    for _ in range(3):
        await site.reconcile(key)
    pod = site.get("deployment", "flash")["spec"]["template"]["spec"]
    assert [toleration["key"] for toleration in pod["tolerations"]] == ["gpu", "corp"]
    assert await site.reconcile(key) == 0
    with site.operator(SETTINGS):
        assert await site.reconcile(key) <= 1, "a new process has no memory of the answer"
        assert await site.reconcile(key) == 0

    site.server.kubectl("scale", "deployment", "flash", "--replicas=5", "-n", site.namespace)

    assert await site.reconcile(key) >= 1, "what somebody else changes is put right"
    assert site.get("deployment", "flash")["spec"]["replicas"] == 1


def add_policy(site: Site) -> None:
    """A mutating policy for the Deployments of this namespace."""
    name = f"tolerate-{site.namespace}"
    expression = (
        "object.spec.template.spec.tolerations.exists(t, t.key == 'corp') ? [] : "
        "[JSONPatch{op: 'add', path: '/spec/template/spec/tolerations/-', "
        "value: Object.spec.template.spec.tolerations{key: 'corp', operator: 'Exists'}}]"
    )
    rule = {
        "apiGroups": ["apps"],
        "apiVersions": ["v1"],
        "operations": ["CREATE", "UPDATE"],
        "resources": ["deployments"],
    }
    policy = {
        "apiVersion": POLICY_VERSION,
        "kind": "MutatingAdmissionPolicy",
        "metadata": {"name": name},
        "spec": {
            "matchConstraints": {
                "resourceRules": [rule],
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": site.namespace}},
            },
            "failurePolicy": "Fail",
            "reinvocationPolicy": "Never",
            "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": expression}}],
        },
    }
    binding = {
        "apiVersion": POLICY_VERSION,
        "kind": "MutatingAdmissionPolicyBinding",
        "metadata": {"name": name},
        "spec": {"policyName": name},
    }
    site.apply(policy)
    site.apply(binding)
    request = ("create", "deployment", "other", "--image=x", "--dry-run=server", "-n", site.namespace)
    # The policy cannot change a Deployment without tolerations, and rejects it.
    eventually(lambda: site.server.kubectl(*request, check=False).returncode, "the policy is in force", seconds=30)


async def test_deleting_a_missing_object_succeeds(site: Site) -> None:
    await site.cluster.delete(ObjectRef("Service", site.namespace, "never-was"))
    assert await site.cluster.list("Service", site.namespace) == []


async def test_a_silent_server_is_unreachable(site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
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


RESTORING = {"source": "pvc://models/v4", "restoreMtp": {"source": "hf://owner/official@0123abc"}}


async def test_a_head_to_be_restored_gets_its_job_and_no_deployment_before_it_is_done(site: Site) -> None:
    key = site.apply_flash(model=RESTORING)
    await site.reconcile(key)

    job = site.get("job", "flash-restore")
    assert job["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"] == {"nvidia.com/gpu": "1"}
    assert site.get("deployments")["items"] == []
    assert site.get("dsf", "flash")["status"]["model"]["mtp"] == "Restoring"
    await site.reconcile(key)
    assert await site.reconcile(key) == 0

    end(site, "Complete")
    await site.reconcile(key)
    engine = site.get("deployment", "flash")["spec"]["template"]["spec"]["containers"][0]
    assert engine["args"][1].startswith("/models/v4-with-mtp-")
    assert site.get("dsf", "flash")["status"]["model"]["mtp"] == "Restored"


async def test_a_failed_restore_is_reported_and_retried_when_its_job_is_deleted(site: Site) -> None:
    key = site.apply_flash(model=RESTORING)
    await site.reconcile(key)
    end(site, "Failed")
    await site.reconcile(key)
    progressing = next(c for c in site.get("dsf", "flash")["status"]["conditions"] if c["type"] == "Progressing")
    assert (progressing["status"], progressing["reason"]) == ("False", "MtpRestoreFailed")
    assert "kubectl delete job" in progressing["message"]
    first = site.get("job", "flash-restore")["metadata"]["uid"]

    site.server.kubectl("delete", "job", "flash-restore", "-n", site.namespace)
    await site.reconcile(key)
    assert site.get("job", "flash-restore")["metadata"]["uid"] != first


async def test_a_deployment_that_serves_is_left_alone_until_the_head_is_restored(site: Site) -> None:
    key = site.apply_flash(speculation={"method": "Disabled"})
    await site.reconcile(key)
    await site.reconcile(key)
    before = site.get("deployment", "flash")
    gate = stored_gate_config(site)

    site.apply_flash(model=RESTORING, speculation={"method": "Mtp"})
    await site.reconcile(key)
    await site.reconcile(key)
    assert await site.reconcile(key) == 0, "the server's defaults in the template that is held are no drift"
    held = site.get("deployment", "flash")
    assert held["spec"]["template"] == before["spec"]["template"]
    assert held["spec"] == before["spec"]
    assert stored_gate_config(site) == gate

    end(site, "Complete")
    await site.reconcile(key)
    rolled = site.get("deployment", "flash")["spec"]["template"]
    assert "with-mtp" in rolled["spec"]["containers"][0]["args"][1]
    await site.reconcile(key)
    assert await site.reconcile(key) == 0

    site.apply_flash(model={"source": "pvc://models/v4"})
    await site.reconcile(key)
    assert site.get("jobs")["items"] == []


def end(site: Site, condition: str) -> None:
    """Writes a Job's status in place of its controller. The API server checks that it is consistent."""
    ended = {"type": condition, "status": "True", "lastProbeTime": NOW, "lastTransitionTime": NOW}
    before = {**ended, "type": "SuccessCriteriaMet" if condition == "Complete" else "FailureTarget"}
    done = {"succeeded": 1, "completionTime": NOW} if condition == "Complete" else {"failed": 1}
    counted = {"uncountedTerminatedPods": {}, "ready": 0, "terminating": 0}
    status = {"startTime": NOW, "conditions": [before, ended], **counted, **done}
    patch = json.dumps({"status": status})
    named = ("job", "flash-restore", "-n", site.namespace)
    site.server.kubectl("patch", *named, "--subresource=status", "--type=merge", "-p", patch)


NOW = "2026-11-24T12:00:00Z"
