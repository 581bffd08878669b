"""The plan as a value: what is applied, annotated and written, and when the next reconcile is due."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from builders import (
    NOON,
    a_flash,
    a_gate,
    a_live_deployment,
    a_node,
    a_pod,
    an_observed,
    an_unschedulable_pod,
    condition,
)
from flash_contracts.flags import FlagSet
from flash_contracts.names import ENGINE_FLAGS_ANNOTATION
from flash_operator.core.observed.snapshot import Observed, RawObject
from flash_operator.core.plan import WATCH_GATE_SECONDS, WATCH_SERVING_SECONDS, Plan, desired_children, plan
from flash_operator.core.resources.drift import hash_of


def carried_out(observed: Observed, wanted: Plan) -> Observed:
    """What the next reconcile observes if everything in the plan succeeded."""
    children = dict(observed.children)
    for child in wanted.apply:
        live = {**child, "status": {"observedGeneration": 1, "updatedReplicas": len(observed.pods)}}
        children[child["kind"], child["metadata"]["name"]] = live
    new = {annotation.uid: annotation.annotations for annotation in wanted.annotate}
    pods = tuple(_annotated(pod, new.get(pod["metadata"]["uid"], {})) for pod in observed.pods)
    status = observed.live_status if wanted.status is None else wanted.status
    return replace(observed, children=children, pods=pods, live_status=status)


def _annotated(pod: RawObject, annotations: dict[str, str | None]) -> RawObject:
    merged = {**pod["metadata"]["annotations"], **annotations}
    merged = {name: value for name, value in merged.items() if value is not None}
    return {**pod, "metadata": {**pod["metadata"], "annotations": merged}}


def a_serving_deployment() -> Observed:
    flash = a_flash()
    children = tuple(c for c in desired_children(an_observed(flash)) if c["kind"] != "Deployment")
    return an_observed(
        flash,
        pods=(a_pod(ready=True),),
        nodes=(a_node(gpu_link="phb", gpu_p2p="verified"),),
        gates={"flash-a": a_gate()},
        children=(*children, a_live_deployment(flash)),
    )


def test_a_new_cr_gets_all_children_and_the_deployment_last() -> None:
    wanted = plan(an_observed(a_flash(replicas=2)))

    assert [child["kind"] for child in wanted.apply] == [
        "ConfigMap",
        "ControllerRevision",
        "Service",
        "PodDisruptionBudget",
        "Deployment",
    ]
    assert {owner["uid"] for child in wanted.apply for owner in child["metadata"]["ownerReferences"]} == {
        "uid-of-flash"
    }
    assert wanted.status is not None
    assert wanted.poll_gates == WATCH_GATE_SECONDS


SITUATIONS = {
    "a new CR": an_observed(),
    "an unschedulable pod": an_observed(pods=(an_unschedulable_pod(),)),
    "a pod starting on an unlabelled node": an_observed(pods=(a_pod(),), nodes=(a_node(),)),
    "a pod that is too slow": an_observed(
        pods=(a_pod(),), nodes=(a_node(),), gates={"flash-a": a_gate("TooSlow", "41 tok/s, wanted 60")}
    ),
    "one replica serving": a_serving_deployment(),
    "one of two replicas serving": an_observed(
        a_flash(replicas=2),
        pods=(a_pod("flash-a", ready=True), a_pod("flash-b")),
        nodes=(a_node(gpu_link="pix", gpu_p2p="verified"),),
        gates={"flash-a": a_gate(), "flash-b": a_gate("DraftDead", "0 of 388 drafts accepted")},
    ),
    "scaled to zero": an_observed(a_flash(replicas=0)),
}


@pytest.mark.parametrize("observed", SITUATIONS.values(), ids=SITUATIONS.keys())
def test_a_plan_that_was_carried_out_leaves_nothing_to_do(observed: Observed) -> None:
    """Idempotence: otherwise an idle cluster would be written to forever."""
    after = carried_out(observed, plan(observed))
    again = plan(carried_out(after, plan(after)))

    assert (again.apply, again.delete, again.annotate, again.status, again.events) == ((), (), (), None, ())


def rolled(observed: Observed) -> Observed:
    """Its spec needs a template other than the live one."""
    return replace(observed, flash=a_flash(generation=2, engine={"extraArgs": ["--max-num-seqs=2"]}))


IRREVERSIBLE = {
    "a new CR": (an_observed(), False),
    "one replica serving": (a_serving_deployment(), False),
    "another template": (rolled(a_serving_deployment()), True),
    "a pod that has ended": (an_observed(pods=(a_pod(phase="Failed"),)), True),
}


@pytest.mark.parametrize(("observed", "wanted"), IRREVERSIBLE.values(), ids=IRREVERSIBLE.keys())
def test_immutable_changes_are_recognised(observed: Observed, wanted: bool) -> None:  # noqa: FBT001
    assert plan(observed).is_irreversible is wanted


def test_a_serving_deployment_is_only_checked_for_replicas_that_became_slow() -> None:
    observed = a_serving_deployment()
    settled = carried_out(observed, plan(observed))
    assert plan(carried_out(settled, plan(settled))).poll_gates == WATCH_SERVING_SECONDS


def a_pod_being_set_up(minutes: int, **status: Any) -> RawObject:
    since = (NOON - timedelta(minutes=minutes)).isoformat()
    condition = {"type": "PodReadyToStartContainers", "status": "False", "lastTransitionTime": since}
    return a_pod(**{"phase": "Pending", "conditions": [condition], **status})


SETUPS = {
    "for a minute": (a_pod_being_set_up(1), "EngineStarting", 120.0),
    "for three minutes": (a_pod_being_set_up(3), "SetupOverdue", None),
    "since a time that cannot be read": (
        a_pod_being_set_up(3, conditions=[{"type": "PodReadyToStartContainers", "status": "False"}]),
        "EngineStarting",
        120.0,
    ),
}


@pytest.mark.parametrize(("pod", "reason", "again"), SETUPS.values(), ids=SETUPS.keys())
def test_a_pod_whose_volumes_are_not_mounted(pod: RawObject, reason: str, again: float | None) -> None:
    """For example a ReadWriteOnce claim that is attached to another node."""
    wanted = plan(an_observed(pods=(pod,), nodes=(a_node(),)))
    assert wanted.status is not None
    (shown,) = wanted.status["pods"]
    assert (shown["reason"], wanted.requeue_after) == (reason, again)
    assert ("kubectl describe pod flash-a" in shown["message"]) == (reason == "SetupOverdue")


def test_a_bound_pod_is_annotated_with_the_flags_of_its_node() -> None:
    observed = an_observed(pods=(a_pod(),), nodes=(a_node(gpu_link="phb", gpu_p2p="verified"),))
    (annotation,) = plan(observed).annotate

    flags = FlagSet.parse_text(str(annotation.annotations[ENGINE_FLAGS_ANNOTATION]))
    assert (annotation.name, annotation.uid, flags.row) == ("flash-a", "uid-of-flash-a", "T3")


def test_replicas_on_different_nodes_get_the_flags_of_their_own_node() -> None:
    """A replacement pod on another node inherits nothing from the pod that it replaces."""
    fast, broken = a_node(gpu_link="phb", gpu_p2p="verified"), a_node("node-2", gpu_link="node", gpu_p2p="hang")
    before = an_observed(a_flash(replicas=2), pods=(a_pod("flash-a"),), nodes=(fast, broken))
    running = carried_out(before, plan(before))
    moved = replace(running, pods=(a_pod("flash-b", node="node-2"), a_pod("flash-c")))

    rows = {
        annotation.name: FlagSet.parse_text(str(annotation.annotations[ENGINE_FLAGS_ANNOTATION])).row
        for annotation in plan(moved).annotate
    }

    assert rows == {"flash-b": "T7", "flash-c": "T3"}


def test_an_unbound_pod_gets_no_flags() -> None:
    assert plan(an_observed(pods=(an_unschedulable_pod(),))).annotate == ()


def test_flags_are_never_changed_under_a_running_engine() -> None:
    before = an_observed(pods=(a_pod(),), nodes=(a_node(gpu_link="phb", gpu_p2p="verified"),))
    running = carried_out(before, plan(before))
    relabelled = replace(running, nodes={"node-1": a_node(gpu_link="phb", gpu_p2p="hang")})

    after = plan(relabelled)

    assert after.annotate == ()
    assert after.apply == ()
    assert after.status is not None
    assert after.status["pods"][0]["flagsOutdated"] == "Outdated"


def test_a_child_that_somebody_edited_is_restored() -> None:
    observed = a_serving_deployment()
    children = dict(observed.children)
    service = children["Service", "flash"]
    children["Service", "flash"] = {**service, "spec": {**service["spec"], "selector": {"app": "other"}}}

    assert [child["kind"] for child in plan(replace(observed, children=children)).apply] == ["Service"]


def test_pods_of_the_old_spec_do_not_make_a_changed_spec_ready() -> None:
    """A client that waits for Ready of the new generation must not see the old pods' verdict."""
    serving = a_serving_deployment()
    changed = replace(serving, flash=a_flash(generation=2, engine={"profile": "Throughput"}))
    status = plan(changed).status

    assert status is not None
    assert status["observedGeneration"] == 2
    ready = next(c for c in status["conditions"] if c["type"] == "Ready")
    assert (ready["status"], ready["reason"]) == ("False", "RollingOut")


