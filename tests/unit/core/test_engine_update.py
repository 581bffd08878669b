"""Engine updates: a newer operator's changes are offered, and nothing restarts before they are accepted."""

from dataclasses import replace
from typing import Any

import pytest

from builders import SETTINGS, a_flash, a_pod, condition
from flash_contracts.flags import derive
from flash_contracts.names import ENGINE_FLAGS_ANNOTATION, REVISION_ANNOTATION
from flash_operator.core.observed.snapshot import Observed, RawObject
from flash_operator.core.plan import ObjectRef, Plan, plan
from flash_operator.core.rollout.engine_update import holds_turn
from planned_snapshot import UPGRADED, Cluster


def test_a_newer_operator_restarts_nothing_and_offers_its_image() -> None:
    cluster = Cluster(a_flash())
    before = cluster.template

    cluster.upgrade()

    assert cluster.template == before
    assert cluster.update["state"] == "Available"
    found = condition(cluster.observed.live_status, "UpdateAvailable")
    assert (found["status"], found["reason"]) == ("True", "UpdateAvailable")
    assert cluster.update["revision"] in found["message"]
    assert "engine image: registry.example/flash/engine:1 -> registry.example/flash/engine:2" in found["message"]
    assert condition(cluster.observed.live_status, "Ready")["status"] == "True"
    assert cluster.observed.live_status["rollout"]["engineImage"] == SETTINGS.engine_image
    assert cluster.observed.live_status["summary"]["update"] == "Available"


def test_a_text_that_changes_restarts_nothing_and_is_not_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(a_flash())
    before = cluster.template

    def with_other_texts(*args: Any) -> Any:
        flags = derive(*args)
        return replace(flags, args=tuple(replace(arg, reason=f"{arg.reason}.") for arg in flags.args))

    monkeypatch.setattr("flash_operator.core.resources.deployment.derive", with_other_texts)
    cluster.reconcile()

    assert cluster.template == before
    assert cluster.update == {"state": "UpToDate", "revision": "", "message": "", "changes": []}


def test_an_accepted_update_is_rolled_out_and_becomes_the_last_known_good() -> None:
    cluster = Cluster(a_flash())
    cluster.upgrade()

    cluster.edit(rollout={"acceptUpdate": cluster.update["revision"]})

    assert cluster.images == {UPGRADED.engine_image}
    assert cluster.update["state"] == "Updating"
    cluster.reconcile()
    cluster.reconcile()
    assert cluster.update["state"] == "UpToDate"
    rollout = cluster.observed.live_status["rollout"]
    assert (rollout["state"], rollout["provenRevision"]) == ("Settled", cluster.revision)
    assert rollout["engineImage"] == UPGRADED.engine_image


def test_accepting_something_else_takes_nothing() -> None:
    cluster = Cluster(a_flash())
    cluster.upgrade()
    cluster.edit(rollout={"acceptUpdate": "0123456789"})
    assert (cluster.images, cluster.update["state"]) == ({SETTINGS.engine_image}, "Available")


def test_an_update_that_is_slower_is_rolled_back_and_not_tried_again() -> None:
    cluster = Cluster(a_flash())
    before = cluster.template
    cluster.upgrade()
    cluster.edit(rollout={"acceptUpdate": cluster.update["revision"]})
    cluster.speed = 40.0
    cluster.replace_pods()
    cluster.reconcile()
    cluster.speed = 85.5
    for _ in range(3):
        cluster.reconcile()

    assert cluster.template == before
    assert cluster.update["state"] == "Rejected"
    assert "40.0 tok/s" in cluster.update["message"]
    assert condition(cluster.observed.live_status, "UpdateAvailable")["reason"] == "UpdateRejected"
    assert condition(cluster.observed.live_status, "Ready")["status"] == "True", "the spec asks for what runs"


