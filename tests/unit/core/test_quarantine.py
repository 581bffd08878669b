"""Quarantine: never the last ready replica, never more than allowed, and recovered replicas return to service."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import a_flash, a_gate, a_live_deployment, a_node, a_pod, an_observed, condition
from flash_contracts.gate_result import GateResult
from flash_contracts.names import QUARANTINE_ANNOTATION
from flash_contracts.orders import ordered_quarantine
from flash_operator.api.v1alpha1 import ServingSpec
from flash_operator.core.observed.snapshot import Observed, RawObject
from flash_operator.core.plan import plan
from flash_operator.core.replicas.quarantine import quarantine_changes
from flash_operator.core.replicas.replica import Replica

REQUEST = "2026-11-24T12:00:00.000Z"
ORDERED = ordered_quarantine("2026-11-24T12:00:00Z")


def degraded(since: str = REQUEST, *, measured: bool = True, **extra: Any) -> GateResult:
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
    "no replica is slow": ((a_replica("a", WELL), a_replica("b", WELL)), {}, {}),
    "one of two is slow": (
        (a_replica("a", degraded()), a_replica("b", WELL)), {}, {"uid-of-a": REQUEST}),
    "the only replica is slow": ((a_replica("a", degraded()),), {}, {}),
    "the last ready replica is slow": (
        (a_replica("a", degraded()), a_replica("b", a_gate("EngineStarting"), ready=False)), {}, {}),
    "both are slow: one stays in service": (
        (a_replica("a", degraded()), a_replica("b", degraded("later"))), {}, {"uid-of-a": REQUEST}),
    "two of three are slow, the limit is one": (
        (a_replica("a", degraded()), a_replica("b", degraded()), a_replica("c", WELL)), {}, {"uid-of-a": REQUEST}),
    "two of three are slow, the limit is two": (
        (a_replica("a", degraded()), a_replica("b", degraded()), a_replica("c", WELL)),
        {"maxQuarantined": 2}, {"uid-of-a": REQUEST, "uid-of-b": REQUEST}),
    "one is quarantined, the limit is one: another waits although two are ready": (
        (a_replica("a", degraded(), ready=False, granted=REQUEST), a_replica("b", degraded()), a_replica("c", WELL)),
        {}, {}),
    "one has a grant but is still ready: it counts as out of service": (
        (a_replica("a", degraded(), granted=REQUEST), a_replica("b", degraded())), {"maxQuarantined": 2}, {}),
    "one has recovered: its grant is withdrawn": (
        (a_replica("a", WELL, granted=REQUEST), a_replica("b", WELL)), {}, {"uid-of-a": None}),
    "a grant for an earlier request is withdrawn": (
        (a_replica("a", degraded("later"), granted=REQUEST),), {}, {"uid-of-a": None}),
    "a gate does not answer: its grant stays": (
        (a_replica("a", None, ready=False, granted=REQUEST, answers=False), a_replica("b", WELL)), {}, {}),
    "the last ready replica is gone: the quarantined one serves again": (
        (a_replica("a", degraded(), ready=False, granted=REQUEST), a_replica("b", a_gate("EngineExited"), ready=False)),
        {}, {"uid-of-a": None}),
    "the last ready replica is gone: of two that are quarantined one serves again": (
        (a_replica("a", degraded(), ready=False, granted=REQUEST),
         a_replica("b", degraded(), ready=False, granted=REQUEST)),
        {"maxQuarantined": 2}, {"uid-of-a": None}),
    "one was measured, the other only looks slow from traffic: the measured one first": (
        (a_replica("a", degraded(measured=False)), a_replica("b", degraded()), a_replica("c", WELL)),
        {}, {"uid-of-b": REQUEST}),
    "onDegraded is Report: nothing is granted": (
        (a_replica("a", degraded()), a_replica("b", WELL)), {"onDegraded": "Report"}, {}),
    "onDegraded becomes Report: grants are withdrawn": (
        (a_replica("a", degraded(), ready=False, granted=REQUEST),), {"onDegraded": "Report"}, {"uid-of-a": None}),
    "a user took a slow one out: it is left alone, and takes no place": (
        (a_replica("a", degraded(), granted=ORDERED), a_replica("b", degraded()), a_replica("c", WELL)),
        {}, {"uid-of-b": REQUEST}),
    "a user took out the other one, which is still ready: the slow one stays": (
        (a_replica("a", WELL, granted=ORDERED), a_replica("b", degraded())), {}, {}),
    "a user took out the only one: it is not given back": (
        (a_replica("a", WELL, ready=False, granted=ORDERED),), {}, {}),
    "a user took out the last one: of two that are out, the operator's serves again": (
        (a_replica("a", WELL, ready=False, granted=ORDERED), a_replica("b", degraded(), ready=False, granted=REQUEST)),
        {}, {"uid-of-b": None}),
    "a user took one out, and onDegraded is Report": (
        (a_replica("a", WELL, ready=False, granted=ORDERED),), {"onDegraded": "Report"}, {}),
}  # fmt: skip


@pytest.mark.parametrize(("replicas", "serving", "changes"), CASES.values(), ids=CASES.keys())
def test_grants_where(replicas: tuple[Replica, ...], serving: dict[str, Any], changes: dict[str, str | None]) -> None:
    assert quarantine_changes(replicas, ServingSpec.model_validate(serving)) == changes


states = st.tuples(st.booleans(), st.booleans(), st.sampled_from([None, REQUEST, "earlier", ORDERED]))


@given(st.lists(states, max_size=8), st.integers(min_value=1, max_value=5))
def test_in_any_state_one_replica_stays_in_service_and_the_limit_holds(
    drawn: list[tuple[bool, bool, str | None]], most: int
) -> None:
    replicas = [
        a_replica(f"r{number}", degraded() if is_slow else WELL, ready=ready, granted=granted)
        for number, (is_slow, ready, granted) in enumerate(drawn)
    ]
    changes = quarantine_changes(replicas, ServingSpec(max_quarantined=most))

    new = [uid for uid, request in changes.items() if request]
    after = {replica.uid: changes.get(replica.uid, replica.quarantine_grant) for replica in replicas}
    if new:
        assert sum(bool(grant) for grant in after.values()) <= most
        assert any(replica.ready and not after[replica.uid] and not replica.ordered_out for replica in replicas)
    assert not [replica for replica in replicas if replica.ordered_out and replica.uid in changes]
    assert all(after[replica.uid] in (None, replica.quarantine_request) for replica in replicas), (
        "no stale grant is left"
    )


def a_deployment(*gates: GateResult, live_status: RawObject | None = None) -> Observed:
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


def test_a_slow_replica_is_reported_and_quarantined() -> None:
    wanted = plan(a_deployment(degraded(), WELL))
    assert {a.name: a.annotations.get(QUARANTINE_ANNOTATION) for a in wanted.annotate}["flash-a"] == REQUEST
    found = condition(wanted.status, "Degraded")
    assert (found["status"], found["reason"]) == ("True", "Degraded")
    assert "flash-a: TooSlow: decode 30 tok/s" in found["message"]


def test_a_slow_replica_that_must_stay_is_reported_as_waiting() -> None:
    wanted = plan(a_deployment(degraded()))
    assert wanted.status is not None
    assert wanted.status["pods"][0]["quarantine"] == "Waiting"
    assert condition(wanted.status, "Ready")["status"] == "True", "a slow replica is better than none"
    assert "QuarantineWaits" in [event.reason for event in wanted.events]


def test_a_slow_replica_whose_gate_fails_to_answer_once_still_counts_as_slow() -> None:
    first = plan(a_deployment(degraded(), WELL)).status
    silent = a_deployment(GateResult.unreachable("no answer in time"), WELL, live_status=first)
    again = plan(silent)
    status = again.status or silent.live_status
    assert status["pods"][0]["reason"] == "Degraded"
    assert condition(status, "Degraded")["reason"] == "Degraded"
    assert [event.reason for event in again.events] == []
