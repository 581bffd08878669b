"""Rollouts judged by speed: what rolls one back, and what causes another attempt."""

import json
from dataclasses import replace
from typing import Any

import pytest

from builders import SETTINGS, a_flash, a_gate, a_live_deployment, a_node, a_pod, an_observed, condition
from flash_contracts.gate_result import GateResult
from flash_contracts.names import FLOOR_ANNOTATION, REVISION_ANNOTATION
from flash_contracts.node_facts import NodeFacts
from flash_operator.api.v1alpha1 import FlashDeployment
from flash_operator.core.observed.snapshot import Observed, RawObject
from flash_operator.core.plan import Plan, plan
from flash_operator.core.replicas.replica import Replica
from flash_operator.core.resources.deployment import pod_template
from flash_operator.core.resources.revision import revision_of
from flash_operator.core.rollout.engine_update import attempt_of_spec
from flash_operator.core.rollout.rollout import (
    LastKnownGood,
    Rollout,
    Target,
    decide_rollout,
    last_known_good_config_map,
)

OLD = pod_template(a_flash(), SETTINGS)
NEW_SPEC: dict[str, Any] = {"engine": {"contextTokens": 4096}, "replicas": 2}
LAST_KNOWN_GOOD = LastKnownGood(revision_of(OLD), OLD, 85.0)


def target_of(flash: FlashDeployment) -> Target:
    return Target(pod_template(flash, SETTINGS), attempt_of_spec(flash))


def decoding_at(speed: float) -> GateResult:
    return a_gate(measurement={"decodeTokensPerSecond": speed})


VERIFIED = NodeFacts.from_node(a_node(gpu_p2p="verified")).speed_class
FROM_NODES = replace(LAST_KNOWN_GOOD, by_node={"node-1": 86.0}, by_class={VERIFIED: 86.0})


def a_replica(
    template: RawObject,
    gate: GateResult | None,
    name: str = "flash-a",
    *,
    ready: bool = True,
    node: str | None = "node-1",
) -> Replica:
    pod = a_pod(name, ready=ready, node=node)
    pod["metadata"]["annotations"][REVISION_ANNOTATION] = revision_of(template)
    return Replica(pod=pod, node=None, derived=None, gate=gate)


def rolled(
    *new: GateResult | None,
    last_known_good: LastKnownGood | None = LAST_KNOWN_GOOD,
    node: str = "node-1",
    gpu_p2p: str = "verified",
    **rollout: Any,
) -> Rollout:
    """A rollout in progress: new replicas with these gates on `node`, beside an old one that is fast."""
    flash = a_flash(**NEW_SPEC, rollout=rollout)
    wanted = pod_template(flash, SETTINGS)
    facts = NodeFacts.from_node(a_node(node, gpu_p2p=gpu_p2p))
    replicas = [
        replace(a_replica(wanted, gate, f"flash-n{n}", ready=gate is None or gate.passed, node=node), node=facts)
        for n, gate in enumerate(new)
    ]
    return decide_rollout(
        flash, target_of(flash), [a_replica(OLD, decoding_at(85.0), "flash-old"), *replicas], last_known_good, None
    )


