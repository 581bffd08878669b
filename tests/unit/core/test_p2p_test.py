"""The p2p test of a node: when it is started, when it is cancelled, and what follows from each outcome."""

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from builders import NOON, a_node
from flash_contracts.names import (
    FORMER_P2P_TESTED_BY_LABEL,
    P2P_ATTEMPT_ANNOTATION,
    P2P_CARDS_LABEL,
    P2P_CLAIMS_ANNOTATION,
    P2P_DRIVER_LABEL,
    P2P_LABEL,
    P2P_REPORT_ANNOTATION,
    P2P_TESTED_BY_LABEL,
)
from flash_contracts.node_facts import NodeFacts
from flash_operator.core.observed.snapshot import RawObject
from flash_operator.core.p2p_test.job import P2pTestSettings, p2p_test_job, p2p_test_name
from flash_operator.core.p2p_test.planner import NodeObserved, NodePlan, P2pTestAttempt, plan_node, reason_not_to_test

SETTINGS = P2pTestSettings(namespace="system", image="registry.example/flash/engine:1", priority_class="low")
GRANTED = {"gpu_link": "node", "gpu_p2p": "granted", "gpu_driver": "595.84", "gpu_cards": "3fa9c21b07"}


def a_gpu_pod(name: str = "engine", *, node: str | None = "node-1", phase: str = "Running", **spec: Any) -> RawObject:
    containers = [{"name": "c", "resources": {"limits": {"nvidia.com/gpu": "2"}}}]
    bound = {"nodeName": node} if node else {}
    return {
        "metadata": {"name": name, "uid": f"uid-of-{name}"},
        "spec": {"containers": containers, **bound, **spec},
        "status": {"phase": phase},
    }


def a_test_pod(message: str | None = None, **status: Any) -> RawObject:
    pod = a_gpu_pod("p2p-test-pod")
    if message is not None:
        ended = {"exitCode": 0, "message": message}
        pod["status"] = {
            "phase": "Succeeded",
            "containerStatuses": [{"name": "p2p-test", "state": {"terminated": ended}}],
        }
    pod["status"] |= status
    return pod


def a_job(**status: Any) -> RawObject:
    job = p2p_test_job(a_node(**GRANTED), SETTINGS)
    return {**job, "metadata": {**job["metadata"], "uid": "uid-of-job"}, "status": status}


def observed(node: RawObject | None = None, **extra: Any) -> NodeObserved:
    return NodeObserved("node-1", node or a_node(**GRANTED), SETTINGS, NOON, **extra)


def a_report(verdict: str, **extra: Any) -> str:
    return json.dumps({"version": 1, "verdict": verdict, "reason": "as reported", "schema": "v1-abcdef", **extra})


def noted(count: int, driver: str | None = "595.84") -> RawObject:
    node = a_node(**GRANTED)
    text = json.dumps({"at": "2026-11-24T11:55:00Z", "driver": driver, "count": count})
    node["metadata"]["annotations"] = {P2P_ATTEMPT_ANNOTATION: text}
    return node


def test_an_idle_granted_pair_is_tested() -> None:
    wanted = plan_node(observed())

    assert wanted.create == p2p_test_job(a_node(**GRANTED), SETTINGS)
    assert replace(wanted, create=None) == NodePlan(requeue_after=2.0)


NEEDLESS = {
    "verified under this driver": a_node(**{**GRANTED, "gpu_p2p": "verified", "gpu_p2p_driver": "595.84"}),
    "verified, set by hand without a driver": a_node(**{**GRANTED, "gpu_p2p": "verified"}),
    "found to hang under this driver": a_node(**{**GRANTED, "gpu_p2p": "hang", "gpu_p2p_driver": "595.84"}),
    "the driver refuses": a_node(**{**GRANTED, "gpu_p2p": "cns"}),
    "nothing is known": a_node(),
    "the IOMMU translates": a_node(**GRANTED, gpu_iommu="translated"),
    "ACS redirects": a_node(**GRANTED, gpu_acs="redirect"),
    "labels kept by hand": a_node(**GRANTED, labels_managed="false"),
    "cordoned": {**a_node(**GRANTED), "spec": {"unschedulable": True}},
    "eight cards": {**a_node(**GRANTED), "status": {"allocatable": {"nvidia.com/gpu": "8"}}},
    "no card yet": {**a_node(**GRANTED), "status": {}},
}


@pytest.mark.parametrize("node", NEEDLESS.values(), ids=NEEDLESS.keys())
def test_a_test_that_could_change_nothing_is_not_started(node: RawObject) -> None:
    assert reason_not_to_test(NodeFacts.from_node(node))
    assert plan_node(observed(node)) == NodePlan()


