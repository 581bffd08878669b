"""Restoring an MTP head: when the Job is created, what its outcomes mean, and what engines load meanwhile."""

import json
from dataclasses import replace
from typing import Any, NamedTuple

import pytest

from builders import SETTINGS, a_flash, a_gate, a_live_deployment, a_node, a_pod, an_observed, condition
from flash_contracts.restore_result import RestoreResult
from flash_operator.api.v1alpha1 import FlashDeployment
from flash_operator.core.mtp_restore.job import restore_job
from flash_operator.core.observed.snapshot import Observed, RawObject
from flash_operator.core.plan import WATCH_RESTORE_SECONDS, Plan, desired_children, plan

RESTORE = {"source": "hf://deepseek-ai/DeepSeek-V4-Flash@0123abc"}
PATH = "pvc://models/v4-with-mtp-97debff6"
COMPLETE: RawObject = {"conditions": [{"type": "Complete", "status": "True"}]}
FAILED: RawObject = {
    "conditions": [{"type": "Failed", "status": "True", "reason": "PodFailurePolicy", "message": "exit code 1"}]
}
FIGURES = {"gptq": 744, "rtn": 24, "seconds": 32.6, "worstError": 0.0123, "device": "NVIDIA H100"}


def asking(**spec: Any) -> FlashDeployment:
    restore = spec.pop("restore", {})
    return a_flash(generation=2, model={"source": "pvc://models/v4", "restoreMtp": {**RESTORE, **restore}}, **spec)


def a_job(flash: FlashDeployment | None = None, **status: Any) -> RawObject:
    flash = flash or asking()
    assert flash.spec.model.restore_mtp
    job = restore_job(flash, flash.spec.model.restore_mtp, SETTINGS)
    return {**job, "metadata": {**job["metadata"], "uid": "uid-of-job"}, "status": status}


def a_restore_pod(name: str = "p", *, said: str | None = None, at: str = "12:00", **status: Any) -> RawObject:
    """`said` is the termination message of one that ended."""
    pod = a_pod(name, **status)
    pod["metadata"]["ownerReferences"] = [{"uid": "uid-of-job"}]
    if said is not None:
        ended = {"exitCode": 1, "reason": "Error", "finishedAt": f"2026-11-24T{at}:00Z", "message": said}
        pod["status"] |= {"phase": "Failed", "containerStatuses": [{"name": "restore", "state": {"terminated": ended}}]}
    return pod


def result(state: str, message: str = "as reported", figures: RawObject | None = None) -> str:
    return json.dumps({"version": 1, "state": state, "message": message, "figures": figures, "path": "/models/x"})


def seen(*pods: RawObject, job: RawObject | None = None, flash: FlashDeployment | None = None, **more: Any) -> Observed:
    children = (*more.pop("children", ()), *((job,) if job else ()))
    return replace(an_observed(flash or asking(), children=children, **more), restore_pods=pods)


def known(mtp: str, path: str = PATH) -> RawObject:
    return {"model": {"path": path, "mtp": mtp, "message": "as it was"}}


def kinds(wanted: Plan) -> list[str]:
    return [child["kind"] for child in wanted.apply]


def model(wanted: Plan) -> RawObject:
    assert wanted.status is not None
    return dict(wanted.status["model"])


class Case(NamedTuple):
    observed: Observed
    mtp: str
    message: str
    """A part of status.model.message."""
    reason: str | None
    """Of Progressing; None where it speaks of other things."""
    deployed: bool
    makes: bool = False
    deletes: bool = False


