"""The metrics of a deployment and of nodes, from the objects that the API server has."""

from typing import Any

import pytest

from builders import NOON, a_flash, a_flash_object, a_gate, a_live_deployment, a_node, a_pod, an_observed
from flash_contracts.verdict_reason import Reason
from flash_operator.core.observed.snapshot import RawObject
from flash_operator.core.plan import plan
from flash_operator.core.status.deployment_metrics import REASONS, deployment_samples
from flash_operator.core.status.node_metrics import node_figures

PREFIX = "flash_operator_deployment_"


def figures(raw: RawObject) -> dict[str, float]:
    """By the name without its prefix, with the values of further labels behind a slash."""
    return {
        "/".join((sample.definition.name.removeprefix(PREFIX), *sample.more_labels)): sample.value
        for sample in deployment_samples(raw)
    }


def with_status(status: RawObject | None, **metadata: Any) -> RawObject:
    raw = a_flash_object(replicas=2)
    raw["metadata"].update(metadata)
    return raw if status is None else {**raw, "status": status}


def planned(*gates: Any, ready: bool = True) -> RawObject:
    """The status that the operator writes for replicas with these results."""
    flash, names = a_flash(replicas=len(gates)), [f"flash-{letter}" for letter, _ in zip("abc", gates, strict=False)]
    observed = an_observed(
        flash,
        pods=tuple(a_pod(name, ready=ready) for name in names),
        nodes=(a_node(),),
        gates=dict(zip(names, gates, strict=True)),
        children=(a_live_deployment(flash),),
    )
    status = plan(observed).status
    assert status is not None
    return status


def measured(speed: float, acceptance: float, length: float, floor: float) -> dict[str, Any]:
    return {
        "measurement": {
            "decodeTokensPerSecond": speed,
            "acceptancePercent": acceptance,
            "acceptanceLength": length,
            "firstTokenMillis": 100.0,
        },
        "wanted": {"decodeTokensPerSecond": floor},
    }


def test_the_figures_are_those_of_the_slowest_replica_as_kubectl_shows_them() -> None:
    fast, slow = measured(85.5, 92.4, 1.9, 40), measured(61.9, 71.2, 1.6, 30)
    status = planned(a_gate(**fast), a_gate(**slow))
    found = figures(with_status(status))
    assert found["decode_tokens_per_second"] == status["summary"]["decodeTokensPerSecond"] == 61
    assert found["decode_floor_tokens_per_second"] == 30, "its own floor, not the fast one's"
    assert found["acceptance_ratio"] == pytest.approx(0.71)
    assert found["acceptance_length_tokens"] == pytest.approx(1.6)
    assert (found["ready"], found["verdict_replicas/Passed"]) == (1, 2)


def test_a_replica_that_failed_does_not_count_while_another_passed() -> None:
    dead = measured(12.0, 0.0, 1.0, 40)
    found = figures(with_status(planned(a_gate(**measured(85.5, 92.4, 1.9, 40)), a_gate("DraftDead", **dead))))
    assert (found["decode_tokens_per_second"], found["acceptance_length_tokens"]) == (85, 1.9)
    assert (found["verdict_replicas/Passed"], found["verdict_replicas/DraftDead"]) == (1, 1)
    alone = figures(with_status(planned(a_gate("DraftDead", **dead), ready=False)))
    assert (alone["ready"], alone["decode_tokens_per_second"], alone["acceptance_ratio"]) == (0, 12, 0)


def test_without_a_status_nothing_is_known() -> None:
    assert figures(with_status(None)) == {}
    assert figures(with_status({})) == {}


def test_what_was_not_measured_has_no_series() -> None:
    found = figures(with_status(planned(a_gate("EngineStarting"), ready=False)))
    assert not [name for name in found if "per_second" in name or name.startswith("acceptance")]
    assert (found["ready"], found["quarantined_replicas"], found["verdict_replicas/EngineStarting"]) == (0, 0, 1)


