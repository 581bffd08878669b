"""`kubectl dsf explain`: the texts of failures that the operator's own code judged, and what no reason may lack."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import explained_failures
from builders import a_flash_object, a_gate, a_node, a_pod
from explained_failures import LATER, LEASE, explanations, failures, one_pod, page, rendered
from flash_contracts.verdict_reason import Reason
from flash_operator.api.vocabulary import CONDITION_REASONS
from flash_operator.core.observed.pod_failure import STUCK_WAITING
from flashctl.explain import remedies
from flashctl.explain.explanation import MAX_STEPS, Explanation, explain
from flashctl.explain.facts import Facts

ROOT = Path(__file__).resolve().parents[2]
ONE_SCREEN = 40


def test_the_page_of_failures_is_what_the_command_prints() -> None:
    assert (ROOT / "docs/explain.md").read_text() == page(), "run: make generate"


EXPECTED = {
    "No node has two free GPUs": ("Unschedulable", "free a pair"),
    "The image cannot be pulled": ("ImagePullBackOff", "imagePullSecrets"),
    "The claim does not exist": ("Unschedulable", "create the claim"),
    "The draft is dead": ("DraftDead", "model.restoreMtp"),
    "Too slow": ("TooSlow", "readiness.minDecodeTokensPerSecond"),
    "The engine exited": ("EngineExited", "kubectl dsf logs flash -n team"),
    "The checkpoint is rejected": ("ModelRejected", "serve another checkpoint"),
    "The engine hangs": ("StartupHang", "spec.interconnect.mode: Safe"),
    "A name is taken": ("NameTaken", "delete or rename the object"),
    "A child is refused": ("ChildRefused", "raise the quota"),
    "An update waits": ("UpdateAvailable", "kubectl dsf update flash -n team"),
    "The operator is down": ("OperatorDown", "bring the operator back"),
}


@pytest.mark.parametrize("title", EXPECTED)
def test_the_first_finding_and_step_are_about_the_failure(title: str) -> None:
    found = explanations()[title]
    reason, step = EXPECTED[title]
    assert (found.findings[0].reason, found.next[0].reason) == (reason, reason)
    assert step in found.next[0].do


@pytest.mark.parametrize("title", EXPECTED)
def test_it_fits_one_screen(title: str) -> None:
    text = rendered(explanations()[title])
    assert len(text.splitlines()) <= ONE_SCREEN
    assert max(map(len, text.splitlines())) <= explained_failures.WIDTH


def test_every_failure_is_expected() -> None:
    assert list(failures()) == list(EXPECTED)


def test_every_reason_of_a_verdict_and_a_condition_has_a_remedy() -> None:
    assert remedies.VERDICTS.keys() == {*Reason}
    assert remedies.CONDITIONS.keys() >= CONDITION_REASONS.keys()
    assert remedies.KUBERNETES.keys() >= STUCK_WAITING | {
        "Unschedulable",
        "SetupOverdue",
        "ReplicaFailure",
        "PodFailed",
    }


def test_no_remedy_is_left_for_a_reason_that_is_gone() -> None:
    assert remedies.CONDITIONS.keys() - CONDITION_REASONS.keys() <= {"UpdateAvailable"}


def rows_of_readiness() -> dict[tuple[str, ...], str]:
    """What docs/readiness.md tells people to do, by the reasons of a row."""
    rows = re.findall(r"^\| (`.+?`) \| .* \| (.*) \|$", (ROOT / "docs/readiness.md").read_text(), re.MULTILINE)
    named = {tuple(re.findall(r"`(\w+)`", reasons)): what for reasons, what in rows}
    return {reasons: what for reasons, what in named.items() if {*reasons} <= {*Reason}}


def test_remedies_name_the_fields_that_the_documentation_names() -> None:
    documented = rows_of_readiness()
    assert {reason for reasons in documented for reason in reasons} == {*Reason} - {Reason.PASSED}
    for reasons, what in documented.items():
        said = " ".join(remedies.VERDICTS[reason] for reason in reasons)
        assert [field for field in re.findall(r"`((?:engine|readiness)\.[\w.]+)", what) if field not in said] == []


@pytest.mark.parametrize("reason", [*Reason, *CONDITION_REASONS, *remedies.KUBERNETES, "SomethingNew"])
def test_a_remedy_has_no_placeholder_left(reason: str) -> None:
    text = remedies.remedy(reason, "", name="flash", namespace="team")
    assert text
    assert "NAME" not in text


@pytest.mark.parametrize(
    ("message", "step"),
    [
        ('0/1 nodes are available: persistentvolumeclaim "m" not found', "create the claim"),
        ("0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims", "has no volume yet"),
        (
            "0/2 nodes are available: 1 Insufficient nvidia.com/gpu, 1 node(s) had untolerated taint {x: y}",
            "free a pair",
        ),
        ("0/1 nodes are available: 1 node(s) had untolerated taint {gpu: only}", "tolerate"),
        ("0/1 nodes are available: 1 node(s) had volume node affinity conflict", "both can reach"),
        ("0/1 nodes are available: something new", "scheduler's"),
    ],
)
def test_what_the_scheduler_says_decides_the_step(message: str, step: str) -> None:
    assert step in remedies.remedy("Unschedulable", message, name="flash", namespace="team")


def explained(**status: Any) -> Explanation:
    return explain(Facts(flash={**a_flash_object(), "status": status}, now=LATER, leases=(LEASE,)))


def a_condition(name: str, status: str, reason: str) -> dict[str, str]:
    return {
        "type": name,
        "status": status,
        "reason": reason,
        "message": "m",
        "lastTransitionTime": "2026-11-24T12:00:00Z",
    }


def test_a_deployment_that_nobody_has_seen_says_so() -> None:
    found = explain(Facts(flash=a_flash_object(), now=LATER, leases=()))
    assert found.operator.state == "Absent"
    assert found.ready == "Unknown"
    assert found.next[0].do.startswith("install the operator's chart")


def test_fields_that_the_plugin_does_not_know_are_no_obstacle() -> None:
    conditions = [
        a_condition("Ready", "False", "BrandNewReason"),
        a_condition("Sparkling", "False", "Flat"),
        {"type": "X"},
    ]
    found = explained(
        conditions=conditions, pods=[{"name": "p", "reason": "BrandNewReason", "colour": {"a": 1}}], novel=3
    )
    assert [finding.reason for finding in found.findings] == ["SpecNotSeen", "BrandNewReason"]
    assert remedies.AS_THE_MESSAGE_SAYS in found.next[1].do


def test_a_status_of_an_older_operator_is_no_obstacle() -> None:
    old = {
        "conditions": [{"type": "Ready", "status": "True", "reason": "Passed"}],
        "observedGeneration": 1,
        "pods": None,
    }
    found = explained(**old)
    assert (found.ready, found.findings, found.next) == ("True", [], [])


def test_a_stale_status_is_not_repeated_while_the_operator_is_down() -> None:
    found = explanations()["The operator is down"]
    assert found.ready == "Unknown"
    assert "DraftDead" not in rendered(found)
    assert found.replicas[0].reason == "NotReady"
    assert found.flags[0].row == "T3"


def test_an_operator_whose_clock_is_a_little_behind_is_not_down() -> None:
    behind = {**LEASE, "spec": {**LEASE["spec"], "renewTime": "2026-11-24T12:11:20Z"}}
    found = explain(replace(one_pod(a_gate(), ready=True), leases=(behind,)))
    assert found.operator.state == "Leads"


def test_a_released_lease_means_down() -> None:
    released = {**LEASE, "spec": {**LEASE["spec"], "holderIdentity": ""}}
    found = explain(replace(one_pod(a_gate(), ready=True), leases=(released,)))
    assert found.operator.state == "Down"
    assert "nobody has held" in found.operator.message


def test_a_lease_that_may_not_be_read_leaves_the_status_in_force() -> None:
    found = explain(replace(one_pod(a_gate(), ready=True), leases="you may not list leases in all namespaces"))
    assert (found.ready, found.operator.state) == ("True", "Unknown")
    assert "you may not list leases" in rendered(found)


def test_a_second_replica_that_fails_for_another_reason_gets_its_step() -> None:
    facts = one_pod(a_gate("DraftDead", "m"))
    other = {"name": "flash-b", "uid": "b", "reason": "TooSlow", "message": "decode 41"}
    facts.flash["status"]["pods"].append(other)
    assert [step.reason for step in explain(facts).next] == ["DraftDead", "TooSlow"]


def test_labels_that_changed_under_an_engine_are_shown() -> None:
    facts = one_pod(a_gate(), ready=True)
    found = explain(replace(facts, nodes=(a_node(gpu_link="phb", gpu_p2p="hang"),)))
    assert found.flags[0].row == "T3"
    assert str(found.flags[0].now_called_for).startswith("T7:")


def test_a_log_in_a_message_does_not_fill_the_screen() -> None:
    found = explain(one_pod(a_gate("EngineExited", "line\n" * 800)))
    assert len(rendered(found).splitlines()) <= 2 * ONE_SCREEN
    assert "all of it: -o json" in rendered(found)


def test_markup_in_a_message_is_text() -> None:
    found = explain(one_pod(a_gate("EngineExited", "[bold]ValueError[/bold] [/nonsense]")))
    assert "[bold]ValueError[/bold] [/nonsense]" in rendered(found)


def test_no_more_steps_than_a_person_reads() -> None:
    conditions = [
        a_condition("Ready", "False", "TooSlow"), a_condition("TopologyResolved", "False", "NodeUnlabelled"),
        a_condition("Degraded", "True", "RevisionMoved"), a_condition("ScalingActive", "False", "KedaMissing"),
        a_condition("UpdateAvailable", "True", "UpdateRejected"), a_condition("SpecValid", "False", "SpecRefused"),
        a_condition("SpeculationActive", "False", "SpeculationAbsent"),
    ]  # fmt: skip
    found = explained(conditions=conditions, observedGeneration=1)
    assert len(found.next) == MAX_STEPS
    assert found.next[0].reason == "SpecRefused"


def test_a_pod_of_a_hostile_shape_is_no_obstacle() -> None:
    pod = a_pod()
    pod["status"] = {"containerStatuses": [{"name": "engine", "state": {"waiting": {}}}, {"name": "engine"}]}
    pod["metadata"]["annotations"] = {"deepseekflash.dev/engine-flags": "{not json"}
    found = explain(replace(one_pod(a_gate()), pods=(pod,), leases=()))
    assert found.replicas[0].ready is False
    assert found.flags == []