def test_a_deleted_child_is_recreated() -> None:
    observed = a_serving_deployment()
    children = {key: child for key, child in observed.children.items() if key[0] != "Service"}

    assert [child["kind"] for child in plan(replace(observed, children=children)).apply] == ["Service"]


def test_fields_that_the_server_or_others_added_to_a_child_are_left_alone() -> None:
    observed = a_serving_deployment()
    children = dict(observed.children)
    service = children["Service", "flash"]
    grown = {**service["spec"], "clusterIP": "10.96.0.7", "sessionAffinity": "None"}
    children["Service", "flash"] = {
        **service,
        "metadata": {
            **service["metadata"],
            "resourceVersion": "77",
            "labels": {**service["metadata"]["labels"], "team": "a"},
        },
        "spec": grown,
    }

    assert plan(replace(observed, children=children)).apply == ()


def test_a_terminating_pod_is_no_replica() -> None:
    terminating = a_pod("flash-old", ready=True)
    terminating["metadata"]["deletionTimestamp"] = "2026-11-24T11:59:00Z"
    status = plan(an_observed(pods=(terminating, a_pod("flash-new")))).status

    assert status is not None
    assert [pod["name"] for pod in status["pods"]] == ["flash-new"]
    assert status["readyReplicas"] == 0


def an_evicted_pod(name: str) -> RawObject:
    return a_pod(name, phase="Failed", reason="Evicted", message="The node was low on resource: ephemeral-storage.")


