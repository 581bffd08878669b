"""The predicates on raw objects, against the shapes that the API server and the kubelet write."""

from typing import Any

import pytest

from flash_operator.core.observed.kube import (
    condition_of,
    has_condition,
    has_ended,
    is_owned_by,
    is_ready,
    is_terminating,
    job_outcome,
    termination_message,
)

A_SUSPENDED_JOB = [{"type": "Suspended", "status": "True"}]
A_FAILURE_TARGET = [{"type": "FailureTarget", "status": "True"}]


def with_conditions(*conditions: dict[str, str]) -> dict[str, Any]:
    return {"metadata": {}, "status": {"conditions": list(conditions)}}


def with_termination(finished_at: str = "2026-11-24T12:00:00Z", **terminated: Any) -> dict[str, Any]:
    state = {"terminated": {"finishedAt": finished_at, **terminated}}
    return {"metadata": {}, "status": {"containerStatuses": [{"name": "job", "state": state}]}}


@pytest.mark.parametrize("nothing", [{}, {"status": {}}, {"status": {"conditions": None}}])
def test_an_object_without_conditions_has_none(nothing: dict[str, Any]) -> None:
    assert condition_of(nothing, "Ready") is None
    assert not has_condition(nothing, "Ready")
    assert not is_ready(nothing)
    assert job_outcome(nothing) is None


@pytest.mark.parametrize(("status", "ready"), [("True", True), ("False", False), ("Unknown", False)])
def test_only_the_status_true_is_ready(status: str, *, ready: bool) -> None:
    pod = with_conditions({"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": status})
    assert is_ready(pod) is ready
    assert condition_of(pod, "Ready") == {"type": "Ready", "status": status}


@pytest.mark.parametrize(
    ("phase", "ended"),
    [("Pending", False), ("Running", False), ("Unknown", False), ("Succeeded", True), ("Failed", True)],
)
def test_a_pod_has_ended_in_its_two_final_phases(phase: str, *, ended: bool) -> None:
    assert has_ended({"status": {"phase": phase}}) is ended


def test_a_pod_without_a_status_has_not_ended() -> None:
    assert not has_ended({})


def test_an_object_with_a_deletion_timestamp_is_terminating() -> None:
    assert is_terminating({"metadata": {"deletionTimestamp": "2026-11-24T12:00:00Z"}})
    assert not is_terminating({"metadata": {}})


def test_owners_of_the_same_name_differ_by_uid() -> None:
    pod = {"metadata": {"ownerReferences": [{"uid": "a", "name": "same"}, {"uid": "b", "name": "same"}]}}
    assert is_owned_by(pod, "b")
    assert not is_owned_by(pod, "c")
    assert not is_owned_by({"metadata": {}}, "a")


@pytest.mark.parametrize(
    ("conditions", "outcome"),
    [
        ([{"type": "Complete", "status": "True"}], "Complete"),
        ([{"type": "SuccessCriteriaMet", "status": "True"}, {"type": "Complete", "status": "True"}], "Complete"),
        ([*A_FAILURE_TARGET, {"type": "Failed", "status": "True"}], "Failed"),
        ([{"type": "Failed", "status": "False"}], None),
        (A_SUSPENDED_JOB, None),
        (A_FAILURE_TARGET, None),
    ],
)
def test_a_job_ends_with_one_of_two_conditions(conditions: list[dict[str, str]], outcome: str | None) -> None:
    assert job_outcome(with_conditions(*conditions)) == outcome


def test_the_termination_message_is_that_of_the_container_that_exited_last() -> None:
    first = with_termination("2026-11-24T12:00:00Z", message="first", exitCode=1)
    last = with_termination("2026-11-24T12:05:00Z", message="last", exitCode=1)
    assert termination_message([last, first]) == "last"
    assert termination_message([first, last]) == "last"


def test_a_container_without_a_message_leaves_its_exit_code() -> None:
    assert termination_message([with_termination(exitCode=137, reason="OOMKilled")]) == "exit code 137, OOMKilled"
    assert termination_message([with_termination(exitCode=1, message="")]) == "exit code 1, "


def test_there_is_no_termination_message_while_all_containers_run() -> None:
    running = {"status": {"containerStatuses": [{"name": "job", "state": {"running": {}}}]}}
    assert termination_message([running, {"status": {}}, {}]) is None
