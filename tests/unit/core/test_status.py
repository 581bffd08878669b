"""Status and events: the figures a person sees, and the changes that are reported once."""

from dataclasses import replace

import pytest

from builders import a_flash, a_gate, a_live_deployment, a_node, a_pod, an_observed, an_unschedulable_pod
from flash_contracts.gate_result import GateResult
from flash_operator.core.observed.scalers import Scalers
from flash_operator.core.observed.snapshot import Observed, RawObject
from flash_operator.core.plan import plan
from flash_operator.core.status.status import CONDITION_SECONDS, FIGURE_SECONDS, status_interval

SAFE_ARGUMENT = {"value": "--disable-custom-all-reduce", "source": "fallback", "reason": "no labels"}


def serving(gate: GateResult, **labels: str) -> Observed:
    flash = a_flash()
    return an_observed(
        flash,
        pods=(a_pod(ready=True),),
        nodes=(a_node(**labels),),
        gates={"flash-a": gate},
        children=(a_live_deployment(flash),),
    )


def status_of(observed: Observed) -> RawObject:
    status = plan(observed).status
    assert status is not None
    return status


def test_the_columns_show_the_slowest_replica() -> None:
    fast, slow = a_gate(), a_gate(measurement={"decodeTokensPerSecond": 61.9, "acceptancePercent": 71.2})
    status = status_of(
        an_observed(
            a_flash(replicas=2),
            pods=(a_pod("flash-a", ready=True), a_pod("flash-b", ready=True)),
            nodes=(a_node(),),
            gates={"flash-a": fast, "flash-b": slow},
        )
    )

    assert {"replicas": "2/2", "decodeTokensPerSecond": 61, "acceptancePercent": 71}.items() <= status[
        "summary"
    ].items()


def test_the_columns_show_the_figures_of_a_failed_replica_while_none_passed() -> None:
    gate = a_gate("DraftDead", measurement={"decodeTokensPerSecond": 33.3, "acceptancePercent": 0.0})
    status = status_of(an_observed(pods=(a_pod(),), nodes=(a_node(),), gates={"flash-a": gate}))

    assert {"replicas": "0/1", "decodeTokensPerSecond": 33, "acceptancePercent": 0}.items() <= status["summary"].items()


def test_the_wide_columns_list_two_nodes_and_count_the_others() -> None:
    """Replicas of several nodes with different links, one of them with flags that its node no longer calls for."""
    effective = {"origin": "annotation", "flags": {"version": 1, "row": "T8", "args": [SAFE_ARGUMENT], "env": []}}
    gate = a_gate(effective=effective)
    pods = [a_pod(f"flash-{n}", node=f"node-{n}", ready=True) for n in "abcd"]
    links = {"a": {"gpu_link": "phb", "gpu_p2p": "verified"}, "b": {"gpu_link": "sys", "gpu_p2p": "granted"}}
    nodes = [a_node(f"node-{n}", **links.get(n, {})) for n in "abcd"]
    observed = an_observed(
        a_flash(replicas=4), pods=tuple(pods), nodes=tuple(nodes), gates={pod["metadata"]["name"]: gate for pod in pods}
    )
    summary = status_of(observed)["summary"]
    assert (summary["nodes"], summary["link"], summary["p2p"]) == (
        "node-a,node-b,+2",
        "phb,sys,+1",
        "granted,unknown,+1",
    )
    assert summary["row"] == "T8*", "the labels of node-a now call for T3"


def test_a_deployment_without_pods_has_no_wide_columns() -> None:
    assert status_of(an_observed())["summary"] == {"replicas": "0/1"}


def test_a_replica_shows_its_node_its_flags_with_their_reasons_and_its_figures() -> None:
    effective = {
        "origin": "fallback",
        "flags": {"version": 1, "row": "T8", "args": [SAFE_ARGUMENT], "env": []},
    }
    status = status_of(serving(a_gate(effective=effective, checkedAt="2026-11-24T11:00:00Z"), gpu_link="sys"))
    pod = status["pods"][0]

    assert pod["node"] == "node-1"
    assert pod["link"] == "sys"
    assert pod["flagsOrigin"] == "fallback"
    assert pod["row"] == "T8"
    assert "--disable-custom-all-reduce" in pod["flags"][0]
    assert "no labels" in pod["flags"][0]
    assert (pod["decodeTokensPerSecond"], pod["acceptancePercent"], pod["firstTokenMillis"]) == (85, 92, 155)


