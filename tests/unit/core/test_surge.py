"""When a rollout starts a new replica before it stops an old one."""

from dataclasses import replace
from typing import Any

import pytest

from builders import a_flash, a_live_deployment, a_node, a_pod, an_observed, an_unschedulable_pod
from flash_operator.core.observed.snapshot import GpuSupply, RawObject
from flash_operator.core.plan import plan
from flash_operator.core.resources.deployment import ONE_BY_ONE, SURGE

NEWER: dict[str, Any] = {"engine": {"contextTokens": 4096}}
TAINT = {"key": "nvidia.com/gpu", "effect": "NoSchedule"}


def a_gpu_node(name: str, *, ready: bool = True, gpus: str = "2", **spec: Any) -> RawObject:
    node = a_node(name)
    node["spec"] = spec
    status = "True" if ready else "Unknown"
    node["status"] = {"allocatable": {"nvidia.com/gpu": gpus}, "conditions": [{"type": "Ready", "status": status}]}
    return node


def anothers_pod(node: str | None, gpus: str = "2", **status: Any) -> RawObject:
    pod = a_pod(f"other-on-{node}", node=node, **status)
    pod["spec"]["containers"] = [{"resources": {"limits": {"nvidia.com/gpu": gpus}}}]
    return pod


OWN = a_pod(ready=True)
OWN["spec"]["containers"] = [{"resources": {"limits": {"nvidia.com/gpu": "2"}}}]
CLAIMING = a_pod("other-with-claims", node="node-2")
CLAIMING["spec"]["containers"] = [{"resources": {"claims": [{"name": "gpus"}]}}]
CLAIMED = {"spec": {"containers": [{"name": "engine", "resources": {"claims": [{"name": "gpus"}]}}]}}
TAKEN, FREE = a_gpu_node("node-1"), a_gpu_node("node-2")
TOLERANT = {**OWN, "spec": {**OWN["spec"], "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}]}}


def strategy(
    supply: GpuSupply | None,
    *,
    spec: RawObject | None = None,
    pods: tuple[RawObject, ...] = (OWN,),
    live_strategy: RawObject = ONE_BY_ONE,
    live_status: RawObject | None = None,
    live_spec: RawObject | None = None,
) -> RawObject:
    """The plan's strategy for a live Deployment with `live_spec` when the CR now asks for `spec`."""
    deployment = a_live_deployment(a_flash(**(live_spec or {})))
    deployment["spec"] = {**deployment["spec"], "strategy": {"rollingUpdate": live_strategy}}
    deployment["status"] = {**deployment["status"], **(live_status or {})}
    flash = a_flash(generation=2, **(NEWER if spec is None else spec))
    observed = replace(an_observed(flash, pods=pods, children=(deployment,)), gpu_supply=supply)
    applied = [child for child in plan(observed).apply if child["kind"] == "Deployment"]
    found: RawObject = (applied[0] if applied else deployment)["spec"]["strategy"]["rollingUpdate"]
    return found


def supply(*nodes: RawObject, pods: tuple[RawObject, ...] = (OWN,)) -> GpuSupply:
    return GpuSupply(nodes=nodes, pods=pods)


CHANGES: dict[str, tuple[GpuSupply | None, RawObject, RawObject]] = {
    "a node is free": (supply(TAKEN, FREE), {}, SURGE),
    "the only node holds the only replica": (supply(TAKEN), {}, ONE_BY_ONE),
    "the only node has two more GPUs": (supply(a_gpu_node("node-1", gpus="4")), {}, SURGE),
    "one GPU each is left on two nodes": (supply(TAKEN, a_gpu_node("node-2", gpus="1")), {}, ONE_BY_ONE),
    "the other node is in use": (supply(TAKEN, FREE, pods=(OWN, anothers_pod("node-2"))), {}, ONE_BY_ONE),
    "half of the other node is in use": (supply(TAKEN, FREE, pods=(OWN, anothers_pod("node-2", "1"))), {}, ONE_BY_ONE),
    "the pod on the other node has ended": (
        supply(TAKEN, FREE, pods=(OWN, anothers_pod("node-2", phase="Succeeded"))), {}, SURGE),
    "another pod waits for two GPUs": (supply(TAKEN, FREE, pods=(OWN, anothers_pod(None))), {}, ONE_BY_ONE),
    "a pod with claims is on the other node": (supply(TAKEN, FREE, pods=(OWN, CLAIMING)), {}, ONE_BY_ONE),
    "the GPUs are to come by claims, and free ones are not theirs": (
        supply(TAKEN, FREE), {"spec": {**NEWER, "podTemplate": CLAIMED}}, ONE_BY_ONE),
    "the other node is cordoned": (supply(TAKEN, a_gpu_node("node-2", unschedulable=True)), {}, ONE_BY_ONE),
    "the other node is not ready": (supply(TAKEN, a_gpu_node("node-2", ready=False)), {}, ONE_BY_ONE),
    "the other node has a taint": (supply(TAKEN, a_gpu_node("node-2", taints=[TAINT])), {}, ONE_BY_ONE),
    "the spec tolerates the taint": (
        supply(TAKEN, a_gpu_node("node-2", taints=[TAINT])),
        {"spec": {**NEWER, "placement": {"tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}]}}}, SURGE),
    "admission added a toleration to the pods": (
        supply(TAKEN, a_gpu_node("node-2", taints=[TAINT])), {"pods": (TOLERANT,)}, SURGE),
    "the free node does not match the nodeSelector": (
        supply(TAKEN, FREE), {"spec": {**NEWER, "placement": {"nodeSelector": {"zone": "a"}}}}, ONE_BY_ONE),
    "another replica is wanted as well": (supply(TAKEN, FREE), {"spec": {**NEWER, "replicas": 2}}, ONE_BY_ONE),
    "surge is disabled": (supply(TAKEN, FREE), {"spec": {**NEWER, "rollout": {"surge": "Disabled"}}}, ONE_BY_ONE),
    "GPUs were not counted, and the last rollout had no surge": (None, {}, ONE_BY_ONE),
    "GPUs were not counted, and the last rollout had a surge": (None, {"live_strategy": SURGE}, SURGE),
}  # fmt: skip


@pytest.mark.parametrize(("seen", "more", "expected"), CHANGES.values(), ids=CHANGES.keys())
def test_a_new_template_where(seen: GpuSupply | None, more: RawObject, expected: RawObject) -> None:
    assert strategy(seen, **more) == expected


TERMINATING = {**OWN, "metadata": {**OWN["metadata"], "deletionTimestamp": "2026-11-24T12:00:00Z"}}
UNDER_WAY: dict[str, tuple[RawObject, RawObject]] = {
    "new pods start": ({}, SURGE),
    "the new pod is unschedulable": ({"pods": (OWN, an_unschedulable_pod("flash-new"))}, ONE_BY_ONE),
    "the new pod waits for the GPUs of a terminating one": (
        {"pods": (TERMINATING, an_unschedulable_pod("flash-new"))}, SURGE),
    "a quota forbids the new pod": (
        {"live_status": {"conditions": [{"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate"}]}},
        ONE_BY_ONE),
    "the new pod's volume cannot be attached twice": (
        {"live_status": {"conditions": [{"type": "Progressing", "status": "False",
                                         "reason": "ProgressDeadlineExceeded"}]}}, ONE_BY_ONE),
    "surge was disabled in the meantime": ({"spec": {**NEWER, "rollout": {"surge": "Disabled"}}}, ONE_BY_ONE),
}  # fmt: skip


@pytest.mark.parametrize(("seen", "expected"), UNDER_WAY.values(), ids=UNDER_WAY.keys())
def test_a_running_surge_where(seen: RawObject, expected: RawObject) -> None:
    assert strategy(supply(TAKEN, FREE), live_spec=NEWER, live_strategy=SURGE, **seen) == expected


def test_an_abandoned_surge_is_not_resumed_when_gpus_become_free() -> None:
    assert strategy(supply(TAKEN, FREE), live_spec=NEWER, live_strategy=ONE_BY_ONE) == ONE_BY_ONE
