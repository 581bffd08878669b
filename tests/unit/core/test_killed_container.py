"""A container that was killed together with its launcher: the gate cannot tell the cause, but the kubelet may."""

from typing import Any

import pytest

from builders import a_gate, a_pod, an_observed
from flash_operator.core.observed.pod_failure import deployment_failure, why_memory_ran_out
from flash_operator.core.replicas.replica import replicas_of

KILLED_AT_ONCE = {"starts": 2, "exit": {"signal": "SIGKILL", "endedBy": "Container"}}
KILLED_BY_LAUNCHER = {"starts": 2, "exit": {"signal": "SIGKILL", "endedBy": "StopTimeout"}}

CASES = {
    "the kubelet says that it exceeded its memory": ("EngineExited", KILLED_AT_ONCE, "OOMKilled", "OutOfMemory"),
    "the kubelet says nothing of memory": ("EngineExited", KILLED_AT_ONCE, "Error", "EngineExited"),
    "the launcher had killed it": ("EngineExited", KILLED_BY_LAUNCHER, "OOMKilled", "EngineExited"),
    "the engine's own exit": ("EngineExited", {"starts": 2, "exit": {"code": 1}}, "OOMKilled", "EngineExited"),
    "it is well again": ("Passed", KILLED_AT_ONCE, "OOMKilled", "Passed"),
    "a gate that knows no exit": ("EngineExited", {}, "OOMKilled", "EngineExited"),
}


@pytest.mark.parametrize(("reported", "record", "terminated", "reason"), CASES.values(), ids=CASES.keys())
def test_a_container_that_was_killed(reported: str, record: dict[str, object], terminated: str, reason: str) -> None:
    ended = {"name": "engine", "lastState": {"terminated": {"reason": terminated, "exitCode": 137}}}
    pod = a_pod(containerStatuses=[{"name": "gate"}, ended])
    (replica,) = replicas_of(an_observed(pods=(pod,), gates={"flash-a": a_gate(reported, engine=record)}))

    assert replica.verdict.reason == reason
    assert ("engine.resources.requests.memory" in replica.verdict.message) is (reason == "OutOfMemory")


LIMIT = {"limits": {"memory": "4Gi"}}
RANGED = "LimitRanger plugin set: cpu request for container gate; cpu, memory limit for container engine"
MEMORY_CASES: dict[str, tuple[dict[str, Any], str | None, str, bool]] = {
    "the user's limit": ({"containers": [{"name": "engine", "resources": LIMIT}]}, None, "limits", False),
    "the limit of a LimitRange": ({"containers": [{"name": "engine", "resources": LIMIT}]}, RANGED, "limits", True),
    "a LimitRange that limits other things": (
        {"containers": [{"name": "engine", "resources": LIMIT}]},
        "LimitRanger plugin set: cpu limit for container engine; memory limit for container web",
        "limits",
        False,
    ),
    "a limit of the pod": ({"containers": [{"name": "engine"}], "resources": LIMIT}, None, "limits", False),
    "no limit: the node's memory": ({"containers": [{"name": "engine", "resources": {}}]}, None, "requests", False),
    "the gate's limit is not the engine's": (
        {"containers": [{"name": "x", "resources": LIMIT}]},
        None,
        "requests",
        False,
    ),
}


@pytest.mark.parametrize(("spec", "annotation", "field", "ranged"), MEMORY_CASES.values(), ids=MEMORY_CASES.keys())
def test_whose_memory_limit_it_was(spec: dict[str, Any], annotation: str | None, field: str, *, ranged: bool) -> None:
    pod = a_pod()
    pod["spec"] |= spec
    pod["metadata"]["annotations"] = {"kubernetes.io/limit-ranger": annotation} if annotation else None
    message = why_memory_ran_out(pod)

    assert f"engine.resources.{field}.memory" in message
    assert ("LimitRange" in message) is ranged
    assert ("4Gi" in message) is (field == "limits")
    assert "memoryPercent" not in message


def test_a_pod_that_a_limit_range_makes_impossible_says_which_field_to_set() -> None:
    words = (
        'Pod "x" is invalid: spec.containers[0].resources.requests: Invalid value: "32Gi": must be less than or equal'
    )
    refused = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate"}
    for name in ("memory", "cpu"):
        condition = {**refused, "message": f"{words} to {name} limit of 4Gi"}
        failure = deployment_failure({"status": {"conditions": [condition]}})
        assert failure is not None
        assert f"set engine.resources.limits.{name} " in failure.message
    failure = deployment_failure({"status": {"conditions": [{**refused, "message": "exceeded quota: q"}]}})
    assert failure is not None
    assert failure.message == "exceeded quota: q"