NEW = pod_template(a_flash(**NEW_SPEC), SETTINGS)
DECISIONS: dict[str, tuple[Rollout, str, RawObject, str]] = {
    "there is no new replica yet": (rolled(), "Rolling", NEW, "the previous template decoded 85.0 tok/s"),
    "a new one is starting": (rolled(a_gate("EngineStarting")), "Rolling", NEW, "one by one"),
    "a new one is as fast": (rolled(decoding_at(84.0)), "Rolling", NEW, "one by one"),
    "a new one is just within the allowed slowdown": (rolled(decoding_at(76.5)), "Rolling", NEW, "one by one"),
    "a new one is slower than allowed": (
        rolled(decoding_at(76.0)), "RolledBack", OLD,
        "flash-n0 decodes 76.0 tok/s with the new template, 11 % slower than the previous one's 85.0; rollout."),
    "a new one is slow, but more is allowed": (
        rolled(decoding_at(60.0), maxSlowdownPercent=30), "Rolling", NEW, "one by one"),
    "the second new one is slow": (
        rolled(decoding_at(85.0), decoding_at(50.0)), "RolledBack", OLD, "flash-n1 decodes 50.0"),
    "a new one has a dead MTP head": (rolled(a_gate("DraftDead", "0 of 90")), "RolledBack", OLD, "DraftDead: 0 of 90"),
    "a new one missed its floor once": (
        rolled(a_gate("TooSlow", "41 tok/s", attempts=1)), "Rolling", NEW, "one by one"),
    "a new one missed its floor twice": (
        rolled(a_gate("TooSlow", "41 tok/s", attempts=2)), "RolledBack", OLD, "TooSlow: 41 tok/s"),
    "a new one hangs where one ran before": (
        rolled(a_gate("StartupHang", "no token"), last_known_good=FROM_NODES),
        "RolledBack", OLD, "StartupHang: no token"),
    "a new one hangs on a node where none ran before": (
        rolled(a_gate("StartupHang"), last_known_good=FROM_NODES, node="node-9"), "Rolling", NEW, "one by one"),
    "a new one has a dead MTP head on a node where none ran before": (
        rolled(a_gate("DraftDead"), last_known_good=FROM_NODES, node="node-9"), "RolledBack", OLD, "DraftDead"),
    "a new one is slower than the earlier one of its own node": (
        rolled(decoding_at(72.0), last_known_good=FROM_NODES), "RolledBack", OLD, "the previous one's 86.0"),
    "a new one is slower than others, on a slower node that nothing is known of": (
        rolled(decoding_at(72.0), last_known_good=FROM_NODES, node="node-9", gpu_p2p="granted"),
        "Rolling", NEW, "one by one"),
    "a new one is slower than earlier ones on nodes like its own": (
        rolled(decoding_at(72.0), last_known_good=FROM_NODES, node="node-9", gpu_p2p="verified"),
        "RolledBack", OLD, "the previous one's 86.0"),
    "a paused one is slower": (rolled(decoding_at(40.0), state="Paused"), "Paused", NEW, "paused by"),
    "a new one cannot be measured": (rolled(a_gate("Inconclusive")), "Rolling", NEW, "one by one"),
    "the engine of a new one exited once": (
        rolled(a_gate("EngineExited", engine={"starts": 1})), "Rolling", NEW, "one by one"),
    "the engine of a new one exits repeatedly": (
        rolled(a_gate("EngineExited", "no weights", engine={"starts": 3})), "RolledBack", OLD, "no weights"),
    "the checkpoint of a new one was rejected once, perhaps because its hub was unreachable": (
        rolled(a_gate("ModelRejected", engine={"starts": 1})), "Rolling", NEW, "one by one"),
    "the checkpoint of a new one is rejected repeatedly": (
        rolled(a_gate("ModelRejected", "3 tensors", engine={"starts": 3})), "RolledBack", OLD, "3 tensors"),
    "the model of a new one could not be downloaded once": (
        rolled(a_gate("ModelUnavailable", delivery={"phase": "Failed", "attempts": 1})), "Rolling", NEW, "one by one"),
    "the model of a new one cannot be downloaded": (
        rolled(a_gate("ModelUnavailable", "no revision", delivery={"phase": "Failed", "attempts": 3})),
        "RolledBack", OLD, "no revision"),
    "the image of a new one has no plugin": (
        rolled(a_gate("PluginAbsent", "never said")), "RolledBack", OLD, "never said"),
    "there is nothing to compare with": (
        rolled(decoding_at(5.0), last_known_good=None), "Settled", NEW, "no template has passed"),
    "there is nothing to roll back to": (
        rolled(a_gate("DraftDead"), last_known_good=None), "Settled", NEW, "no template has passed"),
}  # fmt: skip


@pytest.mark.parametrize(("rollout", "state", "template", "message"), DECISIONS.values(), ids=DECISIONS.keys())
def test_a_rollout_where(rollout: Rollout, state: str, template: RawObject, message: str) -> None:
    in_force = revision_of(rollout.template)
    assert rollout.state == state
    assert (in_force == revision_of(OLD)) is (template is OLD)
    assert message in rollout.message


def test_a_paused_rollout_keeps_the_new_template() -> None:
    paused = rolled(decoding_at(84.0), state="Paused")
    assert (paused.state, revision_of(paused.template) == revision_of(OLD)) == ("Paused", False)


def rolled_back(flash: FlashDeployment) -> tuple[RawObject, Rollout]:
    wanted = pod_template(flash, SETTINGS)
    return wanted, decide_rollout(
        flash, target_of(flash), [a_replica(wanted, decoding_at(40.0))], LAST_KNOWN_GOOD, None
    )


