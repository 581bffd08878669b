"""Demand in replicas: what counts, what is left out, and that unknown is never 0."""

from dataclasses import dataclass, field
from datetime import timedelta
from math import inf
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders import (
    NOON,
    a_flash,
    a_gate,
    a_live_deployment,
    a_load,
    a_node,
    a_pod,
    a_waiting_pod,
    an_observed,
    an_unschedulable_pod,
)
from flash_contracts.demand_report import DemandReport
from flash_contracts.gate_result import RequestLoad
from flash_contracts.names import QUARANTINE_ANNOTATION
from flash_operator.core.observed.known_load import LAST_KNOWN_SECONDS, KnownLoad
from flash_operator.core.observed.snapshot import Observed, RawObject
from flash_operator.core.plan import plan
from flash_operator.core.replicas.replica import replicas_of
from flash_operator.core.scaling.demand import NODE_TIME, DemandBasis, demand_basis

SCALING = {"maxReplicas": 5}
LOADING = a_pod("b")
"""Its gate says that the engine starts."""


def a_scaled(replicas: int = 1, **spec: Any) -> Any:
    """Four sequences at 75 %: three requests are one replica."""
    return a_flash(replicas=replicas, **{"scaling": SCALING, "engine": {"maxSequences": 4}, **spec})


def demand_of(observed: Observed) -> DemandReport:
    return demand_basis(observed, replicas_of(observed)).demand(observed.loads)


def serving(*names: str) -> tuple[RawObject, ...]:
    return tuple(a_pod(name, ready=True) for name in names)


def passed(*names: str) -> dict[str, Any]:
    return {name: a_gate() for name in names}


def quarantined(name: str) -> tuple[RawObject, Any]:
    pod = a_pod(name, ready=True)
    pod["metadata"]["annotations"][QUARANTINE_ANNOTATION] = "then"
    return pod, a_gate("Degraded", serving={"degraded": {"since": "then", "message": "slow"}})


@dataclass(frozen=True)
class Case:
    loads: dict[str, KnownLoad]
    demand: float | None
    target: float | None
    pods: tuple[RawObject, ...] = serving("a")
    gates: dict[str, Any] = field(default_factory=dict)
    wanted: int = 1
    loading: int = 0
    ready: int = 1
    unknown: int = 0


