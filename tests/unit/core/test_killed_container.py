"""A container that was killed together with its launcher: the gate cannot tell the cause, but the kubelet may."""

import pytest

from builders import a_gate, a_pod, an_observed
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
    assert ("engine.resources.limits.memory" in replica.verdict.message) is (reason == "OutOfMemory")
