"""An engine that recovered from a hang: the labels of its node, its status and its events."""

import json
from dataclasses import replace
from typing import Any

import pytest

from builders import a_flash, a_gate, a_live_deployment, a_node, a_pod, an_observed, condition
from flash_contracts.names import (
    ENGINE_FLAGS_ANNOTATION,
    FORMER_P2P_TESTED_BY_LABEL,
    P2P_CARDS_LABEL,
    P2P_CLAIMS_ANNOTATION,
    P2P_DRIVER_LABEL,
    P2P_LABEL,
    P2P_TESTED_BY_LABEL,
)
from flash_contracts.node_facts import NodeFacts
from flash_contracts.p2p_claims import Claim, claims_text, parse_claims
from flash_contracts.p2p_report import P2pReport
from flash_operator.core.observed.snapshot import Observed
from flash_operator.core.p2p_test.node_verdict import NodeClaim, NodeVerdict, from_p2p_test
from flash_operator.core.p2p_test.planner import reason_not_to_test, verdict_event
from flash_operator.core.plan import plan

INCIDENT = {
    "kind": "hang",
    "signature": "S2",
    "detail": "no progress for 90 s",
    "at": "2026-11-24T11:59:00Z",
    "row": "T3",
}
SAFE = {"origin": "recovery", "flags": {"row": "T8", "args": [], "env": []}}


ANOTHERS = Claim("rival/another", "hang", "595.84", "3fa9c21b07")


def recovered(
    reason: str = "Passed",
    incident: dict[str, str] | None = None,
    claims: tuple[Claim, ...] = (ANOTHERS,),
    *,
    proven: bool = True,
    **labels: str,
) -> Observed:
    engine = {"incident": incident or INCIDENT}
    gate = a_gate(reason, "a sentence", engine=engine, effective=SAFE, incidentProven=proven)
    known = {"gpu_link": "phb", "gpu_p2p": "verified", "gpu_driver": "595.84", "gpu_cards": "3fa9c21b07", **labels}
    flash = a_flash()
    node = a_node(**known)
    node["metadata"]["annotations"] = {P2P_CLAIMS_ANNOTATION: claims_text(claims)}
    return an_observed(
        flash,
        pods=(a_pod(ready=reason == "Passed"),),
        nodes=(node,),
        gates={"flash-a": gate},
        children=(a_live_deployment(flash),),
    )


def pod_status(observed: Observed) -> dict[str, Any]:
    status = plan(observed).status
    assert status is not None
    (pod,) = status["pods"]
    return dict(pod)


def test_the_claim_of_one_deployment_does_not_label_the_node() -> None:
    """Its engines run in its tenant's pods, which may report anything."""
    for known in ((), (Claim("team/flash", "hang", "595.84", "3fa9c21b07"),)):
        (claim,) = plan(recovered(claims=known)).verdicts
        assert list(claim.patch()["metadata"]) == ["annotations"]
        text = claim.patch()["metadata"]["annotations"][P2P_CLAIMS_ANNOTATION]
        assert parse_claims(text) == (Claim("team/flash", "hang", "595.84", "3fa9c21b07"),)
        assert "the links are tested again when both GPUs are free" in claim.message


def test_an_old_claim_under_another_driver_does_not_count() -> None:
    old = replace(ANOTHERS, driver="595.71.05")
    (claim,) = plan(recovered(claims=(old,))).verdicts
    assert isinstance(claim, NodeClaim)


@pytest.mark.parametrize("unread", [{"gpu_driver": "unknown"}, {"gpu_cards": "unknown"}])
def test_a_claim_is_kept_while_driver_or_cards_cannot_be_read(unread: dict[str, Any]) -> None:
    """A card that is lost for a minute does not disprove earlier claims."""
    (verdict,) = plan(recovered("Passed", None, (ANOTHERS,), proven=True, **unread)).verdicts
    assert isinstance(verdict, NodeVerdict), "with the earlier claim it is the second deployment that says so"
    labels = verdict.patch()["metadata"]["labels"]
    assert "unknown" not in (labels[P2P_DRIVER_LABEL], labels[P2P_CARDS_LABEL])


def row_of_the_next_pod(deployment: str, *claims: Claim) -> str:
    node = a_node(gpu_link="phb", gpu_p2p="verified", gpu_driver="595.84", gpu_cards="3fa9c21b07")
    node["metadata"]["annotations"] = {P2P_CLAIMS_ANNOTATION: claims_text(claims)}
    wanted = plan(an_observed(a_flash(deployment), pods=(a_pod(),), nodes=(node,)))
    (annotation,) = wanted.annotate
    row: str = json.loads(str(annotation.annotations[ENGINE_FLAGS_ANNOTATION]))["row"]
    return row


def test_a_claim_gives_safe_flags_to_its_own_deployment_only() -> None:
    mine = replace(ANOTHERS, deployment="team/flash")
    assert row_of_the_next_pod("flash", mine) == "T7"
    assert row_of_the_next_pod("other", mine) == "T3"
    assert row_of_the_next_pod("flash", replace(mine, driver="595.71.05")) == "T3"