@pytest.mark.parametrize("verdict", ["verified", "hang", "corrupt"])
def test_a_verdict_of_another_driver_is_tested_anew(verdict: str) -> None:
    node = a_node(**{**GRANTED, "gpu_p2p": verdict, "gpu_p2p_driver": "595.71.05"})
    assert plan_node(observed(node)).create


@pytest.mark.parametrize("verdict", ["verified", "hang", "corrupt"])
def test_a_verdict_of_other_cards_is_tested_anew(verdict: str) -> None:
    tested = {**GRANTED, "gpu_p2p": verdict, "gpu_p2p_driver": "595.84", "gpu_p2p_cards": "3fa9c21b07"}
    assert plan_node(observed(a_node(**tested))) == NodePlan()
    assert plan_node(observed(a_node(**{**tested, "gpu_cards": "0000000000"}))).create


def waiting(**spec: Any) -> RawObject:
    return a_gpu_pod(node=None, phase="Pending", **spec)


def in_zone(operator: str, *zones: str) -> RawObject:
    term = {"matchExpressions": [{"key": "zone", "operator": operator, "values": list(zones)}]}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}}


CLAIMING: dict[str, Any] = {"resources": {"claims": [{"name": "gpus"}]}}


WANTED: dict[str, tuple[RawObject, bool] | tuple[RawObject, bool, RawObject]] = {
    "an engine runs here": (a_gpu_pod(), True),
    "an engine is on its way out here": (a_gpu_pod(deletionTimestamp="now"), True),
    "an engine waits for any node": (a_gpu_pod(node=None, phase="Pending"), True),
    "an engine waits for this kind of node": (
        a_gpu_pod(node=None, nodeSelector={"deepseekflash.dev/gpu-link": "node"}),
        True,
    ),
    "an engine waits for another kind of node": (a_gpu_pod(node=None, nodeSelector={"zone": "b"}), False),
    "an engine waits for nodes of another zone": (waiting(affinity=in_zone("In", "b")), False),
    "an engine waits for any zone but this": (waiting(affinity=in_zone("NotIn", "a")), False),
    "an engine waits for this zone": (waiting(affinity=in_zone("In", "a", "b")), True),
    "an engine waits for nodes without a zone": (waiting(affinity=in_zone("DoesNotExist")), False),
    "an engine would not tolerate this node": (waiting(), False, {"key": "team", "effect": "NoSchedule"}),
    "an engine waits for this node to become ready": (
        waiting(),
        True,
        {"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"},
    ),
    "a pod of four GPUs": (waiting(containers=[{"resources": {"limits": {"nvidia.com/gpu": "4"}}}]), False),
    "an engine that is not to be scheduled yet": (waiting(schedulingGates=[{"name": "queue"}]), False),
    "an engine that failed": (a_gpu_pod(phase="Failed"), False),
    "an engine with claims": (waiting(containers=[CLAIMING]), True),
    "an engine whose sidecar has claims": (waiting(containers=[{}], initContainers=[CLAIMING]), True),
    "a pod of four GPUs whose claims are for other devices": (
        waiting(containers=[{"resources": {**CLAIMING["resources"], "limits": {"nvidia.com/gpu": "4"}}}]),
        False,
    ),
    "a pod without GPUs": ({"metadata": {"uid": "u"}, "spec": {"nodeName": "node-1", "containers": [{}]}}, False),
}


@pytest.mark.parametrize("case", WANTED.values(), ids=WANTED.keys())
def test_gpus_in_use_or_requested_are_not_tested(case: tuple[Any, ...]) -> None:
    pod, wanted, *taints = case
    node = a_node(**GRANTED)
    node["metadata"]["labels"]["zone"] = "a"
    node["spec"] = {"taints": taints}
    assert (plan_node(observed(node, pods=(pod,))).create is None) is wanted


def test_a_running_test_gives_way_to_an_engine_that_waits() -> None:
    waiting = a_gpu_pod(node=None, phase="Pending")
    wanted = plan_node(observed(job=a_job(), job_pods=(a_test_pod(),), pods=(a_test_pod(), waiting)))

    assert wanted.delete == a_job()
    assert [event.reason for event in wanted.events] == ["P2pTestCancelled"]
    assert wanted.patch is None


def test_a_test_that_the_scheduler_ended_for_an_engine_is_no_failed_attempt() -> None:
    ended = a_test_pod(a_report("inconclusive"))
    wanted = plan_node(observed(job=a_job(), job_pods=(ended,), pods=(ended, a_gpu_pod())))

    assert (wanted.patch, wanted.delete) == (None, a_job())
    assert [event.reason for event in wanted.events] == ["P2pTestCancelled"]


def test_a_verdict_counts_although_an_engine_waits_by_now() -> None:
    ended = a_test_pod(a_report("healthy"))
    wanted = plan_node(observed(job=a_job(), job_pods=(ended,), pods=(ended, a_gpu_pod())))
    assert wanted.patch is not None