def with_pods(observed: Observed, *pods: RawObject) -> Observed:
    return replace(observed, pods=(*observed.pods, *pods))


def test_a_pod_that_has_ended_is_no_replica_and_is_deleted_with_the_kubelets_words() -> None:
    serving = a_serving_deployment()
    annotations = serving.children["Deployment", "flash"]["spec"]["template"]["metadata"]["annotations"]
    observed = with_pods(
        replace(serving, pods=tuple(_annotated(pod, annotations) for pod in serving.pods)), an_evicted_pod("flash-0")
    )

    wanted = plan(observed)

    (ref,) = wanted.delete
    assert (ref.kind, ref.name, ref.uid) == ("Pod", "flash-0", "uid-of-flash-0")
    assert condition(wanted.status, "Ready")["status"] == "True"
    assert wanted.status is not None
    assert (wanted.status["replicas"], wanted.status["rollout"]["state"]) == (1, "Settled")
    assert wanted.status["rollout"]["provenRevision"], "it is known to be good although another pod was evicted"
    (event,) = [event for event in wanted.events if event.reason == "Evicted"]
    assert event.message == "flash-0 on node-1: The node was low on resource: ephemeral-storage."


def test_hundreds_of_pods_that_have_ended_are_deleted_step_by_step() -> None:
    observed = with_pods(a_serving_deployment(), *(an_evicted_pod(f"flash-{n}") for n in range(142)))
    wanted = plan(observed)
    assert 0 < len(wanted.delete) < 142
    assert condition(wanted.status, "Ready")["status"] == "True"