AGAIN: dict[str, tuple[dict[str, Any], bool]] = {
    "nothing": ({}, False),
    "the number of replicas, as an autoscaler sets it": ({"replicas": 5}, False),
    "the template": ({"engine": {"contextTokens": 8192}}, True),
    "the floor": ({"readiness": {"minDecodeTokensPerSecond": 30}}, True),
    "the allowed slowdown": ({"rollout": {"maxSlowdownPercent": 60}}, True),
}


@pytest.mark.parametrize(("changes", "again"), AGAIN.values(), ids=AGAIN.keys())
def test_a_rejected_template_is_tried_again_after_a_change_of(changes: dict[str, Any], again: bool) -> None:  # noqa: FBT001
    _, first = rolled_back(a_flash(**NEW_SPEC))
    flash = a_flash(**{**NEW_SPEC, **changes})

    later = decide_rollout(
        flash, target_of(flash), [a_replica(OLD, decoding_at(85.0))], LAST_KNOWN_GOOD, first.to_status()
    )

    assert (later.state == "Rolling") is again
    if not again:
        assert later.message == first.message, "the reason stays in status"


def test_a_template_is_known_good_once_all_replicas_passed_with_it() -> None:
    flash = a_flash(replicas=2)
    one, other = a_replica(OLD, decoding_at(84.0), "a"), a_replica(OLD, decoding_at(88.0), "b", node="node-2")
    assert decide_rollout(flash, target_of(flash), [one], None, None).last_known_good is None, "one is missing"
    assert (
        decide_rollout(
            flash, target_of(flash), [one, a_replica(OLD, a_gate("TooSlow"), "b", ready=False)], None, None
        ).last_known_good
        is None
    )

    last_known_good = decide_rollout(flash, target_of(flash), [one, other], None, None).last_known_good

    assert last_known_good == LastKnownGood(revision_of(OLD), OLD, 86.0, {"node-1": 84.0, "node-2": 88.0})


def test_a_slow_new_template_is_rejected_even_if_all_replicas_already_run_it() -> None:
    """The operator was down while the last replica was replaced."""
    flash = a_flash(**{**NEW_SPEC, "replicas": 1})
    wanted = pod_template(flash, SETTINGS)
    assert (
        decide_rollout(flash, target_of(flash), [a_replica(wanted, decoding_at(40.0))], LAST_KNOWN_GOOD, None).state
        == "RolledBack"
    )


def test_it_is_read_as_it_was_written() -> None:
    written = last_known_good_config_map(a_flash(), LAST_KNOWN_GOOD)
    assert LastKnownGood.parse(written["data"]["last-known-good.json"]) == LAST_KNOWN_GOOD


@pytest.mark.parametrize("text", [None, "", "{", "[]", '{"revision": "a"}'])
def test_an_unreadable_document_is_ignored(text: str | None) -> None:
    assert LastKnownGood.parse(text) is None


ROLLING = {"rollout": {"state": "Rolling", "revision": revision_of(NEW), "provenRevision": revision_of(OLD)}}


def a_site(*gates: GateResult, live_status: RawObject | None = None) -> Observed:
    flash = a_flash(**{**NEW_SPEC, "replicas": len(gates)})
    pods = []
    for number, gate in enumerate(gates):
        pod = a_pod(f"flash-{number}", ready=gate.passed)
        pod["metadata"]["annotations"][REVISION_ANNOTATION] = revision_of(pod_template(flash, SETTINGS))
        pods.append(pod)
    return an_observed(
        flash,
        pods=tuple(pods),
        nodes=(a_node(),),
        gates={f"flash-{number}": gate for number, gate in enumerate(gates)},
        children=(a_live_deployment(flash), last_known_good_config_map(flash, LAST_KNOWN_GOOD)),
        live_status=live_status or ROLLING,
    )


def the_deployment(wanted: Plan) -> RawObject:
    (made,) = [child for child in wanted.apply if child["kind"] == "Deployment"]
    return made


def test_a_rollback_applies_the_previous_template_and_reports_both_figures() -> None:
    wanted = plan(a_site(decoding_at(40.0)))

    assert the_deployment(wanted)["spec"]["template"] == OLD
    for name in ("Ready", "Progressing"):
        found = condition(wanted.status, name)
        assert (found["status"], found["reason"]) == ("False", "RolledBack")
        assert "40.0 tok/s" in found["message"]
        assert "85.0" in found["message"]
    assert [event.reason for event in wanted.events].count("RolledBack") == 1
    assert wanted.status is not None
    assert wanted.status["rollout"]["provenTokensPerSecond"] == 85


