"""Learned floors: from comparable replicas, each counted once."""

import json
import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import a_flash, a_gate, a_node, a_pod, an_observed
from flash_contracts.flags import derive
from flash_contracts.names import ENGINE_FLAGS_ANNOTATION, FLOOR_ANNOTATION
from flash_contracts.node_facts import NodeFacts
from flash_operator.api.v1alpha1 import FlashDeployment
from flash_operator.core.observed.snapshot import Observed, RawObject
from flash_operator.core.plan import plan
from flash_operator.core.replicas.baseline import (
    MAX_CLASSES,
    MAX_ENTRIES,
    MIN_ENTRIES,
    Baseline,
    BaselineEntry,
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
    return running_with(a_flash(), Replica(pod=a_running_pod(name, digest), node=node, derived=None, gate=gate))


def running_with(flash: FlashDeployment, replica: Replica) -> Replica:
    """With the flags that this deployment's engines get on the replica's node."""
    flags = derive(replica.node, flash.spec.interconnect, {}).to_text()
    metadata = replica.pod["metadata"]
    annotations = {**metadata["annotations"], ENGINE_FLAGS_ANNOTATION: flags}
    return replace(replica, pod={**replica.pod, "metadata": {**metadata, "annotations": annotations}})


def learned(*speeds: float) -> tuple[Baseline, str]:
    flash = a_flash()
    replicas = [a_replica(f"flash-{number}", speed) for number, speed in enumerate(speeds)]
    name = baseline_key(flash, replicas[0]) if replicas else "none"
    assert name is not None
    return Baseline().with_passes(flash, replicas), name


FLOORS: dict[str, tuple[tuple[float, ...], int | None, float]] = {
    "no comparable replica was measured": ((), None, 0.0),
    "too few were measured": ((85.0, 85.0), None, 0.0),
    "the median, less a tolerance of 15 %": ((80.0, 100.0, 90.0), None, 76.5),
    "one odd replica changes it little": ((86.0, 87.0, 88.0, 20.0), 10, 77.9),
    "another tolerance": ((100.0, 100.0, 100.0), 5, 95.0),
}


@pytest.mark.parametrize(("speeds", "tolerance", "floor"), FLOORS.values(), ids=FLOORS.keys())
def test_the_floor_is(speeds: tuple[float, ...], tolerance: int | None, floor: float) -> None:
    baseline, name = learned(*speeds)
    found = baseline.floor(name, tolerance)
    assert found.tokens_per_second == pytest.approx(floor, abs=0.06)
    assert re.search(rf"\b{len(speeds)} (of 3 )?comparable replicas", found.explanation)


OTHERS: dict[str, dict[str, Any]] = {
    "another link": {"replica": a_replica(gpu_link="sys")},
    "untested peer-to-peer": {"replica": a_replica(gpu_p2p="granted")},
    "another image": {"replica": a_replica(digest="registry.example/flash/engine@sha256:bbbb")},
    "another checkpoint": {"flash": a_flash(model={"source": "pvc://models/other"})},
    "another revision": {"flash": a_flash(model={"source": "hf://a/b", "revision": "c1"})},
    "another profile": {"flash": a_flash(engine={"profile": "Throughput"})},
    "another context": {"flash": a_flash(engine={"contextTokens": 4096})},
    "no speculation": {"flash": a_flash(speculation={"method": "Disabled"})},
    "another drafter": {"flash": a_flash(speculation={"method": "Dspark", "tokens": 1})},
    "other arguments": {"flash": a_flash(engine={"extraArgs": ["--enforce-eager"]})},
    "other variables": {"flash": a_flash(engine={"extraEnv": [{"name": "VLLM_USE_V1", "value": "0"}]})},
    "a lower power limit": {"replica": a_replica(gpu_power_w="300")},
    "narrower slots": {"replica": a_replica(gpu_pcie="gen4-x8")},
    "the safe flags": {"replica": running_with(a_flash(interconnect={"mode": "Safe"}), a_replica())},
    "no custom all-reduce": {
        "replica": running_with(a_flash(interconnect={"customAllReduce": "Disabled"}), a_replica())
    },
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS.keys())
def test_a_class_of_its_own_has(other: dict[str, Any]) -> None:
    same = baseline_key(a_flash(), a_replica())
    assert baseline_key(other.get("flash", a_flash()), other.get("replica", a_replica())) != same


def test_a_replica_without_flags_has_no_class_yet() -> None:
    replica = a_replica()
    assert baseline_key(a_flash(), replace(replica, pod=a_running_pod())) is None


def test_a_pod_whose_image_is_not_resolved_has_no_class_yet() -> None:
    assert baseline_key(a_flash(), replace(a_replica(), pod=a_pod())) is None


def test_a_pod_counts_once_and_with_its_first_figures() -> None:
    baseline, name = learned(90.0)
    again = baseline.with_passes(a_flash(), [a_replica("flash-0", 40.0)])
    assert [entry.decode_tokens_per_second for entry in again.classes[name]] == [90.0]


@pytest.mark.parametrize("reason", ["TooSlow", "Degraded", "Inconclusive"])
def test_a_replica_that_did_not_pass_is_not_recorded(reason: str) -> None:
    slow = replace(a_replica(), gate=a_gate(reason))
    assert Baseline().with_passes(a_flash(), [slow]).classes == {}


def test_a_result_repeated_from_status_is_not_recorded() -> None:
    silent = replace(a_gate(), reached=False)
    assert Baseline().with_passes(a_flash(), [replace(a_replica(), gate=silent)]).classes == {}


@given(st.integers(min_value=0, max_value=60), st.integers(min_value=0, max_value=60))
def test_the_baseline_stays_small(pods: int, images: int) -> None:
    flash, baseline = a_flash(), Baseline()
    for number in range(pods):
        baseline = baseline.with_passes(flash, [a_replica(f"p{number}")])
    for number in range(images):
        baseline = baseline.with_passes(flash, [a_replica(f"i{number}", digest=f"sha256:{number}")])
    assert len(baseline.classes) <= MAX_CLASSES
    assert all(len(entries) <= MAX_ENTRIES for entries in baseline.classes.values())
    assert len(json.dumps(baseline.to_json())) < 100_000


def test_it_is_read_as_it_was_written() -> None:
    baseline, _ = learned(80.0, 85.0)
    assert Baseline.parse(baseline_config_map(a_flash(), baseline)["data"]["baseline.json"]) == baseline


UNREADABLE = {
    "nothing": None,
    "an empty file": "",
    "another document": '{"a": "b"}',
    "no JSON": "{",
    "another shape": '{"classes": [1]}',
    "an entry without a figure": '{"classes": {"a": [{"pod": "b"}]}}',
}


@pytest.mark.parametrize("text", UNREADABLE.values(), ids=UNREADABLE.keys())
def test_an_unreadable_document_counts_as_empty(text: str | None) -> None:
    assert Baseline.parse(text) == Baseline()


def a_site(flash: FlashDeployment, baseline: Baseline = Baseline()) -> Observed:  # noqa: B008 - immutable
    children = (baseline_config_map(flash, baseline),) if baseline.classes else ()
    return an_observed(
        flash,
        pods=(a_running_pod(),),
        nodes=(a_node(gpu_link="phb", gpu_p2p="verified"),),
        gates={"flash-a": a_gate(checkedAt="2026-11-24T12:00:00Z")},
        children=children,
    )


def annotated_floor(observed: Observed) -> dict[str, Any] | None:
    for annotation in plan(observed).annotate:
        text = annotation.annotations.get(FLOOR_ANNOTATION)
        if text:
            floor: dict[str, Any] = json.loads(text)
            return floor
    return None


def test_a_learned_floor_is_annotated() -> None:
    flash = a_flash(readiness={"floor": "Learned"})
    (replica,) = replicas_of(a_site(flash))
    name = baseline_key(flash, replica)
    assert name is not None
    baseline = Baseline({name: tuple(BaselineEntry(f"p{n}", 100.0, "") for n in range(MIN_ENTRIES))})

    floor = annotated_floor(a_site(flash, baseline))

    assert floor is not None
    assert floor["minTokensPerSecond"] == 85.0
    assert "median 100.0" in floor["told"]


def test_without_a_learned_floor_the_annotation_is_0_so_that_the_gate_need_not_wait() -> None:
    floor = annotated_floor(a_site(a_flash(readiness={"floor": "Learned"})))
    assert floor is not None
    assert floor["minTokensPerSecond"] == 0


def test_a_fixed_floor_is_not_annotated() -> None:
    assert annotated_floor(a_site(a_flash())) is None


def test_an_annotated_floor_is_never_changed() -> None:
    flash = a_flash(readiness={"floor": "Learned"})
    observed = a_site(flash)
    observed.pods[0]["metadata"]["annotations"][FLOOR_ANNOTATION] = "{}"
    assert annotated_floor(observed) is None


def test_a_fixed_floor_keeps_no_baseline() -> None:
    assert "flash-baseline" not in [child["metadata"]["name"] for child in plan(a_site(a_flash())).apply]


def test_a_pass_is_written_into_the_baseline_once() -> None:
    observed = a_site(a_flash(readiness={"floor": "Learned"}))
    (written,) = [child for child in plan(observed).apply if child["metadata"]["name"] == "flash-last-known-good"]
    assert "85.5" in written["data"]["baseline.json"]

    later = replace(observed, children={**observed.children, ("ConfigMap", "flash-last-known-good"): written})
    assert not [child for child in plan(later).apply if child["metadata"]["name"] == "flash-last-known-good"]