def test_a_running_test_does_not_count_as_a_gpu_user() -> None:
    wanted = plan_node(observed(job=a_job(), job_pods=(a_test_pod(),), pods=(a_test_pod(),)))
    assert wanted == NodePlan(requeue_after=2.0)


def test_a_pod_of_an_earlier_test_that_lingers_keeps_the_next_one_waiting() -> None:
    assert plan_node(observed(pods=(a_test_pod(),))).create is None


VERDICTS = {
    "healthy": ("verified", "PeerToPeerVerified", "Normal"),
    "hang": ("hang", "PeerToPeerBroken", "Warning"),
    "corrupt": ("corrupt", "PeerToPeerBroken", "Warning"),
}


@pytest.mark.parametrize(("verdict", "expected"), VERDICTS.items(), ids=VERDICTS.keys())
def test_a_verdict_becomes_labels_and_an_event_and_the_job_goes(verdict: str, expected: tuple[str, str, str]) -> None:
    label, reason, kind = expected
    report = a_report(verdict)
    wanted = plan_node(observed(job=a_job(), job_pods=(a_test_pod(report),)))

    assert wanted.patch == {
        "metadata": {
            "labels": {
                P2P_LABEL: label,
                P2P_DRIVER_LABEL: "595.84",
                P2P_CARDS_LABEL: "3fa9c21b07",
                P2P_TESTED_BY_LABEL: "v1-abcdef",
                FORMER_P2P_TESTED_BY_LABEL: None,
            },
            "annotations": {P2P_REPORT_ANNOTATION: report, P2P_ATTEMPT_ANNOTATION: None, P2P_CLAIMS_ANNOTATION: None},
        }
    }
    assert [(event.reason, event.type) for event in wanted.events] == [(reason, kind)]
    assert ("boot with iommu=off" in wanted.events[0].note) is (kind == "Warning")
    assert wanted.delete


@pytest.mark.parametrize("text", ["x" * 64, "v1 beta", "-1", "1\n", "", "\u00e9"])
def test_invalid_schema_and_driver_names_cannot_make_an_invalid_label(text: str) -> None:
    report = a_report("hang", schema=text, driver=text)
    node = a_node(gpu_link="node", gpu_p2p="granted", gpu_cards="unknown")
    wanted = plan_node(observed(node, job=a_job(), job_pods=(a_test_pod(report),)))
    assert wanted.patch
    assert wanted.patch["metadata"]["labels"] == {
        P2P_LABEL: "hang",
        P2P_DRIVER_LABEL: None,
        P2P_CARDS_LABEL: None,
        P2P_TESTED_BY_LABEL: "p2p-test",
        FORMER_P2P_TESTED_BY_LABEL: None,
    }


INCONCLUSIVE = {
    "the test's own word": (a_test_pod(a_report("inconclusive")), {}, "as reported"),
    "not possible at all": (a_test_pod(a_report("notPossible")), {}, "as reported"),
    "no report": (a_test_pod("Traceback: no such file"), {}, "Traceback: no such file"),
    "half a report": (a_test_pod(a_report("healthy")[:40]), {}, "left no report"),
    "an unknown verdict": (a_test_pod(a_report("splendid")), {}, "left no report"),
    "no message": (a_test_pod(""), {}, "exit code 0"),
    "the Job's deadline": (
        a_gpu_pod("p2p-test-pod", containerStatuses=[]),
        {"conditions": [{"type": "Failed", "status": "True", "reason": "DeadlineExceeded", "message": "too long"}]},
        "DeadlineExceeded: too long",
    ),
}


@pytest.mark.parametrize(("pod", "status", "reported"), INCONCLUSIVE.values(), ids=INCONCLUSIVE.keys())
def test_an_inconclusive_test_changes_no_label_and_says_why(pod: RawObject, status: RawObject, reported: str) -> None:
    wanted = plan_node(observed(job=a_job(**status), job_pods=(pod,)))

    assert wanted.patch is not None
    assert "labels" not in wanted.patch["metadata"]
    attempt = json.loads(wanted.patch["metadata"]["annotations"][P2P_ATTEMPT_ANNOTATION])
    assert reported in attempt["reason"]
    assert attempt["count"] == 1
    assert reported in wanted.events[0].message
    assert wanted.delete