def test_more_replicas_than_status_can_list_are_counted() -> None:
    pods = tuple(a_pod(f"flash-{n:03}") for n in range(140))
    status = plan(replace(a_serving_deployment(), pods=pods, gates={})).status
    assert status is not None
    assert (status["replicas"], len(status["pods"])) == (140, 128)


def test_a_deployment_that_was_paused_by_hand_goes_on() -> None:
    observed = a_serving_deployment()
    live = observed.children["Deployment", "flash"]
    paused = {**live, "spec": {**live["spec"], "paused": True}}
    wanted = plan(replace(observed, children={**observed.children, ("Deployment", "flash"): paused}))
    (made,) = [child for child in wanted.apply if child["kind"] == "Deployment"]
    assert made["spec"]["paused"] is False


def test_server_defaults_of_a_child_are_not_applied_again_and_are_no_rollout() -> None:
    observed = a_serving_deployment()
    observed = replace(observed, live_status=plan(observed).status or {})
    live = observed.children["Deployment", "flash"]
    spec = {**live["spec"], "progressDeadlineSeconds": 1}
    changed = replace(observed, children={**observed.children, ("Deployment", "flash"): {**live, "spec": spec}})
    assert [child["kind"] for child in plan(changed).apply] == ["Deployment"]
    assert condition(plan(changed).status or changed.live_status, "Ready")["status"] == "True", "no pod is replaced"

    settled = replace(changed, settled=frozenset({("Deployment", "flash", hash_of(live))}))

    assert plan(settled).apply == ()


def test_a_condition_of_another_controller_costs_no_write() -> None:
    observed = a_serving_deployment()
    written = plan(observed).status or {}
    theirs = {"type": "Audited", "status": "True", "reason": "Yes", "lastTransitionTime": "2026-11-24T12:00:00Z"}
    shared = {**written, "conditions": [theirs, *written["conditions"]]}
    assert plan(replace(observed, live_status=shared)).status is None
    changed = {**shared, "replicas": 7}
    assert plan(replace(observed, live_status=changed)).status == written


def test_a_rejected_spec_still_counts_as_new_at_the_next_reconcile() -> None:
    """Free GPUs are counted only for a new spec, so that its rollout may surge."""
    flash = a_flash(generation=3)
    observed = an_observed(flash, live_status={"observedGeneration": 2})
    refused = plan(replace(observed, refusal="HTTP 403: exceeded quota")).status
    assert refused is not None
    assert refused["observedGeneration"] == 2
    accepted = plan(replace(observed, live_status=refused)).status
    assert accepted is not None
    assert accepted["observedGeneration"] == 3


def test_a_deployment_that_is_paused_from_its_creation_says_so() -> None:
    flash = a_flash(rollout={"state": "Paused"})
    wanted = plan(an_observed(flash, children=(a_live_deployment(flash, updated=0),)))
    assert condition(wanted.status, "Ready")["reason"] == "Paused"
    assert "spec.rollout.state" in condition(wanted.status, "Ready")["message"]


BUDGET = "PodDisruptionBudget"


def test_one_replica_has_no_disruption_budget_because_it_would_protect_nothing() -> None:
    assert BUDGET not in [child["kind"] for child in plan(an_observed()).apply]


def test_a_disruption_budget_is_there_before_the_second_replica_is_asked_for() -> None:
    observed = a_serving_deployment()
    two = replace(observed, flash=a_flash(generation=2, replicas=2))
    assert [child["kind"] for child in plan(two).apply] == [BUDGET, "Deployment"]