def test_a_change_by_the_user_keeps_the_image_in_force() -> None:
    """Otherwise the effects of change and update on the speed could not be separated."""
    cluster = Cluster(a_flash())
    cluster.upgrade()
    cluster.edit(engine={"contextTokens": 4096})
    cluster.reconcile()
    cluster.reconcile()
    assert cluster.images == {SETTINGS.engine_image}
    assert "4096" in str(cluster.template["spec"]["containers"][0]["args"])
    assert cluster.update["state"] == "Available"


def test_a_change_takes_the_update_along_if_the_old_image_speaks_another_contract(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster = Cluster(a_flash())
    for module in ("engine_update", "template_revision"):
        monkeypatch.setattr(f"flash_operator.core.rollout.{module}.CONTRACT_VERSION", 2)
    cluster.upgrade()
    assert cluster.images == {SETTINGS.engine_image}, "nobody has changed anything yet"
    cluster.edit(engine={"contextTokens": 4096})
    assert cluster.images == {UPGRADED.engine_image}


def test_naming_the_image_that_runs_restarts_nothing() -> None:
    cluster = Cluster(a_flash())
    before = cluster.template
    cluster.upgrade()
    cluster.edit(engine={"image": SETTINGS.engine_image})
    assert cluster.template == before
    assert cluster.update["state"] == "UpToDate", "the user decides about the image"


def test_a_rejected_change_is_not_tried_again_by_an_upgrade() -> None:
    cluster = Cluster(a_flash())
    before = cluster.template
    cluster.edit(engine={"contextTokens": 4096})
    cluster.speed = 40.0
    cluster.replace_pods()
    cluster.reconcile()
    cluster.speed = 85.5
    cluster.replace_pods()
    cluster.upgrade()
    assert cluster.template == before
    assert condition(cluster.observed.live_status, "Ready")["reason"] == "RolledBack"


def test_each_step_of_an_update_gets_one_event() -> None:
    cluster = Cluster(a_flash())
    cluster.observed = replace(cluster.observed, settings=UPGRADED)
    reasons = [[event.reason for event in cluster.reconcile().events] for _ in range(2)]
    assert reasons == [["UpdateAvailable"], []]
    cluster.observed = replace(
        cluster.observed, flash=a_flash(generation=2, rollout={"acceptUpdate": cluster.update["revision"]})
    )
    reasons = [[event.reason for event in cluster.reconcile().events if "Update" in event.reason] for _ in range(3)]
    assert reasons == [["UpdateTaken"], ["UpdateComplete"], []]


def gate_config_of(cluster: Cluster, template: RawObject) -> str:
    (name,) = [volume["configMap"]["name"] for volume in template["spec"]["volumes"] if volume["name"] == "gate"]
    text: str = cluster.observed.children["ConfigMap", name]["data"]["gate.json"]
    return text


def test_after_a_rollback_the_old_engines_are_judged_by_what_was_asked_of_them() -> None:
    cluster = Cluster(a_flash())
    before, judged_by = cluster.template, gate_config_of(cluster, cluster.template)
    cluster.edit(model={"source": "pvc://models/v4", "servedNames": ["other"]}, speculation={"method": "Disabled"})
    assert gate_config_of(cluster, before) == judged_by, "replicas of the old template still run"
    assert '"other"' in gate_config_of(cluster, cluster.template)
    cluster.speed = 40.0
    cluster.replace_pods()
    cluster.reconcile()
    cluster.reconcile()
    assert cluster.template == before
    assert gate_config_of(cluster, before) == judged_by


def test_a_new_floor_judges_running_replicas_and_restarts_none() -> None:
    cluster = Cluster(a_flash())
    before = cluster.template
    cluster.upgrade()
    cluster.edit(readiness={"minDecodeTokensPerSecond": 33})
    assert cluster.template == before
    assert '"minTokensPerSecond": 33' in gate_config_of(cluster, before)


def test_unused_objects_are_deleted() -> None:
    cluster = Cluster(a_flash())
    first = cluster.revision
    for tokens in (4096, 8192):
        cluster.edit(engine={"contextTokens": tokens})
        for _ in range(3):
            cluster.reconcile()
    kept = [name for kind, name in cluster.observed.children if kind == "ControllerRevision"]
    gates = [name for kind, name in cluster.observed.children if kind == "ConfigMap" and "-gate-" in name]
    before = cluster.observed.live_status["rollout"]["previousRevision"]
    assert kept == [f"flash-{before}", f"flash-{cluster.revision}"], "the one before, for a user's rollback"
    assert first not in (before, cluster.revision)
    assert len(gates) == 2


def test_an_edited_deployment_gets_its_template_back() -> None:
    cluster = Cluster(a_flash())
    before = cluster.template
    live = cluster.observed.children["Deployment", "flash"]
    spec = {**before["spec"], "serviceAccountName": "admin", "containers": [{"name": "engine", "image": "evil"}]}
    forged = {"metadata": {"annotations": {REVISION_ANNOTATION: "0123456789"}}, "spec": spec}
    edited = {**live, "spec": {**live["spec"], "template": forged}}
    cluster.observed = replace(
        cluster.observed, children={**cluster.observed.children, ("Deployment", "flash"): edited}
    )
    cluster.upgrade()
    assert cluster.template == before


def paced(cluster: Cluster, holder: str | None) -> Plan:
    cluster.observed = replace(cluster.observed, update_holder=holder)
    return cluster.reconcile()


def test_paced_updates_wait_for_their_turn() -> None:
    cluster = Cluster(a_flash(rollout={"engineUpdates": "Paced"}))
    cluster.upgrade()
    assert cluster.update["state"] == "Waiting"
    paced(cluster, "team/other")
    assert cluster.images == {SETTINGS.engine_image}
    assert cluster.update["message"] == "waiting for team/other, which is taking its update"
    assert condition(cluster.observed.live_status, "UpdateAvailable")["reason"] == "UpdateWaiting"

    paced(cluster, "team/flash")

    assert (cluster.images, cluster.update["state"]) == ({UPGRADED.engine_image}, "Updating")


def test_a_paced_update_that_was_rejected_does_not_take_another_turn() -> None:
    cluster = Cluster(a_flash(rollout={"engineUpdates": "Paced"}))
    before = cluster.template
    cluster.upgrade()
    paced(cluster, "team/flash")
    cluster.speed = 40.0
    cluster.replace_pods()
    paced(cluster, "team/flash")
    assert cluster.update["state"] == "Rejected"
    cluster.speed = 85.5
    cluster.replace_pods()
    paced(cluster, None)
    paced(cluster, "team/flash")
    assert (cluster.template, cluster.update["state"]) == (before, "Rejected")


def test_an_update_waits_until_all_replicas_are_ready() -> None:
    cluster = Cluster(a_flash(replicas=2, rollout={"engineUpdates": "Paced"}))
    cluster.upgrade()
    cluster.observed = replace(cluster.observed, pods=cluster.observed.pods[:1], update_holder="team/flash")
    status = plan(cluster.observed).status
    assert status is not None
    assert status["update"]["message"] == "waiting until all replicas are ready"


SAFE = {"args": [], "env": [{"name": "NCCL_P2P_DISABLE", "value": "1", "source": "T8", "reason": "unknown"}]}


def a_site_with_outdated_flags(*, outdated: int = 2, **rollout: Any) -> Observed:
    """Two replicas that started before their node was tested."""
    cluster = Cluster(a_flash(replicas=2, rollout=rollout))
    pods = []
    for number, pod in enumerate(cluster.observed.pods):
        flags = '{"version": 1, "row": "T8", "args": [], "env": []}' if number < outdated else None
        pods.append(with_flags(pod, flags) if flags else with_derived(cluster.observed, pod))
    return replace(cluster.observed, pods=tuple(pods))


def with_flags(pod: RawObject, text: str) -> RawObject:
    annotations = {**pod["metadata"]["annotations"], ENGINE_FLAGS_ANNOTATION: text}
    return {**pod, "metadata": {**pod["metadata"], "annotations": annotations}}


def with_derived(observed: Observed, pod: RawObject) -> RawObject:
    (text,) = [
        a.annotations[ENGINE_FLAGS_ANNOTATION] for a in plan(observed).annotate if a.name == pod["metadata"]["name"]
    ]
    return with_flags(pod, str(text))


def test_outdated_flags_are_offered_and_restart_nothing() -> None:
    observed = a_site_with_outdated_flags()
    wanted = plan(observed)
    assert wanted.status is not None
    assert wanted.evict == ()
    assert wanted.status["update"]["state"] == "Available"
    assert wanted.status["update"]["revision"].startswith("flags-")
    assert len(wanted.status["update"]["changes"]) == 2
    assert "the labels of node node-1 now call for" in wanted.status["update"]["changes"][0]


def test_a_paused_rollout_evicts_nothing_for_flags() -> None:
    offered = plan(a_site_with_outdated_flags()).status
    assert offered is not None
    accepted = offered["update"]["revision"]
    assert evicted(a_site_with_outdated_flags(acceptUpdate=accepted))
    assert evicted(a_site_with_outdated_flags(acceptUpdate=accepted, state="Paused")) == ()


def evicted(observed: Observed) -> tuple[ObjectRef, ...]:
    """By the second reconcile: the first one only writes into the status that the update is taken."""
    first = plan(observed)
    assert first.evict == ()
    return plan(replace(observed, live_status=first.status or observed.live_status)).evict


UPDATING = {"metadata": {}, "spec": {}, "status": {"update": {"state": "Updating"}}}
HOLDERS: dict[str, tuple[RawObject, bool]] = {
    "it takes its update": (UPDATING, True),
    "its replicas never become ready": (UPDATING | {"status": {**UPDATING["status"], "readyReplicas": 0}}, True),
    "it runs again": (UPDATING | {"spec": {"rollout": {"state": "Running"}}}, True),
    "its user paused it": (UPDATING | {"spec": {"rollout": {"state": "Paused"}}}, False),
    "it is being deleted": (UPDATING | {"metadata": {"deletionTimestamp": "2026-11-24T11:59:00Z"}}, False),
    "its update was rolled back": (UPDATING | {"status": {"update": {"state": "Rejected"}}}, False),
    "it waits itself": (UPDATING | {"status": {"update": {"state": "Waiting"}}}, False),
    "it is new": ({"metadata": {}}, False),
}


@pytest.mark.parametrize(("raw", "holds"), HOLDERS.values(), ids=HOLDERS.keys())
def test_who_makes_the_others_wait(raw: RawObject, *, holds: bool) -> None:
    assert holds_turn(raw) is holds


def test_accepted_flags_are_taken_one_replica_at_a_time() -> None:
    offered = plan(a_site_with_outdated_flags()).status
    assert offered is not None
    observed = a_site_with_outdated_flags(acceptUpdate=offered["update"]["revision"])

    first = plan(observed)

    (eviction,) = evicted(observed)
    assert eviction.uid == observed.pods[0]["metadata"]["uid"]
    assert first.status is not None
    assert first.status["update"]["state"] == "Updating"
    starting = replace(observed, live_status=first.status, pods=(a_pod("flash-new"), observed.pods[1]))
    assert plan(starting).evict == (), "the next one waits until this one is ready"
    one_left = replace(
        a_site_with_outdated_flags(outdated=1, acceptUpdate=offered["update"]["revision"]), live_status=first.status
    )
    assert len(plan(one_left).evict) == 1, "the offer has changed, and is still taken"
    none_left = replace(a_site_with_outdated_flags(outdated=0), live_status=first.status)
    status = plan(none_left).status
    assert status is not None
    assert status["update"]["state"] == "UpToDate"
