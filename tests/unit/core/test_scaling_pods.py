"""Annotations of pods that autoscalers read, and the metadata that users give to pods."""

from typing import Any

import pytest

from builders import SETTINGS, a_flash, a_gate, a_live_deployment, a_node, a_pod, a_waiting_pod, an_observed
from flash_contracts.names import ENGINE_FLAGS_ANNOTATION, QUARANTINE_ANNOTATION, REVISION_ANNOTATION
from flash_operator.core.observed.snapshot import RawObject
from flash_operator.core.plan import desired_children, plan
from flash_operator.core.replicas.replica import DELETION_COST
from flash_operator.core.resources.deployment import pod_template
from flash_operator.core.scaling.pod_annotations import DO_NOT_DISRUPT, LOCAL_VOLUMES

BUDGET = "3582s"
VOLUMES = [
    {"name": "run", "emptyDir": {}},
    {"name": "cache", "persistentVolumeClaim": {"claimName": "mine"}},
    {"name": "shm", "emptyDir": {"medium": "Memory"}},
    {"name": "users", "emptyDir": {}},
]


def of_karpenter(node: RawObject) -> RawObject:
    node["metadata"]["labels"]["karpenter.sh/nodepool"] = "gpus"
    return node


def annotated(
    *pods: RawObject, gates: dict[str, Any] | None = None, karpenter: bool = True, **spec: Any
) -> dict[str, dict[str, str | None]]:
    flash = a_flash(**spec)
    node = of_karpenter(a_node()) if karpenter else a_node()
    observed = an_observed(flash, pods=pods, nodes=(node,), gates=gates, children=(a_live_deployment(flash),))
    return {annotation.name: dict(annotation.annotations) for annotation in plan(observed).annotate}


def a_new_pod(**annotations: str) -> RawObject:
    pod = a_pod("a")
    pod["spec"]["volumes"] = VOLUMES
    pod["metadata"]["annotations"] |= annotations
    return pod


def test_a_new_replica_is_protected_while_it_loads_and_its_volumes_are_no_obstacle() -> None:
    written = annotated(a_new_pod())["a"]
    assert written[DO_NOT_DISRUPT] == BUDGET
    assert written[LOCAL_VOLUMES] == "run,shm"
    assert ENGINE_FLAGS_ANNOTATION in written


FETCHED = {"source": "hf://owner/name"}


@pytest.mark.parametrize(
    "model",
    [
        {"source": "pvc://models/v4"},
        FETCHED,
        {**FETCHED, "cache": {"type": "Node"}},
        {**FETCHED, "cache": {"type": "Claim", "claimName": "models"}},
        {"source": "oci://registry.example/v4:1", "ociDelivery": "Fetch"},
    ],
    ids=["claim", "fetched", "cached on the node", "cached on a claim", "fetched image"],
)
def test_no_volume_of_ours_keeps_cluster_autoscaler_from_removing_a_node(model: dict[str, Any]) -> None:
    """By its rules for local storage: emptyDirs and host paths that the annotation does not name."""
    pod = a_pod("a")
    pod["spec"] |= pod_template(a_flash(model=model), SETTINGS)["spec"]
    local = [volume["name"] for volume in pod["spec"]["volumes"] if {"emptyDir", "hostPath"} & volume.keys()]
    named = annotated(pod, model=model)["a"][LOCAL_VOLUMES] or ""
    assert named.split(",") == local


def test_on_a_node_that_karpenter_does_not_manage_nothing_is_written_that_is_to_be_removed() -> None:
    written = annotated(a_new_pod(), karpenter=False)["a"]
    assert DO_NOT_DISRUPT not in written
    assert written[LOCAL_VOLUMES] == "run,shm"


def test_what_the_user_has_set_stays() -> None:
    pod = a_new_pod()
    pod["metadata"]["annotations"] |= {DO_NOT_DISRUPT: "true", LOCAL_VOLUMES: ""}
    assert not {DO_NOT_DISRUPT, LOCAL_VOLUMES} & annotated(pod)["a"].keys()