def test_a_claim_is_tested_when_the_gpus_are_free_and_goes_with_the_result() -> None:
    node = recovered().nodes["node-1"]
    assert reason_not_to_test(NodeFacts.from_node(node)) is None
    verdict = from_p2p_test(NodeFacts.from_node(node), P2pReport.of_text('{"version": 1, "verdict": "healthy"}'), "{}")
    assert verdict is not None
    assert verdict.patch()["metadata"]["annotations"][P2P_CLAIMS_ANNOTATION] is None


def test_many_deployments_of_one_namespace_are_one_tenant() -> None:
    known = tuple(replace(ANOTHERS, deployment=f"team/another-{n}") for n in range(3))
    (claim,) = plan(recovered(claims=known)).verdicts
    assert isinstance(claim, NodeClaim)
    text = claim.patch()["metadata"]["annotations"][P2P_CLAIMS_ANNOTATION]
    assert [kept.deployment for kept in parse_claims(text)] == [*(c.deployment for c in known), "team/flash"]


@pytest.mark.parametrize("namespace", ["tea", "team-2", ""])
def test_a_namespace_is_compared_whole(namespace: str) -> None:
    (verdict,) = plan(recovered(claims=(replace(ANOTHERS, deployment=f"{namespace}/flash"),))).verdicts
    assert isinstance(verdict, NodeVerdict)


def test_the_node_is_labelled_once_a_second_tenant_says_the_same() -> None:
    (verdict,) = plan(recovered()).verdicts
    assert isinstance(verdict, NodeVerdict)
    assert verdict.patch()["metadata"]["labels"] == {
        P2P_LABEL: "hang",
        P2P_DRIVER_LABEL: "595.84",
        P2P_CARDS_LABEL: "3fa9c21b07",
        P2P_TESTED_BY_LABEL: "engine",
        FORMER_P2P_TESTED_BY_LABEL: None,
    }
    assert "no progress for 90 s" in verdict.message
    assert "boot with iommu=off" in verdict_event(verdict).note


def test_corrupt_data_is_a_verdict_of_its_own() -> None:
    (verdict,) = plan(recovered(incident={**INCIDENT, "kind": "corrupt", "signature": "S4"})).verdicts
    assert isinstance(verdict, NodeVerdict)
    assert verdict.p2p == "corrupt"


def test_slow_but_correct_answers_are_proof_too() -> None:
    assert plan(recovered("TooSlow")).verdicts


def test_an_engine_that_is_no_better_without_peer_to_peer_proves_nothing() -> None:
    observed = recovered("EngineStarting", proven=False)
    assert plan(observed).verdicts == ()
    assert pod_status(observed)["incidentVerdict"] == "Pending"


def test_an_engine_that_answers_is_no_proof_without_its_gates_word() -> None:
    """The expected answer may have changed, or the kernels may be compiled by now."""
    assert plan(recovered(proven=False)).verdicts == ()


def test_an_engine_that_runs_with_its_fast_flags_again_proves_nothing_either() -> None:
    """The measurement is of the effective flags, whatever happened before."""
    observed = recovered()
    gate = a_gate(engine={"incident": INCIDENT}, effective={**SAFE, "origin": "annotation"}, incidentProven=True)
    assert plan(replace(observed, gates={"uid-of-flash-a": gate})).verdicts == ()


def test_unmanaged_labels_are_left_alone() -> None:
    assert plan(recovered(labels_managed="false")).verdicts == ()


def test_an_old_incident_does_not_label_the_node_again_after_the_host_was_repaired() -> None:
    first = recovered()
    status = plan(first).status
    assert status is not None
    repaired = replace(first, live_status=status)
    assert plan(repaired).verdicts == ()
    assert pod_status(replace(repaired, live_status={**status, "observedGeneration": 0}))["incidentVerdict"] == "Noted"


def test_status_and_an_event_report_the_incident() -> None:
    wanted = plan(recovered())
    assert pod_status(recovered())["incident"].startswith("hang under row T3 at 2026-11-24T11:59:00Z (S2)")
    assert pod_status(recovered())["flagsOrigin"] == "recovery"
    assert [event.type for event in wanted.events if event.reason == "EngineRecovered"] == ["Warning"]


def test_flags_of_a_recovery_are_not_outdated() -> None:
    assert pod_status(recovered())["flagsOutdated"] == "Current"


def test_a_recovered_replica_below_its_floor_is_degraded_and_one_above_it_is_not() -> None:
    slow = condition(plan(recovered("TooSlow")).status, "Degraded")
    assert (slow["status"], slow["reason"]) == ("True", "RecoveredSlower")
    assert "no progress for 90 s" in slow["message"]
    assert condition(plan(recovered()).status, "Degraded")["status"] == "False"


def test_an_engine_without_incidents_labels_nothing() -> None:
    observed = recovered()
    healthy = replace(observed, gates={"uid-of-flash-a": a_gate()})
    assert plan(healthy).verdicts == ()
    assert "incident" not in pod_status(healthy)