def test_replicas_are_counted_by_quarantine_and_flags() -> None:
    pods = [
        {"reason": "Degraded", "quarantine": "Granted", "flagsOutdated": "Current"},
        {"reason": "Degraded", "quarantine": "Waiting", "flagsOutdated": "Outdated"},
        {"reason": "Passed", "flagsOutdated": "Outdated"},
    ]
    found = figures(with_status({"pods": pods}))
    assert found["quarantined_replicas"] == 1
    assert found["quarantine_waiting_replicas"] == 1
    assert found["outdated_flags_replicas"] == 2


def test_the_states_of_update_and_rollout() -> None:
    status = {"update": {"state": "Available"}, "rollout": {"state": "RolledBack"}}
    found = figures(with_status(status))
    assert (found["update/Available"], found["rollout/RolledBack"]) == (1, 1)


def test_reasons_are_of_a_fixed_set_whatever_a_kubelet_says() -> None:
    pods = [{"reason": f"Strange{number}"} for number in range(100)] + [{"reason": "ImagePullBackOff"}]
    found = figures(with_status({"pods": pods}))
    assert (found["verdict_replicas/Other"], found["verdict_replicas/ImagePullBackOff"]) == (100, 1)
    assert set(Reason) < set(REASONS)
    assert len(REASONS) < 40


def test_the_time_to_the_first_ready() -> None:
    status = planned(a_gate())
    created = {"creationTimestamp": "2026-11-24T11:50:00Z"}
    assert status["firstReadyTime"] == "2026-11-24T12:00:00Z"
    assert figures(with_status(status, **created))["first_ready_seconds"] == 600
    assert "first_ready_seconds" not in figures(with_status({**status, "firstReadyTime": "yesterday"}, **created))
    skewed = figures(with_status(status, creationTimestamp="2026-11-24T12:00:01Z"))
    assert skewed["first_ready_seconds"] == 0, "clocks differ"


def test_the_first_ready_stays_when_it_is_ready_again() -> None:
    flash = a_flash()
    live = {"firstReadyTime": "2026-01-01T00:00:00Z"}
    children = (a_live_deployment(flash),)
    serving = an_observed(
        flash,
        pods=(a_pod(ready=True),),
        nodes=(a_node(),),
        children=children,
        gates={"flash-a": a_gate()},
        live_status=live,
    )
    again = plan(serving).status
    failed = plan(an_observed(flash, gates={"flash-a": a_gate("TooSlow")}, live_status=live)).status
    assert again is not None
    assert failed is not None
    assert again["firstReadyTime"] == failed["firstReadyTime"] == "2026-01-01T00:00:00Z"
    never = plan(an_observed(flash)).status
    assert never is not None
    assert "firstReadyTime" not in never, f"not Ready at {NOON}"


def ready(node: RawObject, status: str = "True") -> RawObject:
    node["status"]["conditions"] = [{"type": "Ready", "status": status}]
    return node


def test_nodes_with_their_links() -> None:
    (one,) = node_figures([ready(a_node(gpu_link="phb", gpu_p2p="hang"))])
    assert (one.node, one.gpus, one.link, one.p2p, one.usable) == ("node-1", 2, "phb", "hang", True)


def test_a_node_counts_as_usable_only_if_a_replica_may_come() -> None:
    cordoned = ready(a_node("cordoned"))
    cordoned["spec"]["unschedulable"] = True
    one_gpu = ready(a_node("one"))
    one_gpu["status"]["allocatable"] = {"nvidia.com/gpu": "1"}
    lost = ready(a_node("lost", gpu_link="pix"), status="Unknown")
    assert {one.node: one.usable for one in node_figures([ready(a_node()), cordoned, one_gpu, lost])} == {
        "node-1": True,
        "cordoned": False,
        "one": False,
        "lost": False,
    }


def test_nodes_without_gpus_and_labels_have_no_series_and_labels_are_of_the_vocabulary() -> None:
    plain = a_node("plain")
    plain["status"]["allocatable"] = {}
    gone = a_node("gone", gpu_link="pix")
    gone["status"]["allocatable"] = {}
    odd = a_node("odd", gpu_link="x" * 60, gpu_p2p="y")
    found = {one.node: (one.gpus, one.link, one.p2p) for one in node_figures([plain, gone, odd])}
    assert found == {"gone": (0, "pix", "unknown"), "odd": (2, "unknown", "unknown")}