@pytest.mark.parametrize(("value", "left"), [(BUDGET, None), ("true", "kept"), ("60s", "kept")])
def test_a_replica_that_serves_may_be_moved_again(value: str, left: str | None) -> None:
    pod = a_pod("a", ready=True)
    pod["metadata"]["annotations"] |= {ENGINE_FLAGS_ANNOTATION: "{}", DO_NOT_DISRUPT: value}
    written = annotated(pod, gates={"a": a_gate()}).get("a", {})
    assert written.get(DO_NOT_DISRUPT, "kept") == left


def test_an_old_replica_is_left_as_it_is() -> None:
    pod = a_pod("a", ready=True)
    pod["metadata"]["annotations"][ENGINE_FLAGS_ANNOTATION] = "{}"
    assert annotated(pod, gates={"a": a_gate()}) == {}


def a_replica(name: str, since: str) -> RawObject:
    pod = a_pod(name, ready=True)
    pod["status"]["conditions"][0]["lastTransitionTime"] = since
    pod["metadata"]["annotations"] |= {ENGINE_FLAGS_ANNOTATION: "{}"}
    return pod


def test_the_order_in_which_replicas_go() -> None:
    quarantined, outdated = (
        a_replica("quarantined", "2026-11-20T00:00:00Z"),
        a_replica("outdated", "2026-11-19T00:00:00Z"),
    )
    quarantined["metadata"]["annotations"][QUARANTINE_ANNOTATION] = "then"
    outdated["metadata"]["annotations"][REVISION_ANNOTATION] = "former"
    loading = a_pod("loading")
    loading["metadata"]["annotations"][ENGINE_FLAGS_ANNOTATION] = "{}"
    pods = (
        loading,
        a_replica("old", "2026-11-23T00:00:00Z"),
        a_replica("young", "2026-11-24T11:00:00Z"),
        outdated,
        quarantined,
        a_waiting_pod("ErrImagePull", "no", name="broken"),
    )
    gates = {
        "quarantined": a_gate("Degraded", serving={"degraded": {"since": "then", "message": "slow"}}),
        "loading": a_gate("EngineStarting", "loads"),
    }
    written = annotated(*pods, gates=gates, replicas=6, scaling={"maxReplicas": 6})
    costs = {name: int(annotations[DELETION_COST] or 0) for name, annotations in written.items()}
    order = sorted(costs, key=lambda name: costs[name])
    assert order == ["broken", "quarantined", "outdated", "young", "old", "loading"]
    assert all(-(2**31) <= cost < 2**31 for cost in costs.values())


def test_a_cost_is_written_once() -> None:
    pods = [a_replica("a", "2026-11-23T00:00:00Z"), a_replica("b", "2026-11-24T00:00:00Z")]
    spec: dict[str, Any] = {"replicas": 2, "scaling": {"maxReplicas": 6}}
    gates = {"a": a_gate(), "b": a_gate()}
    for name, written in annotated(*pods, gates=gates, **spec).items():
        next(pod for pod in pods if pod["metadata"]["name"] == name)["metadata"]["annotations"] |= written
    assert annotated(*pods, gates=gates, **spec) == {}


@pytest.mark.parametrize("spec", [{}, {"scaling": {"maxReplicas": 6}}], ids=["not scaled", "the only replica"])
def test_where_nothing_can_go_nothing_is_written(spec: dict[str, Any]) -> None:
    assert annotated(a_replica("a", "2026-11-23T00:00:00Z"), gates={"a": a_gate()}, **spec) == {}


def template(**spec: Any) -> RawObject:
    children = desired_children(an_observed(a_flash(**spec)))
    made: RawObject = next(child for child in children if child["kind"] == "Deployment")["spec"]["template"]
    return made


def test_pod_metadata_is_on_the_pods_beside_the_operators_own() -> None:
    given = {"labels": {"team": "search"}, "annotations": {"sidecar.istio.io/inject": "false"}}
    metadata, plain = template(podMetadata=given)["metadata"], template()["metadata"]
    assert metadata["labels"] == {"team": "search", **plain["labels"]}
    assert metadata["annotations"]["sidecar.istio.io/inject"] == "false"
    assert metadata["annotations"].keys() - plain["annotations"].keys() == {"sidecar.istio.io/inject"}


def test_empty_pod_metadata_is_none() -> None:
    assert template(podMetadata={"labels": {}, "annotations": {}}) == template()