def test_acceptance_by_position_is_shown_if_the_gate_reports_it() -> None:
    figures = {"decodeTokensPerSecond": 200.0, "acceptancePercent": 33.6}
    drafts = {"positionPercents": [74.9, 48.0, 26.0], "acceptanceLength": 2.29}
    (pod,) = status_of(serving(a_gate(measurement=figures | drafts)))["pods"]
    assert (pod["acceptanceByPosition"], pod["acceptanceLengthPercent"]) == ([74, 48, 26], 229)
    (former,) = status_of(serving(a_gate(measurement=figures)))["pods"]
    assert not {"acceptanceByPosition", "acceptanceLengthPercent"} & set(former), "a gate before 0.2"


def test_warnings_of_the_gate_are_shown() -> None:
    warning = {"reason": "ToolCallsBroken", "message": "tool calls: none"}
    (pod,) = status_of(serving(a_gate(trial={"warnings": [warning]})))["pods"]
    assert pod["warnings"] == ["ToolCallsBroken: tool calls: none"]
    (well,) = status_of(serving(a_gate(trial={"warnings": []})))["pods"]
    assert "warnings" not in well


def test_the_figures_of_a_long_prompt_are_shown() -> None:
    figures = {"decodeTokensPerSecond": 85.0, "promptTokens": 4096, "prefillTokensPerSecond": 3100.4}
    depth = {"promptFirstTokenMillis": 1320.9, "depthDecodeTokensPerSecond": 70.2}
    (pod,) = status_of(serving(a_gate(measurement=figures | depth)))["pods"]
    shown = ("promptTokens", "prefillTokensPerSecond", "promptFirstTokenMillis", "depthDecodeTokensPerSecond")
    assert [pod[name] for name in shown] == [4096, 3100, 1320, 70]


FULL_DEPTH = {"promptTokens": 130928, "firstTokenMillis": 41000.4, "prefillTokensPerSecond": 3193.6}


@pytest.mark.parametrize(("decode", "shown"), [(40.6, {"decodeTokensPerSecond": 40}), (None, {})])
def test_the_figures_at_full_depth_are_shown(decode: float | None, shown: dict[str, int]) -> None:
    (pod,) = status_of(serving(a_gate(fullDepth={**FULL_DEPTH, "decodeTokensPerSecond": decode})))["pods"]
    assert pod["fullDepth"] == {
        "promptTokens": 130928, "firstTokenMillis": 41000, "prefillTokensPerSecond": 3193, **shown
    }  # fmt: skip
    (without,) = status_of(serving(a_gate()))["pods"]
    assert "fullDepth" not in without


def test_a_ready_replica_whose_gate_failed_to_answer_once_keeps_its_figures() -> None:
    """The kubelet still reports it ready; one lost packet must not blank the figures."""
    first = serving(a_gate())
    status = status_of(first)
    lost = {"uid-of-flash-a": GateResult.unreachable("timed out after 1 s")}

    assert plan(replace(first, gates=lost, live_status=status)).status is None


def test_an_unreadable_result_is_inconclusive_and_names_the_field() -> None:
    result = GateResult.of({"reason": "Passed"})
    assert (result.reason, result.passed) == ("Inconclusive", False)
    assert "passed" in result.message


def test_a_verdict_gets_one_event() -> None:
    observed = an_observed(
        pods=(a_pod(),), nodes=(a_node(),), gates={"flash-a": a_gate("TooSlow", "41 tok/s, wanted 60")}
    )
    first = plan(observed)
    again = plan(replace(observed, live_status=first.status or {}))
    next_trial = a_gate("TooSlow", "42 tok/s, wanted 60")
    later = plan(replace(observed, live_status=first.status or {}, gates={"uid-of-flash-a": next_trial}))

    assert [(e.type, e.reason) for e in first.events] == [("Warning", "TooSlow")]
    assert "41 tok/s" in first.events[0].message
    assert again.events == ()
    assert later.status is not None
    assert later.events == (), "new figures are in status only; one event per trial would bury the others"