def test_a_job_whose_image_cannot_be_pulled_says_so() -> None:
    waiting = {"name": "p2p-test", "state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}}
    failed = {"conditions": [{"type": "Failed", "status": "True", "reason": "DeadlineExceeded"}]}
    wanted = plan_node(observed(job=a_job(**failed), job_pods=(a_test_pod(containerStatuses=[waiting]),)))
    assert "ImagePullBackOff: container p2p-test: no such image" in wanted.events[0].message


def test_inconclusive_tests_back_off_to_one_a_day() -> None:
    assert plan_node(observed(noted(1))).requeue_after == 5 * 60
    assert plan_node(observed(noted(2))).requeue_after == 15 * 60
    assert plan_node(observed(noted(40))).requeue_after == timedelta(hours=23, minutes=55).total_seconds()
    again = plan_node(observed(noted(2), job=a_job(), job_pods=(a_test_pod(a_report("inconclusive")),)))
    assert again.patch is not None
    assert json.loads(again.patch["metadata"]["annotations"][P2P_ATTEMPT_ANNOTATION])["count"] == 3


def test_another_driver_resets_the_back_off() -> None:
    assert plan_node(observed(noted(9, driver="580.1"))).create


def test_an_unreadable_driver_does_not_reset_the_back_off() -> None:
    """It does not reset the count either, or put `unknown` into the verdict."""
    node = noted(2)
    node["metadata"]["labels"]["deepseekflash.dev/gpu-driver"] = "unknown"
    assert plan_node(observed(node)).create is None
    again = plan_node(observed(node, job=a_job(), job_pods=(a_test_pod(a_report("inconclusive")),)))
    assert again.patch is not None
    assert json.loads(again.patch["metadata"]["annotations"][P2P_ATTEMPT_ANNOTATION])["count"] == 3
    report = a_report("hang", driver="595.84")
    found = plan_node(observed(node, job=a_job(), job_pods=(a_test_pod(report),)))
    assert found.patch is not None
    assert found.patch["metadata"]["labels"][P2P_DRIVER_LABEL] == "595.84"


@pytest.mark.parametrize("text", ["", "null", "[]", "{}", "no json", '{"at": "noon", "driver": null, "count": 1}'])
def test_an_unreadable_attempt_is_ignored(text: str) -> None:
    node = a_node(**GRANTED)
    node["metadata"]["annotations"] = {P2P_ATTEMPT_ANNOTATION: text}
    assert P2pTestAttempt.last_on(node) is None


def test_a_node_that_went_during_its_test_takes_the_job_with_it() -> None:
    gone = NodeObserved("node-1", None, SETTINGS, NOON, job=a_job(), job_pods=(a_test_pod(a_report("healthy")),))
    assert plan_node(gone) == NodePlan(delete=a_job())


def test_labels_that_an_administrator_took_over_meanwhile_are_left_alone() -> None:
    node = a_node(**GRANTED, labels_managed="false")
    wanted = plan_node(observed(node, job=a_job(), job_pods=(a_test_pod(a_report("hang")),)))
    assert replace(wanted, events=()) == NodePlan(delete=a_job())
    (event,) = wanted.events
    assert (event.reason, event.message.partition(": ")[2]) == ("VerdictNotWritten", "hang: as reported")


def test_the_job_requests_both_gpus_at_the_lowest_priority() -> None:
    job = p2p_test_job(a_node("a.node.with.dots" * 10), SETTINGS)
    pod = job["spec"]["template"]["spec"]
    assert len(job["metadata"]["name"]) <= 63
    assert job["metadata"]["name"] != p2p_test_name("node-1")
    assert pod["containers"][0]["resources"]["limits"] == {"nvidia.com/gpu": "2"}
    assert pod["priorityClassName"] == "low"
    assert "nodeName" not in pod, "a pod that names its node is admitted although the GPUs are in use, and fails"
    assert job["spec"]["backoffLimit"] == 0
    assert pod["automountServiceAccountToken"] is False
    assert "imagePullSecrets" not in pod
    assert "runtimeClassName" not in pod


def test_the_job_tolerates_dedicated_nodes() -> None:
    """A taint, a registry with a password, and NVIDIA's runtime as a non-default runtime class."""
    node = a_node()
    node["spec"] = {
        "taints": [
            {"key": "team", "value": "a", "effect": "NoExecute"},
            {"key": "node.kubernetes.io/not-ready", "effect": "NoExecute"},
        ]
    }
    settings = replace(SETTINGS, pull_secrets=("registry",), runtime_class="nvidia")
    pod = p2p_test_job(node, settings)["spec"]["template"]["spec"]
    assert pod["tolerations"] == [
        {"key": "nvidia.com/gpu", "operator": "Exists"},
        {"key": "team", "operator": "Exists", "effect": "NoExecute"},
    ]
    assert (pod["imagePullSecrets"], pod["runtimeClassName"]) == ([{"name": "registry"}], "nvidia")


def test_an_attempt_whose_time_somebody_wrote_without_a_zone_counts() -> None:
    node = a_node(**GRANTED)
    text = json.dumps({"at": "2026-11-24T11:55:00", "driver": "595.84", "count": 1})
    node["metadata"]["annotations"] = {P2P_ATTEMPT_ANNOTATION: text}
    assert plan_node(observed(node)).requeue_after == 300.0