def test_a_disruption_budget_that_is_there_stays() -> None:
    """Those of former operators, and of deployments that had more replicas. It still takes part in every change."""
    flash, two = a_flash(), a_flash(replicas=2)
    children = [child for child in desired_children(an_observed(two)) if child["kind"] == BUDGET]
    observed = an_observed(flash, children=(*children, a_live_deployment(flash)))
    assert BUDGET in [child["kind"] for child in desired_children(observed)]
    assert not [ref for ref in plan(observed).delete if ref.kind == BUDGET]


def budget_of(observed: Observed) -> int:
    (budget,) = [child for child in desired_children(observed) if child["kind"] == "PodDisruptionBudget"]
    allowed: int = budget["spec"]["maxUnavailable"]
    return allowed


def test_a_replica_that_no_node_has_gpus_for_blocks_no_drain() -> None:
    """Three replicas for two nodes: the third one is always missing."""
    two = (a_pod("flash-a", ready=True), a_pod("flash-b", node="node-2", ready=True))
    flash = a_flash(replicas=3)
    assert budget_of(an_observed(flash, pods=two)) == 1
    assert budget_of(an_observed(flash, pods=(*two, an_unschedulable_pod("flash-c")))) == 2
    assert budget_of(an_observed(flash, pods=(*two, a_pod("flash-c", node="node-3")))) == 1, "it is starting"


def a_terminating_pod(deleted_at: str) -> RawObject:
    pod = a_pod("flash-old")
    pod["metadata"]["deletionTimestamp"] = deleted_at
    return pod


def test_a_pod_that_terminates_for_days_is_named_with_what_to_do() -> None:
    waiting = an_unschedulable_pod("flash-new")
    soon = plan(an_observed(pods=(waiting, a_terminating_pod("2026-11-24T11:59:00Z")))).status
    assert condition(soon, "Ready")["message"].endswith("waiting for the GPUs of flash-old, which is terminating")
    overdue = plan(an_observed(pods=(waiting, a_terminating_pod("2026-11-22T11:59:00Z")))).status
    found = condition(overdue, "Ready")
    assert found["reason"] == "Unschedulable"
    assert "flash-old should have terminated long ago" in found["message"]


MISTYPED_TEMPLATES: dict[str, RawObject] = {
    "a variable without a name": {"spec": {"containers": [{"name": "engine", "env": [{"value": "x"}]}]}},
    "a map for the variables": {"spec": {"containers": [{"name": "engine", "env": {"a": "b"}}]}},
    "a volume without a name": {"spec": {"volumes": [{"emptyDir": {}}]}},
    "a map for the volumes": {"spec": {"volumes": {"a": 1}}},
    "no containers": {"spec": {"containers": None}},
    "a word for the containers": {"spec": {"containers": "x"}},
    "a word for the spec": {"spec": "x"},
    "no spec": {"spec": None},
    "no metadata": {"metadata": None},
}


@pytest.mark.parametrize("patch", MISTYPED_TEMPLATES.values(), ids=MISTYPED_TEMPLATES.keys())
def test_a_mistyped_pod_template_is_left_to_the_api_server(patch: RawObject) -> None:
    """If the plan raised, status would stay empty."""
    wanted = plan(an_observed(a_flash(podTemplate=patch)))
    assert wanted.apply[-1]["kind"] == "Deployment"
    assert wanted.status is not None


def test_a_gate_configuration_that_the_user_named_is_neither_written_nor_replaced() -> None:
    theirs = {"name": "gate", "configMap": {"name": "of-the-team"}}
    wanted = plan(an_observed(a_flash(podTemplate={"spec": {"volumes": [theirs]}})))
    (made,) = [child for child in wanted.apply if child["kind"] == "Deployment"]
    assert theirs in made["spec"]["template"]["spec"]["volumes"]
    assert [child["kind"] for child in wanted.apply if child["kind"] == "ConfigMap"] == []