CASES = {
    "an idle replica": Case({"a": a_load()}, 0.0, 0.0),
    "running and waiting": Case({"a": a_load(4, 5)}, 3.0, 3.0),
    "a part of a replica": Case({"a": a_load(1)}, 0.333, 0.333),
    "the gate's own requests do not count": Case({"a": a_load(4, own=1)}, 1.0, 1.0),
    "nor do those that are gone": Case({"a": a_load(5, abandoned=2)}, 1.0, 1.0),
    "the last known, for a while": Case({"a": a_load(3, ago=LAST_KNOWN_SECONDS - 1)}, 1.0, 1.0),
    "no longer": Case({"a": a_load(3, ago=LAST_KNOWN_SECONDS)}, None, None, unknown=1),
    "a reading that the gate could not renew": Case({"a": a_load(3, age=LAST_KNOWN_SECONDS)}, None, None, unknown=1),
    "a gate that reports no requests": Case({}, None, None, unknown=1),
    "two replicas": Case({"a": a_load(3), "b": a_load(6)}, 3.0, 3.0, serving("a", "b"), wanted=2, ready=2),
    "one of two is unknown, and the other is idle": Case(
        {"a": a_load()}, 0.0, 2.0, serving("a", "b"), wanted=2, ready=2, unknown=1
    ),
    "one of two is unknown, and the other calls for more": Case(
        {"a": a_load(9)}, 3.0, 3.0, serving("a", "b"), wanted=2, ready=2, unknown=1
    ),
    "one loads: no fewer": Case({"a": a_load()}, 0.0, 2.0, (*serving("a"), LOADING), wanted=2, loading=1),
    "one loads: no more either": Case({"a": a_load(9)}, 3.0, 2.0, (*serving("a"), LOADING), wanted=2, loading=1),
    "one loads, and that is not enough": Case(
        {"a": a_load(15)}, 5.0, 4.0, (*serving("a"), LOADING), wanted=2, loading=1
    ),
    "only loading ones": Case({}, None, 1.0, (LOADING,), loading=1, ready=0),
    "pods that are about to be made": Case({"a": a_load()}, 0.0, 3.0, serving("a"), wanted=3, loading=2),
    "nothing at all": Case({}, None, None, (), wanted=0, ready=0),
    "the load of a pod that is gone": Case({"a": a_load(3), "gone": a_load(99)}, 1.0, 1.0),
    "one failed": Case(
        {"a": a_load(), "b": a_load(9)}, 0.0, 0.0, (*serving("a"), a_pod("b")), {"b": a_gate("TooSlow")}, wanted=2
    ),
    "one is quarantined": Case(
        {"a": a_load(3), "b": a_load(9)},
        1.0,
        1.0,
        (*serving("a"), quarantined("b")[0]),
        {"b": quarantined("b")[1]},
        wanted=2,
    ),
    "only failed ones: nothing is known": Case({}, None, None, (a_pod("a"),), {"a": a_gate("TooSlow")}, ready=0),
    "one whose image is missing does not load": Case(
        {"a": a_load()}, 0.0, 0.0, (*serving("a"), a_waiting_pod("ErrImagePull", "no", name="b")), wanted=2
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_demand(case: Case) -> None:
    flash = a_scaled(case.wanted)
    observed = an_observed(
        flash,
        pods=case.pods,
        nodes=(a_node(),),
        gates=passed("a") | {"b": a_gate("EngineStarting", "loads")} | case.gates,
        loads=case.loads,
    )
    report = demand_of(observed)
    assert (report.demand_replicas, report.target_replicas) == (case.demand, case.target)
    assert (report.wanted, report.loading, report.ready, report.unknown) == (
        case.wanted,
        case.loading,
        case.ready,
        case.unknown,
    )


@pytest.mark.parametrize(("age", "loading"), [(timedelta(minutes=1), 1), (NODE_TIME, 0)], ids=["young", "old"])
def test_a_pod_without_a_node_loads_while_one_may_come(age: timedelta, loading: int) -> None:
    pod = an_unschedulable_pod("b")
    pod["metadata"]["creationTimestamp"] = (NOON - age).isoformat()
    observed = an_observed(a_scaled(2), pods=(*serving("a"), pod), gates=passed("a"), loads={"a": a_load()})
    assert demand_of(observed).loading == loading


def test_pods_that_a_quota_refuses_are_not_about_to_be_made() -> None:
    flash = a_scaled(3)
    live = a_live_deployment(flash)
    live["status"]["conditions"] = [{"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate"}]
    observed = an_observed(flash, pods=serving("a"), gates=passed("a"), loads={"a": a_load()}, children=(live,))
    assert demand_of(observed).target_replicas == 0.0


@pytest.mark.parametrize(
    ("spec", "sequences", "percent"),
    [
        ({"scaling": {"maxReplicas": 2, "targetPercent": 50}, "engine": {"profile": "Throughput"}}, 8, 50),
        ({"engine": {"profile": "Balanced"}}, 4, 75),
    ],
    ids=["by the profile", "without scaling"],
)
def test_capacity_of_a_replica(spec: dict[str, Any], sequences: int, percent: int) -> None:
    observed = an_observed(a_flash(**spec))
    basis = demand_basis(observed, ())
    assert (basis.sequences, basis.target_percent) == (sequences, percent)


LOADS = st.builds(
    KnownLoad,
    st.builds(
        RequestLoad,
        running=st.integers(0, 300),
        waiting=st.integers(0, 300),
        own=st.integers(0, 5),
        age_seconds=st.floats(0, 200),
    ),
    st.floats(0, 200) | st.just(inf),
)
UIDS = [f"uid-{number}" for number in range(6)]
BASES = st.builds(
    DemandBasis,
    namespace=st.just("team"),
    name=st.just("flash"),
    wanted=st.integers(0, 64),
    loading=st.integers(0, 64),
    ready=st.lists(st.sampled_from(UIDS), unique=True).map(tuple),
    sequences=st.integers(1, 256),
    target_percent=st.integers(1, 100),
)


@settings(max_examples=50, deadline=None)
@given(BASES, st.dictionaries(st.sampled_from(UIDS), LOADS))
def test_nothing_unknown_lets_a_replica_go(basis: DemandBasis, loads: dict[str, KnownLoad]) -> None:
    report = basis.demand(loads)
    is_known = all(uid in loads and loads[uid].requests is not None for uid in basis.ready)
    if not is_known or not basis.ready or basis.loading:
        assert report.target_replicas is None or report.target_replicas >= basis.wanted
    if report.target_replicas is None:
        assert not basis.loading
    assert (report.demand_replicas is None) == (report.unknown == report.ready)


@settings(max_examples=50, deadline=None)
@given(BASES, st.dictionaries(st.sampled_from(UIDS), LOADS), st.sampled_from(UIDS), st.integers(1, 50))
def test_more_requests_never_call_for_less(
    basis: DemandBasis, loads: dict[str, KnownLoad], uid: str, more: int
) -> None:
    load = loads.get(uid, a_load())
    raised = KnownLoad(RequestLoad(load.load.running + more, load.load.waiting, load.load.own), load.received_ago)
    before, after = basis.demand({**loads, uid: load}), basis.demand({**loads, uid: raised})
    if before.target_replicas is not None and after.target_replicas is not None:
        assert after.target_replicas >= before.target_replicas


@settings(max_examples=50, deadline=None)
@given(BASES, st.dictionaries(st.sampled_from(UIDS), LOADS))
def test_a_report_survives_the_way_to_its_reader(basis: DemandBasis, loads: dict[str, KnownLoad]) -> None:
    report = basis.demand(loads)
    assert DemandReport.parse(report.to_json()) == report


def test_demand_is_in_status_in_coarse_steps() -> None:
    observed = an_observed(a_scaled(), pods=serving("a"), gates=passed("a"), nodes=(a_node(),), loads={"a": a_load(4)})
    status = plan(observed).status
    assert status is not None
    assert status["demand"] == {"loadingReplicas": 0, "unknownReplicas": 0, "demandPercent": 130}


def test_unknown_demand_is_absent_from_status() -> None:
    status = plan(an_observed(a_scaled(), pods=serving("a"), gates=passed("a"), nodes=(a_node(),))).status
    assert status is not None
    assert status["demand"] == {"loadingReplicas": 0, "unknownReplicas": 1}


@pytest.mark.parametrize(("spec", "seconds"), [({"scaling": SCALING}, 5.0), ({}, 30.0)], ids=["scaled", "not scaled"])
def test_gates_are_asked_often_only_for_an_autoscaler(spec: dict[str, Any], seconds: float) -> None:
    flash = a_flash(**spec)
    observed = an_observed(
        flash, pods=serving("a"), gates=passed("a"), nodes=(a_node(),), children=(a_live_deployment(flash),)
    )
    assert plan(observed).poll_gates == seconds
