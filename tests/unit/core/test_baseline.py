"""Floors that are learned: from replicas that are alike, and from each of them once."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import a_flash, a_gate, a_node, a_pod, an_observed
from flash_contracts.names import FLOOR_ANNOTATION
from flash_contracts.node_facts import NodeFacts
from flash_operator.api.v1alpha1 import FlashDeployment
from flash_operator.core.observed.snapshot import Observed, RawObject
from flash_operator.core.plan import plan
from flash_operator.core.replicas.baseline import (
    LEAST_ENTRIES,
    MOST_CLASSES,
    MOST_ENTRIES,
    Baseline,
    Entry,
    baseline_config_map,
    baseline_key,
)
from flash_operator.core.replicas.replica import Replica, replicas_of

DIGEST = "registry.example/flash/engine@sha256:aaaa"


def a_running_pod(name: str = "flash-a", digest: str = DIGEST) -> RawObject:
    return a_pod(name, ready=True, containerStatuses=[{"name": "engine", "imageID": digest}])


def a_replica(name: str = "flash-a", speed: float = 85.0, digest: str = DIGEST, **labels: str) -> Replica:
    gate = a_gate(checkedAt="2026-11-24T12:00:00Z", measurement={"decodeTokensPerSecond": speed})
    node = NodeFacts.from_node(a_node(**{"gpu_link": "phb", "gpu_p2p": "verified", **labels}))
    return Replica(pod=a_running_pod(name, digest), node=node, derived=None, gate=gate)


def learned(*speeds: float) -> tuple[Baseline, str]:
    flash = a_flash()
    replicas = [a_replica(f"flash-{number}", speed) for number, speed in enumerate(speeds)]
    name = baseline_key(flash, replicas[0]) if replicas else "none"
    assert name is not None
    return Baseline().with_passes(flash, replicas), name


FLOORS: dict[str, tuple[tuple[float, ...], int | None, float]] = {
    "nothing like it was measured": ((), None, 0.0),
    "too few were": ((85.0, 85.0), None, 0.0),
    "the median, less a tolerance of 15 %": ((80.0, 100.0, 90.0), None, 76.5),
    "one odd replica moves it little": ((86.0, 87.0, 88.0, 20.0), 10, 77.9),
    "another tolerance": ((100.0, 100.0, 100.0), 5, 95.0),
}


@pytest.mark.parametrize(("speeds", "tolerance", "floor"), FLOORS.values(), ids=FLOORS.keys())
def test_the_floor_is(speeds: tuple[float, ...], tolerance: int | None, floor: float) -> None:
    baseline, name = learned(*speeds)
    found = baseline.floor(name, tolerance)
    assert found.tokens_per_second == pytest.approx(floor, abs=0.06)
    assert f"{len(speeds)} like it" in found.told


OTHERS: dict[str, dict[str, Any]] = {
    "another link": {"replica": a_replica(gpu_link="sys")},
    "peer-to-peer that is not proved": {"replica": a_replica(gpu_p2p="granted")},
    "another image": {"replica": a_replica(digest="registry.example/flash/engine@sha256:bbbb")},
    "another checkpoint": {"flash": a_flash(model={"source": "pvc://models/other"})},
    "another revision": {"flash": a_flash(model={"source": "hf://a/b", "revision": "c1"})},
    "another profile": {"flash": a_flash(engine={"profile": "Throughput"})},
    "another context": {"flash": a_flash(engine={"contextTokens": 4096})},
    "no speculation": {"flash": a_flash(speculation={"method": "Disabled"})},
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS.keys())
def test_of_another_class_is(other: dict[str, Any]) -> None:
    alike = baseline_key(a_flash(), a_replica())
    assert baseline_key(other.get("flash", a_flash()), other.get("replica", a_replica())) != alike


def test_a_pod_whose_image_is_not_resolved_is_of_no_class_yet() -> None:
    assert baseline_key(a_flash(), replace(a_replica(), pod=a_pod())) is None


def test_a_pod_counts_once_and_with_its_first_figures() -> None:
    baseline, name = learned(90.0)
    again = baseline.with_passes(a_flash(), [a_replica("flash-0", 40.0)])
    assert [entry.decode_tokens_per_second for entry in again.classes[name]] == [90.0]


@pytest.mark.parametrize("reason", ["TooSlow", "Degraded", "Inconclusive"])
def test_what_did_not_pass_teaches_nothing(reason: str) -> None:
    slow = replace(a_replica(), gate=a_gate(reason))
    assert Baseline().with_passes(a_flash(), [slow]).classes == {}


def test_a_remembered_answer_is_no_pass() -> None:
    silent = replace(a_gate(), reached=False)
    assert Baseline().with_passes(a_flash(), [replace(a_replica(), gate=silent)]).classes == {}


@given(st.integers(min_value=0, max_value=60), st.integers(min_value=0, max_value=60))
def test_it_stays_small(pods: int, images: int) -> None:
    flash, baseline = a_flash(), Baseline()
    for number in range(pods):
        baseline = baseline.with_passes(flash, [a_replica(f"p{number}")])
    for number in range(images):
        baseline = baseline.with_passes(flash, [a_replica(f"i{number}", digest=f"sha256:{number}")])
    assert len(baseline.classes) <= MOST_CLASSES
    assert all(len(entries) <= MOST_ENTRIES for entries in baseline.classes.values())
    assert len(json.dumps(baseline.to_json())) < 100_000


def test_it_is_read_as_it_was_written() -> None:
    baseline, _ = learned(80.0, 85.0)
    assert Baseline.read(baseline_config_map(a_flash(), baseline)) == baseline


UNREADABLE = {
    "nothing": None,
    "another file": {"data": {"a": "b"}},
    "no JSON": {"data": {"history.json": "{"}},
    "another shape": {"data": {"history.json": '{"classes": [1]}'}},
    "an entry without a figure": {"data": {"history.json": '{"classes": {"a": [{"pod": "b"}]}}'}},
}


@pytest.mark.parametrize("config_map", UNREADABLE.values(), ids=UNREADABLE.keys())
def test_what_cannot_be_read_is_as_good_as_not_there(config_map: RawObject | None) -> None:
    assert Baseline.read(config_map) == Baseline()


def a_site(flash: FlashDeployment, baseline: Baseline = Baseline()) -> Observed:  # noqa: B008 - immutable
    children = (baseline_config_map(flash, baseline),) if baseline.classes else ()
    return an_observed(
        flash,
        pods=(a_running_pod(),),
        nodes=(a_node(gpu_link="phb", gpu_p2p="verified"),),
        gates={"flash-a": a_gate(checkedAt="2026-11-24T12:00:00Z")},
        children=children,
    )


def floor_handed_over(observed: Observed) -> dict[str, Any] | None:
    for annotation in plan(observed).annotate:
        text = annotation.annotations.get(FLOOR_ANNOTATION)
        if text:
            handed: dict[str, Any] = json.loads(text)
            return handed
    return None


def test_a_floor_is_handed_over_where_it_is_to_be_learned() -> None:
    flash = a_flash(readiness={"floor": "Learned"})
    (replica,) = replicas_of(a_site(flash))
    name = baseline_key(flash, replica)
    assert name is not None
    baseline = Baseline({name: tuple(Entry(f"p{n}", 100.0, "") for n in range(LEAST_ENTRIES))})

    handed = floor_handed_over(a_site(flash, baseline))

    assert handed is not None
    assert handed["minTokensPerSecond"] == 85.0
    assert "median 100.0" in handed["told"]


def test_a_gate_is_told_at_once_where_nothing_was_learned_so_that_it_need_not_wait() -> None:
    handed = floor_handed_over(a_site(a_flash(readiness={"floor": "Learned"})))
    assert handed is not None
    assert handed["minTokensPerSecond"] == 0


def test_a_fixed_floor_is_nobodys_annotation() -> None:
    assert floor_handed_over(a_site(a_flash())) is None


def test_a_floor_that_was_given_is_never_changed() -> None:
    flash = a_flash(readiness={"floor": "Learned"})
    observed = a_site(flash)
    observed.pods[0]["metadata"]["annotations"][FLOOR_ANNOTATION] = "{}"
    assert floor_handed_over(observed) is None


def test_a_pass_is_written_into_the_history_and_then_nothing_more() -> None:
    observed = a_site(a_flash())
    (written,) = [child for child in plan(observed).apply if child["metadata"]["name"] == "flash-history"]
    assert "85.5" in written["data"]["history.json"]

    later = replace(observed, children={**observed.children, ("ConfigMap", "flash-history"): written})
    assert not [child for child in plan(later).apply if child["metadata"]["name"] == "flash-history"]