WAITING_POD = a_restore_pod(
    node=None,
    phase="Pending",
    conditions=[
        {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes are available"}
    ],
)

CASES = {
    "nothing there": Case(seen(), "Restoring", "starting the Job", "RestoringMtp", deployed=False, makes=True),
    "its pod is not there yet": Case(
        seen(job=a_job()), "Restoring", "is waiting for its pod", "RestoringMtp", deployed=False
    ),
    "it runs": Case(
        seen(a_restore_pod(), job=a_job()),
        "Restoring",
        "is running on node-1; kubectl logs -f",
        "RestoringMtp",
        deployed=False,
    ),
    "no GPU is free: the scheduler's words": Case(
        seen(WAITING_POD, job=a_job()), "Restoring", "0/1 nodes are available", "Unschedulable", deployed=False
    ),
    "an earlier try was killed": Case(
        seen(a_restore_pod("a", said="", at="11:00"), a_restore_pod("b"), job=a_job()),
        "Restoring",
        "an earlier try failed: the Job left no result",
        "RestoringMtp",
        deployed=False,
    ),
    "restored": Case(
        seen(a_restore_pod(said=result("Restored", "744 by GPTQ", FIGURES)), job=a_job(**COMPLETE)),
        "Restored",
        "744 by GPTQ",
        None,
        deployed=True,
    ),
    "restored by another deployment": Case(
        seen(a_restore_pod(said=result("AlreadyRestored", "restored before", FIGURES)), job=a_job(**COMPLETE)),
        "Restored",
        "restored before",
        None,
        deployed=True,
    ),
    "it has its head": Case(
        seen(a_restore_pod(said=result("NotNeeded", "not needed")), job=a_job(**COMPLETE)),
        "Native",
        "not needed",
        None,
        deployed=True,
    ),
    "the user's mistake": Case(
        seen(a_restore_pod(said=result("Failed", "/source is no folder")), job=a_job(**FAILED)),
        "Failed",
        "no folder; fix it, then change spec.model.restoreMtp, or run: kubectl delete job -n team flash-restore",
        "MtpRestoreFailed",
        deployed=False,
    ),
    "failed, and nobody is left to say why": Case(
        seen(job=a_job(**FAILED)),
        "Failed",
        "PodFailurePolicy: exit code 1; fix it",
        "MtpRestoreFailed",
        deployed=False,
    ),
    "the last of several tries speaks": Case(
        seen(
            a_restore_pod("b", said=result("Failed", "the last"), at="12:00"),
            a_restore_pod("a", said=result("Failed", "the first"), at="11:00"),
            job=a_job(**FAILED),
        ),
        "Failed",
        "the last",
        "MtpRestoreFailed",
        deployed=False,
    ),
    "what was asked for has changed": Case(
        seen(job=a_job(asking(restore={"image": "other:1"}), **FAILED)),
        "Restoring",
        "replacing the Job",
        "RestoringMtp",
        deployed=False,
        deletes=True,
    ),
    "it waits for a node that is not there, and the user names another": Case(
        seen(job=a_job(asking(placement={"nodeSelector": {"pool": "none"}}))),
        "Restoring",
        "replacing the Job",
        "RestoringMtp",
        deployed=False,
        deletes=True,
    ),
    "restored, and later the operator has another image": Case(
        seen(job=a_job(asking(restore={"image": "older:1"}), **COMPLETE), live_status=known("Restored")),
        "Restored",
        "as it was",
        None,
        deployed=True,
    ),
    "the former Job is still on its way out": Case(
        seen(job={**a_job(), "metadata": {**a_job()["metadata"], "deletionTimestamp": "2026-11-24T12:00:00Z"}}),
        "Restoring",
        "replacing the Job",
        "RestoringMtp",
        deployed=False,
    ),
    "restored, and the Job was cleared away": Case(
        seen(live_status=known("Restored")), "Restored", "as it was", None, deployed=True
    ),
    "complete, and its pod was cleared away": Case(
        seen(job=a_job(**COMPLETE), live_status=known("Restored")), "Restored", "as it was", None, deployed=True
    ),
    "complete, and nothing is known any more": Case(
        seen(job=a_job(**COMPLETE)), "Restored", "its pod with the figures was deleted", None, deployed=True
    ),
    "failed, and the user deleted the Job": Case(
        seen(live_status=known("Failed")), "Restoring", "starting the Job", "RestoringMtp", deployed=False, makes=True
    ),
    "restored without a capture, and now there is one": Case(
        seen(live_status=known("Restored", "pvc://models/v4-with-mtp-00000000")),
        "Restoring",
        "starting the Job",
        "RestoringMtp",
        deployed=False,
        makes=True,
    ),
    "a pod of the Job before": Case(
        seen({**a_restore_pod(said=result("Failed", "old")), "metadata": a_pod("old")["metadata"]}, job=a_job()),
        "Restoring",
        "is waiting for its pod",
        "RestoringMtp",
        deployed=False,
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_each_situation(case: Case) -> None:
    wanted = plan(case.observed)
    # An unchanged status is not written again.
    status = wanted.status or case.observed.live_status
    assert (status["model"]["path"], status["model"]["mtp"]) == (PATH, case.mtp)
    assert case.message in status["model"]["message"]
    assert ("Deployment" in kinds(wanted)) is case.deployed
    assert ("Job" in kinds(wanted)) is case.makes
    assert [ref.kind for ref in wanted.delete] == (["Job"] if case.deletes else [])
    if case.reason:
        assert condition(status, "Progressing")["reason"] == case.reason
        assert condition(status, "Ready")["reason"] == case.reason
        assert condition(status, "Available")["status"] == "False"
        assert wanted.requeue_after == WATCH_RESTORE_SECONDS


def test_a_failed_or_unschedulable_restore_needs_intervention() -> None:
    moving = {name: condition(plan(case.observed).status, "Progressing")["status"] for name, case in CASES.items()}
    assert moving["it runs"] == "True"
    assert moving["the user's mistake"] == moving["no GPU is free: the scheduler's words"] == "False"


def test_figures_are_shown_as_whole_numbers() -> None:
    reported = model(plan(CASES["restored"].observed))
    assert (reported["matricesGptq"], reported["matricesRounded"], reported["seconds"]) == (744, 24, 33)
    assert reported["worstErrorPerMillion"] == 12300


def serving(flash: FlashDeployment, **more: Any) -> Observed:
    """Replicas that serve the stripped checkpoint without speculation, and a changed spec."""
    before = a_flash(speculation={"method": "Disabled"})
    children = [c for c in desired_children(an_observed(before)) if c["kind"] != "Deployment"]
    pods = (a_pod(ready=True),)
    common: dict[str, Any] = {
        "pods": pods,
        "nodes": (a_node(gpu_link="phb", gpu_p2p="verified"),),
        "gates": {"flash-a": a_gate()},
    }
    return seen(flash=flash, children=(*children, a_live_deployment(before)), **common, **more)


def test_serving_replicas_stay_unchanged_until_the_restore_is_done() -> None:
    observed = serving(asking())
    live = observed.children["Deployment", "flash"]
    live["spec"]["template"]["spec"]["dnsPolicy"] = "ClusterFirst"  # a default of the server's
    wanted = plan(observed)
    (deployment,) = (child for child in wanted.apply if child["kind"] == "Deployment")
    assert deployment["spec"]["template"] == live["spec"]["template"]
    assert "ConfigMap" not in kinds(wanted), "gates that would ask for drafts now would take the replicas out"
    assert condition(wanted.status, "Available")["status"] == "True"
    assert condition(wanted.status, "Ready")["reason"] == "RestoringMtp"

    settled = replace(observed, children={**observed.children, ("Deployment", "flash"): {**live, **deployment}})
    assert kinds(plan(settled)) == ["Job"], "nothing is written again and again meanwhile"


def test_serving_replicas_can_be_scaled_down_for_the_job() -> None:
    """If they hold all GPUs of the node, the Job would otherwise wait forever."""
    observed = replace(serving(asking(replicas=0), job=a_job()), restore_pods=(WAITING_POD,))
    wanted = plan(observed)
    (deployment,) = (child for child in wanted.apply if child["kind"] == "Deployment")
    assert deployment["spec"]["replicas"] == 0
    assert "scale it to 0 until the Job is done" in model(wanted)["message"]


def test_serving_replicas_get_the_restored_checkpoint_once_it_is_done() -> None:
    done = a_restore_pod(said=result("Restored", "done", FIGURES))
    wanted = plan(replace(serving(asking(), job=a_job(**COMPLETE)), restore_pods=(done,)))
    (deployment,) = (child for child in wanted.apply if child["kind"] == "Deployment")
    engine = deployment["spec"]["template"]["spec"]["containers"][0]
    assert engine["args"][1] == "/models/v4-with-mtp-97debff6"
    assert "ConfigMap" in kinds(wanted)


@pytest.mark.parametrize("flash", [a_flash(), asking(restore={"state": "Disabled"})], ids=["removed", "switched off"])
def test_a_job_that_is_no_longer_requested_is_deleted(flash: FlashDeployment) -> None:
    wanted = plan(seen(flash=flash, job=a_job()))
    assert [(ref.kind, ref.name) for ref in wanted.delete] == [("Job", "flash-restore")]
    assert "Deployment" in kinds(wanted)
    assert wanted.status is not None
    assert "model" not in wanted.status


def test_start_end_and_failure_get_one_event_each() -> None:
    def reasons(observed: Observed) -> list[str]:
        return [event.reason for event in plan(observed).events if event.action == "Restore"]

    assert reasons(seen()) == ["RestoringMtp"]
    assert reasons(seen(a_restore_pod(), job=a_job(), live_status=known("Restoring"))) == []
    assert reasons(CASES["restored"].observed) == ["MtpRestored"]
    assert reasons(CASES["it has its head"].observed) == ["MtpNotNeeded"]
    assert reasons(CASES["the user's mistake"].observed) == ["MtpRestoreFailed"]
    assert reasons(replace(CASES["the user's mistake"].observed, live_status=known("Failed"))) == []


@pytest.mark.parametrize("said", ["", "Traceback: nothing", "{}", '{"state": "Tomorrow"}', '{"state": "Restored"'])
def test_an_unreadable_result_is_a_failure_that_quotes_the_output(said: str) -> None:
    found = RestoreResult.of_text(said)
    assert found.state == "Failed"
    assert (said or "none") in found.message
