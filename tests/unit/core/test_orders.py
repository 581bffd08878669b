"""Orders of a user: rollback and retry are carried out once, the later one counts, and the status answers."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import a_flash, a_gate, a_pod, an_observed, condition
from flash_contracts.names import QUARANTINE_ANNOTATION, RETRY_ANNOTATION, ROLLBACK_ANNOTATION
from flash_contracts.orders import (
    DeploymentOrders,
    RollbackOrder,
    is_ordered_quarantine,
    order_time,
    ordered_quarantine,
)
from flash_operator.core.observed.snapshot import RawObject
from flash_operator.core.plan import plan
from flash_operator.core.rollout.engine_update import may_update
from flash_operator.core.rollout.orders import holds, with_retry
from planned_snapshot import UPGRADED, Cluster

T1, T2, T3 = "2026-11-28T19:00:00Z", "2026-11-28T19:00:01Z", "2027-01-01T00:00:00Z"
SMALLER = {"engine": {"contextTokens": 4096}}


def settled(cluster: Cluster) -> Cluster:
    for _ in range(3):
        cluster.reconcile()
    return cluster


def changed() -> tuple[Cluster, str, str]:
    """All replicas run a second template and have passed. Also the first and the second revision."""
    cluster = settled(Cluster(a_flash()))
    first = cluster.revision
    cluster.edit(**SMALLER)
    settled(cluster)
    assert rollout_of(cluster)["provenRevision"] == cluster.revision != first
    return cluster, first, cluster.revision


def rollout_of(cluster: Cluster) -> RawObject:
    found: RawObject = cluster.observed.live_status["rollout"]
    return found


def answers(cluster: Cluster) -> list[tuple[str, str]]:
    return [(answer["order"], answer["state"]) for answer in cluster.observed.live_status.get("orders", [])]


def test_a_rollback_goes_back_to_the_template_before_and_stays_there_without_the_order() -> None:
    cluster, first, second = changed()
    assert rollout_of(cluster)["previousRevision"] == first

    cluster.order(rollback=f"{second}@{T1}")

    assert cluster.revision == first
    assert rollout_of(cluster)["state"] == "RolledBack"
    assert f"by a user's order of {T1}" in rollout_of(cluster)["message"]
    assert condition(cluster.observed.live_status, "Ready")["reason"] == "RolledBack"
    assert answers(cluster) == [("Rollback", "Done")]
    assert settled(cluster).revision == first
    cluster.order()
    assert settled(cluster).revision == first, "the rejection is kept in the status"
    assert rollout_of(cluster)["state"] == "RolledBack"
    assert answers(cluster) == []


def test_an_operator_that_restarts_between_the_order_and_its_answer_does_the_same() -> None:
    cluster, first, second = changed()
    before = cluster.observed.live_status
    cluster.order(rollback=f"{second}@{T1}")
    cluster.observed = replace(cluster.observed, live_status=before)
    assert settled(cluster).revision == first
    assert rollout_of(cluster)["state"] == "RolledBack"


def test_a_rollback_while_it_rolls_out_goes_back_to_the_last_known_good_one() -> None:
    cluster = settled(Cluster(a_flash(rollout={"maxSlowdownPercent": 50})))
    first = cluster.revision
    cluster.edit(rollout={"maxSlowdownPercent": 50}, **SMALLER)
    second = cluster.revision
    pods = tuple(a_pod(pod["metadata"]["name"]) | {"metadata": pod["metadata"]} for pod in cluster.observed.pods)
    cluster.observed = replace(cluster.observed, pods=pods, gates={})
    cluster.order(rollback=f"{second}@{T1}")
    assert cluster.revision == first


def test_a_rollback_that_gitops_repeats_says_nothing_about_another_template() -> None:
    cluster, first, second = changed()
    cluster.order(rollback=f"{second}@{T1}")
    cluster.edit(engine={"contextTokens": 8192})
    third = cluster.revision
    assert third not in (first, second)
    assert settled(cluster).revision == third
    assert rollout_of(cluster)["state"] == "Settled"
    assert answers(cluster) == [("Rollback", "Done")]


def test_a_later_retry_tries_the_template_that_the_user_left_and_an_earlier_one_does_not() -> None:
    cluster, first, second = changed()
    cluster.order(rollback=f"{second}@{T2}")
    cluster.order(rollback=f"{second}@{T2}", retry=T1)
    assert settled(cluster).revision == first
    cluster.order(rollback=f"{second}@{T2}", retry=T2)
    assert settled(cluster).revision == first, "two orders of one second: the safe one counts"
    cluster.order(rollback=f"{second}@{T2}", retry=T3)
    assert settled(cluster).revision == second
    assert rollout_of(cluster)["state"] == "Settled"
    assert answers(cluster) == [("Rollback", "Done"), ("Retry", "Done")]


def test_what_was_too_slow_is_tried_once_for_each_retry_however_often_it_is_written() -> None:
    cluster = settled(Cluster(a_flash()))
    first = cluster.revision
    cluster.speed = 20.0

    def attempts() -> int:
        """How often another template is applied, until nothing changes."""
        found = 0
        for _ in range(4):
            wanted = plan(cluster.observed)
            made = [child for child in wanted.apply if child["kind"] == "Deployment"]
            found += sum(
                child["spec"]["template"]["metadata"]["annotations"]["deepseekflash.dev/revision"] != first
                for child in made
            )
            cluster.reconcile()
        return found

    cluster.edit(**SMALLER)
    attempts()
    assert cluster.revision == first
    assert rollout_of(cluster)["state"] == "RolledBack"
    for retry, expected in ((T1, 1), (None, 0), (T1, 0), (T2, 1), (T1, 0), (T2, 0), ("garbage", 0), (T3, 1)):
        flash = cluster.observed.flash.model_copy(update={"orders": DeploymentOrders(retry_text=retry)})
        cluster.observed = replace(cluster.observed, flash=flash)
        tried = attempts()
        assert (retry, tried) == (retry, expected)
        assert cluster.revision == first


def test_a_rollback_without_an_earlier_template_is_refused_and_one_while_paused_waits() -> None:
    cluster = settled(Cluster(a_flash()))
    cluster.order(rollback=f"{cluster.revision}@{T1}")
    assert answers(cluster) == [("Rollback", "Refused")]
    assert rollout_of(cluster)["state"] == "Settled"

    cluster, first, second = changed()
    cluster.edit(rollout={"state": "Paused"}, **SMALLER)
    cluster.order(rollback=f"{second}@{T1}")
    assert (cluster.revision, answers(cluster)) == (second, [("Rollback", "Waiting")])
    cluster.edit(**SMALLER)
    assert (cluster.revision, answers(cluster)) == (first, [("Rollback", "Done")])


def test_a_rollback_of_an_engine_update_keeps_it_rejected_although_it_is_accepted() -> None:
    cluster = settled(Cluster(a_flash()))
    first = cluster.revision
    cluster.upgrade()
    accepted = {"rollout": {"acceptUpdate": cluster.update["revision"]}}
    cluster.edit(**accepted)
    settled(cluster)
    assert cluster.images == {UPGRADED.engine_image}
    cluster.order(rollback=f"{cluster.revision}@{T1}")
    settled(cluster)
    assert cluster.revision == first
    assert cluster.update["state"] == "Rejected"
    cluster.order()
    assert settled(cluster).revision == first


def test_a_rollback_while_an_engine_update_is_taken_rejects_it() -> None:
    cluster = settled(Cluster(a_flash()))
    first = cluster.revision
    cluster.upgrade()
    cluster.edit(rollout={"acceptUpdate": cluster.update["revision"]})
    assert cluster.update["state"] == "Updating"
    cluster.order(rollback=f"{cluster.revision}@{T1}")
    assert (cluster.revision, cluster.update["state"]) == (first, "Rejected")
    assert settled(cluster).revision == first


HOSTILE = ["", "@", "yes", "../../x@" + T1, "a" * 100_000, f"{'a' * 10}@{T1}\n", f"A{T1}", "\x1b[2J@" + T1,
           f"\u0663@{T1}", f"abc@{T1}@{T1}", f"abc@\uff12{T1[1:]}"]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_a_value_that_is_no_order_changes_nothing_and_is_refused(text: str) -> None:
    cluster, _, second = changed()
    wanted = cluster.order(rollback=text, retry=text)
    assert cluster.revision == second
    assert not [child for child in wanted.apply if child["kind"] == "Deployment"]
    assert answers(cluster) == [("Rollback", "Refused"), ("Retry", "Refused")]
    assert all(len(answer["value"]) <= 64 for answer in cluster.observed.live_status["orders"])


@given(st.text(max_size=40))
def test_only_its_own_spelling_is_an_order(text: str) -> None:
    order = RollbackOrder.parse(text)
    assert order is None or str(order) == text
    assert not is_ordered_quarantine(text) or text == ordered_quarantine(text.partition("@")[2])
    assert order_time(text) in (None, text)


def test_the_orders_are_read_from_the_annotations() -> None:
    raw = {RETRY_ANNOTATION: T1, ROLLBACK_ANNOTATION: f"abc@{T2}", "other": "x"}
    assert DeploymentOrders.of(raw).rollback == RollbackOrder("abc", T2)
    assert DeploymentOrders.of({**raw, RETRY_ANNOTATION: T3}).rollback is None
    assert DeploymentOrders.of(None) == DeploymentOrders()


def test_a_rejection_without_a_retry_holds_as_it_did_before_there_were_orders() -> None:
    assert with_retry("spec-1", DeploymentOrders()) == "spec-1"
    assert holds("spec-1", "spec-1")
    assert not holds("spec-1", "spec-2")
    assert not holds(None, "spec-1")


def test_gpus_are_counted_for_a_retry_of_what_was_rejected() -> None:
    retried = a_flash().model_copy(update={"orders": DeploymentOrders(retry_text=T1)})
    assert may_update(retried, {"rollout": {"rejected": "spec-1"}})
    assert not may_update(retried, {"rollout": {"rejected": f"spec-1@{T1}"}})
    assert not may_update(retried, {})
    assert not may_update(a_flash(), {"rollout": {"rejected": "spec-1"}})


def ordered_out(name: str = "flash-a", *, ready: bool = False) -> RawObject:
    pod = a_pod(name, ready=ready)
    pod["metadata"]["annotations"][QUARANTINE_ANNOTATION] = ordered_quarantine(T1)
    return pod


def test_a_replica_that_a_user_took_out_of_service_is_reported_and_stays_out() -> None:
    observed = an_observed(pods=(ordered_out(),), gates={"flash-a": a_gate()})
    wanted = plan(observed)
    assert wanted.status is not None
    (pod,) = wanted.status["pods"]
    assert (pod["quarantine"], pod["reason"]) == ("Ordered", "OutOfService")
    assert "kubectl dsf release flash-a" in pod["message"]
    assert condition(wanted.status, "Ready")["reason"] == "OutOfService"
    assert not [one for one in wanted.annotate if QUARANTINE_ANNOTATION in one.annotations], "even the last replica"
    assert condition(wanted.status, "Progressing")["status"] != "True"


def test_a_broken_replica_that_a_user_took_out_says_what_is_broken() -> None:
    observed = an_observed(pods=(ordered_out(),), gates={"flash-a": a_gate("DraftDead", "no draft is accepted")})
    wanted = plan(observed)
    assert wanted.status is not None
    assert wanted.status["pods"][0]["reason"] == "DraftDead"
    assert wanted.status["pods"][0]["quarantine"] == "Ordered"


def test_a_grant_is_written_only_on_the_pod_that_was_seen() -> None:
    """A user may have ordered the replica out since then."""
    pod = a_pod(ready=True)
    pod["metadata"]["resourceVersion"] = "7"
    pod["metadata"]["annotations"][QUARANTINE_ANNOTATION] = "2026-11-24T12:00:00.000Z"
    wanted = plan(an_observed(pods=(pod,), gates={"flash-a": a_gate()}))
    (written,) = [one for one in wanted.annotate if QUARANTINE_ANNOTATION in one.annotations]
    assert (written.annotations[QUARANTINE_ANNOTATION], written.resource_version) == (None, "7")