def test_a_pass_gets_an_event_for_the_replica_and_one_for_the_deployment() -> None:
    starting = an_observed(pods=(a_pod(),), nodes=(a_node(),), gates={"flash-a": a_gate("EngineStarting")})
    passed = replace(serving(a_gate()), live_status=status_of(starting))

    assert [(e.type, e.reason) for e in plan(passed).events] == [("Normal", "Passed"), ("Normal", "Ready")]


def test_the_selector_of_the_scale_subresource_finds_the_pods() -> None:
    assert status_of(an_observed())["selector"] == "deepseekflash.dev/deployment=flash"


LIVE: RawObject = {
    "observedGeneration": 1,
    "replicas": 1,
    "readyReplicas": 1,
    "conditions": [{"type": "Ready", "status": "True", "reason": "Passed", "message": "85 tok/s"}],
    "rollout": {"state": "Settled", "revision": "a", "message": ""},
    "pods": [{"uid": "a", "message": "85 tok/s", "decodeTokensPerSecond": 85}],
}

INTERVALS = {
    "a message": ({"conditions": [{**LIVE["conditions"][0], "message": "84 tok/s"}]}, FIGURE_SECONDS),
    "a figure of a pod": ({"pods": [{"uid": "a", "message": "84 tok/s", "decodeTokensPerSecond": 84}]}, FIGURE_SECONDS),
    "a condition's reason": ({"conditions": [{**LIVE["conditions"][0], "reason": "RollingOut"}]}, CONDITION_SECONDS),
    "a download that begins": (
        {"pods": [{**LIVE["pods"][0], "delivery": {"phase": "Downloading"}}]},
        CONDITION_SECONDS,
    ),
    "a ready replica less": ({"readyReplicas": 0}, CONDITION_SECONDS),
    "no longer ready": ({"conditions": [{**LIVE["conditions"][0], "status": "False", "reason": "TooSlow"}]}, 0.0),
    "a new spec": ({"observedGeneration": 2}, 0.0),
    "a rollback": ({"rollout": {"state": "RolledBack", "revision": "b", "rejected": "spec-1"}}, 0.0),
    "an engine update": ({"update": {"state": "Updating"}}, 0.0),
    "a quarantine": ({"pods": [{"uid": "a", "quarantine": "Granted"}]}, 0.0),
    "an incident that the node was labelled for": ({"pods": [{"uid": "a", "incidentVerdict": "Noted"}]}, 0.0),
}


def interval_of(observed: Observed) -> float:
    wanted = plan(observed)
    assert wanted.status is not None
    return wanted.status_interval


FIRST: dict[str, tuple[Observed, float]] = {
    "only that the deployment was seen": (an_observed(), CONDITION_SECONDS),
    "a pod without a node": (an_observed(pods=(a_pod(node=None, phase="Pending"),)), CONDITION_SECONDS),
    "that a pod finds no node": (an_observed(pods=(an_unschedulable_pod(),)), 0.0),
    "the node of a pod": (an_observed(pods=(a_pod(),), nodes=(a_node(),)), 0.0),
    "that a child was refused": (replace(an_observed(), refusal="no quota"), 0.0),
    "that there are to be no replicas": (an_observed(a_flash(replicas=0)), 0.0),
    "the selector that an autoscaler needs": (
        an_observed(a_flash(scaling={"maxReplicas": 2}), scalers=Scalers("Present")),
        0.0,
    ),
}


@pytest.mark.parametrize(("observed", "seconds"), FIRST.values(), ids=FIRST.keys())
def test_a_first_status_waits_for_a_node_only_while_it_says_no_more_than(observed: Observed, seconds: float) -> None:
    assert interval_of(observed) == seconds


@pytest.mark.parametrize(("change", "seconds"), INTERVALS.values(), ids=INTERVALS.keys())
def test_how_long_a_status_waits_depends_on_what_changed(change: RawObject, seconds: float) -> None:
    assert status_interval({**LIVE, **change}, LIVE) == seconds
