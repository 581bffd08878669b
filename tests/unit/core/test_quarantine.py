"""Who is taken out of service: never the last one, never more than allowed, and whoever is well comes back."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import a_flash, a_gate, a_live_deployment, a_node, a_pod, an_observed, condition
from flash_contracts.gate_result import GateResult
from flash_contracts.names import QUARANTINE_ANNOTATION
from flash_operator.api.v1alpha1 import ServingSpec
from flash_operator.core.observed.snapshot import Observed, RawObject
from flash_operator.core.plan import plan
from flash_operator.core.replicas.quarantine import quarantine_changes
from flash_operator.core.replicas.replica import Replica

WISH = "2026-11-24T12:00:00.000Z"


def degraded(since: str = WISH, *, measured: bool = True, **extra: Any) -> GateResult:
    serving = {"degraded": {"message": "slow", "since": since, "measured": measured}}
    return a_gate("Degraded", "TooSlow: decode 30 tok/s", serving=serving, **extra)


def a_replica(
    name: str, gate: GateResult | None, *, ready: bool = True, granted: str | None = None, answers: bool = True
) -> Replica:
    pod = a_pod(name, ready=ready)
    if granted:
        pod["metadata"]["annotations"][QUARANTINE_ANNOTATION] = granted
    result = gate if answers else GateResult.unreachable("no answer in time")
    return Replica(pod=pod, node=None, derived=None, gate=result)


WELL = a_gate()
CASES: dict[str, tuple[tuple[Replica, ...], dict[str, Any], dict[str, str | None]]] = {
    "nobody wishes anything": ((a_replica("a", WELL), a_replica("b", WELL)), {}, {}),
    "one is slow beside one that is well": (
        (a_replica("a", degraded()), a_replica("b", WELL)), {}, {"uid-of-a": WISH}),
    "the only one stays": ((a_replica("a", degraded()),), {}, {}),
    "the last ready one stays": (
        (a_replica("a", degraded()), a_replica("b", a_gate("EngineStarting"), ready=False)), {}, {}),
    "both are slow: one of them stays": (
        (a_replica("a", degraded()), a_replica("b", degraded("later"))), {}, {"uid-of-a": WISH}),
    "two of three are slow, and one may go at once": (
        (a_replica("a", degraded()), a_replica("b", degraded()), a_replica("c", WELL)), {}, {"uid-of-a": WISH}),
    "two of three are slow, and two may go": (
        (a_replica("a", degraded()), a_replica("b", degraded()), a_replica("c", WELL)),
        {"maxQuarantined": 2}, {"uid-of-a": WISH, "uid-of-b": WISH}),
    "one is out, and another waits, though two are ready besides": (
        (a_replica("a", degraded(), ready=False, granted=WISH), a_replica("b", degraded()), a_replica("c", WELL)),
        {}, {}),
    "one was granted and the kubelet has not seen it yet: it counts as gone": (
        (a_replica("a", degraded(), granted=WISH), a_replica("b", degraded())), {"maxQuarantined": 2}, {}),
    "one that is well again gives its place back": (
        (a_replica("a", WELL, granted=WISH), a_replica("b", WELL)), {}, {"uid-of-a": None}),
    "a grant of an earlier wish is taken back before it could take out anybody": (
        (a_replica("a", degraded("later"), granted=WISH),), {}, {"uid-of-a": None}),
    "a gate that does not answer keeps what it was granted": (
        (a_replica("a", None, ready=False, granted=WISH, answers=False), a_replica("b", WELL)), {}, {}),
    "one that was measured goes before one that traffic accuses": (
        (a_replica("a", degraded(measured=False)), a_replica("b", degraded()), a_replica("c", WELL)),
        {}, {"uid-of-b": WISH}),
    "nobody goes where it is only to be reported": (
        (a_replica("a", degraded()), a_replica("b", WELL)), {"onDegraded": "Report"}, {}),
    "who was out comes back where it is only to be reported": (
        (a_replica("a", degraded(), ready=False, granted=WISH),), {"onDegraded": "Report"}, {"uid-of-a": None}),
}  # fmt: skip


@pytest.mark.parametrize(("replicas", "serving", "changes"), CASES.values(), ids=CASES.keys())
def test_what_is_granted(
    replicas: tuple[Replica, ...], serving: dict[str, Any], changes: dict[str, str | None]
) -> None:
    assert quarantine_changes(replicas, ServingSpec.model_validate(serving)) == changes


fates = st.tuples(st.booleans(), st.booleans(), st.sampled_from([None, WISH, "earlier"]))


@given(st.lists(fates, max_size=8), st.integers(min_value=1, max_value=5))
def test_whatever_happens_one_stays_in_service_and_the_budget_holds(
    drawn: list[tuple[bool, bool, str | None]], most: int
) -> None:
    replicas = [
        a_replica(f"r{number}", degraded() if is_slow else WELL, ready=ready, granted=granted)
        for number, (is_slow, ready, granted) in enumerate(drawn)
    ]
    changes = quarantine_changes(replicas, ServingSpec(max_quarantined=most))

    new = [uid for uid, wish in changes.items() if wish]
    after = {replica.uid: changes.get(replica.uid, replica.granted) for replica in replicas}
    if new:
        assert sum(bool(wish) for wish in after.values()) <= most
        assert any(replica.ready and not after[replica.uid] for replica in replicas)
    assert all(after[replica.uid] in (None, replica.wish) for replica in replicas), "no stale grant is left"


def a_fleet(*gates: GateResult, live_status: RawObject | None = None) -> Observed:
    flash = a_flash(replicas=len(gates))
    names = [f"flash-{letter}" for letter in "abc"[: len(gates)]]
    return an_observed(
        flash,
        pods=tuple(a_pod(name, ready=True) for name in names),
        nodes=(a_node(),),
        gates=dict(zip(names, gates, strict=True)),
        children=(a_live_deployment(flash),),
        live_status=live_status,
    )


def test_a_slow_replica_is_told_of_and_taken_out() -> None:
    wanted = plan(a_fleet(degraded(), WELL))
    assert {a.name: a.annotations.get(QUARANTINE_ANNOTATION) for a in wanted.annotate}["flash-a"] == WISH
    found = condition(wanted.status, "Degraded")
    assert (found["status"], found["reason"]) == ("True", "Degraded")
    assert "flash-a: TooSlow: decode 30 tok/s" in found["message"]


def test_one_that_waits_is_told_of_as_such() -> None:
    wanted = plan(a_fleet(degraded()))
    assert wanted.status is not None
    assert wanted.status["pods"][0]["quarantine"] == "Waiting"
    assert condition(wanted.status, "Ready")["status"] == "True", "slow is better than nothing"
    assert "QuarantineWaits" in [event.reason for event in wanted.events]


def test_a_slow_replica_whose_gate_misses_one_question_is_remembered_as_slow() -> None:
    first = plan(a_fleet(degraded(), WELL)).status
    silent = a_fleet(GateResult.unreachable("no answer in time"), WELL, live_status=first)
    again = plan(silent)
    told = again.status or silent.live_status
    assert told["pods"][0]["reason"] == "Degraded"
    assert condition(told, "Degraded")["reason"] == "Degraded"
    assert [event.reason for event in again.events] == []
