"""An engine that recovered from a hang by itself: what its node, its status and its owner are told."""

from dataclasses import replace
from typing import Any

from builders import a_flash, a_gate, a_live_deployment, a_node, a_pod, an_observed, condition
from flash_contracts.names import P2P_CARDS_LABEL, P2P_DRIVER_LABEL, P2P_LABEL, P2P_TESTED_BY_LABEL
from flash_operator.core.observed.snapshot import Observed
from flash_operator.core.plan import plan

INCIDENT = {
    "kind": "hang",
    "signature": "S2",
    "detail": "no progress for 90 s",
    "at": "2026-11-24T11:59:00Z",
    "row": "T3",
}
SAFE = {"origin": "recovery", "flags": {"row": "T8", "args": [], "env": []}}


def recovered(reason: str = "Passed", incident: dict[str, str] | None = None, **labels: str) -> Observed:
    gate = a_gate(reason, "a sentence", engine={"incident": incident or INCIDENT}, effective=SAFE)
    known = {"gpu_link": "phb", "gpu_p2p": "verified", "gpu_driver": "595.84", "gpu_cards": "3fa9c21b07", **labels}
    flash = a_flash()
    return an_observed(
        flash,
        pods=(a_pod(ready=reason == "Passed"),),
        nodes=(a_node(**known),),
        gates={"flash-a": gate},
        children=(a_live_deployment(flash),),
    )


def pod_status(observed: Observed) -> dict[str, Any]:
    status = plan(observed).status
    assert status is not None
    (pod,) = status["pods"]
    return dict(pod)


def test_its_node_gets_the_verdict_once_the_engine_answers_right_without_peer_to_peer() -> None:
    (verdict,) = plan(recovered()).verdicts
    assert verdict.patch()["metadata"]["labels"] == {
        P2P_LABEL: "hang",
        P2P_DRIVER_LABEL: "595.84",
        P2P_CARDS_LABEL: "3fa9c21b07",
        P2P_TESTED_BY_LABEL: "engine",
    }
    assert "no progress for 90 s" in verdict.told
    assert "mend the host" in verdict.told


def test_wrong_data_is_another_verdict() -> None:
    (verdict,) = plan(recovered(incident={**INCIDENT, "kind": "corrupt", "signature": "S4"})).verdicts
    assert verdict.p2p == "corrupt"


def test_slow_but_right_is_proof_too() -> None:
    assert plan(recovered("TooSlow")).verdicts


def test_an_engine_that_is_no_better_without_peer_to_peer_says_nothing_about_the_links() -> None:
    assert plan(recovered("EngineStarting")).verdicts == ()
    assert pod_status(recovered("EngineStarting"))["incidentVerdict"] == "Pending"


def test_an_engine_that_runs_with_its_fast_flags_again_says_nothing_either() -> None:
    """The flags in force are what was measured, whatever was lived through before."""
    observed = recovered()
    gate = a_gate(engine={"incident": INCIDENT}, effective={**SAFE, "origin": "annotation"})
    assert plan(replace(observed, gates={"uid-of-flash-a": gate})).verdicts == ()


def test_labels_kept_by_hand_stay() -> None:
    assert plan(recovered(labels_managed="false")).verdicts == ()


def test_the_same_incident_does_not_come_back_after_the_host_was_mended() -> None:
    first = recovered()
    told = plan(first).status
    assert told is not None
    mended = replace(first, live_status=told)
    assert plan(mended).verdicts == ()
    assert pod_status(replace(mended, live_status={**told, "observedGeneration": 0}))["incidentVerdict"] == "Noted"


def test_status_and_an_event_tell_the_story() -> None:
    wanted = plan(recovered())
    assert pod_status(recovered())["incident"].startswith("hang under row T3 at 2026-11-24T11:59:00Z (S2)")
    assert pod_status(recovered())["flagsOrigin"] == "recovery"
    assert [event.type for event in wanted.events if event.reason == "EngineRecovered"] == ["Warning"]


def test_flags_of_a_recovery_are_not_called_outdated() -> None:
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