def floor_sent(wanted: Plan) -> dict[str, Any] | None:
    """The floor that is sent to the gate of the first replica."""
    texts = (annotation.annotations.get(FLOOR_ANNOTATION) for annotation in wanted.annotate)
    floor: dict[str, Any] | None = next((json.loads(text) for text in texts if text), None)
    return floor


def starting(observed: Observed, **spec: Any) -> Observed:
    flash = a_flash(**{**NEW_SPEC, **spec})
    return replace(observed, flash=flash, gates={})


def test_the_gate_of_a_new_template_is_told_below_which_speed_it_is_rolled_back() -> None:
    site = starting(a_site(a_gate("EngineStarting")), rollout={"maxSlowdownPercent": 20})
    assert floor_sent(plan(site)) == {"minTokensPerSecond": 0.0, "told": "", "measureAgainBelow": 68.0}

    site.pods[0]["metadata"]["annotations"][FLOOR_ANNOTATION] = "{}"
    assert floor_sent(plan(site)) is None, "it is sent once"


def test_a_gate_is_told_the_speed_on_its_own_node() -> None:
    site = starting(a_site(a_gate("EngineStarting")))
    known = last_known_good_config_map(site.flash, replace(LAST_KNOWN_GOOD, by_node={"node-1": 100.0}))
    sent = floor_sent(plan(replace(site, children={**site.children, ("ConfigMap", known["metadata"]["name"]): known})))
    assert sent == {"minTokensPerSecond": 0.0, "told": "", "measureAgainBelow": 90.0}


def test_a_gate_of_the_last_known_good_template_is_told_nothing() -> None:
    site = starting(a_site(a_gate("EngineStarting")))
    site.pods[0]["metadata"]["annotations"][REVISION_ANNOTATION] = LAST_KNOWN_GOOD.revision
    assert floor_sent(plan(site)) is None


def test_a_learned_floor_is_told_together_with_the_speed_of_the_rollout() -> None:
    site = starting(a_site(a_gate("EngineStarting")), readiness={"floor": "Learned"})
    assert floor_sent(plan(site)) is None, "the image's digest is not known yet"

    site.pods[0]["status"]["containerStatuses"] = [{"name": "engine", "imageID": "registry.example/e@sha256:aa"}]
    sent = floor_sent(plan(site))
    assert sent is not None
    assert (sent["measureAgainBelow"], sent["told"]) == (76.5, "not learned yet: 0 of 3 comparable replicas measured")


def test_a_rollback_gets_one_event_and_stays_in_force() -> None:
    observed = a_site(decoding_at(40.0))
    first = plan(observed)
    again = plan(replace(observed, live_status=first.status or {}))
    assert the_deployment(again)["spec"]["template"] == OLD
    assert "RolledBack" not in [event.reason for event in again.events]


def test_a_template_that_somebody_wrote_into_the_document_is_not_rolled_back_to() -> None:
    """Otherwise permission to edit ConfigMaps would allow running any image with any service account."""
    site = a_site(decoding_at(40.0))
    forged = {**OLD, "spec": {**OLD["spec"], "serviceAccountName": "admin"}}
    document = last_known_good_config_map(site.flash, LastKnownGood(revision_of(OLD), forged, 85.0))
    wanted = plan(replace(site, children={**site.children, ("ConfigMap", document["metadata"]["name"]): document}))
    assert [child for child in wanted.apply if "serviceAccountName" in str(child.get("spec"))] == []
    assert [child["kind"] for child in wanted.apply if child["kind"] == "Deployment"] == []


def test_a_fast_template_becomes_the_last_known_good() -> None:
    wanted = plan(a_site(decoding_at(84.0)))
    (written,) = [child for child in wanted.apply if child["metadata"]["name"] == "flash-last-known-good"]
    last_known_good = LastKnownGood.parse(written["data"]["last-known-good.json"])
    assert last_known_good is not None
    assert (last_known_good.revision != LAST_KNOWN_GOOD.revision, last_known_good.decode_tokens_per_second) == (
        True,
        84.0,
    )
    assert condition(wanted.status, "Ready")["status"] == "True"
