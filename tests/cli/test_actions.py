"""The commands that change something: what they refuse, what they write, and that the operator does what they say."""

import json
import re
import stat
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from builders import a_flash, a_pod
from flash_contracts.names import KIND, QUARANTINE_ANNOTATION, RETRY_ANNOTATION, ROLLBACK_ANNOTATION
from flash_contracts.orders import RollbackOrder, is_ordered_quarantine, order_time, ordered_quarantine
from flash_operator.core.observed.snapshot import RawObject
from flashctl.actions.bench import bench, failure, replica
from flashctl.actions.figures import figures_of, lines
from flashctl.actions.order import NotDoneError, NothingToDoError, order_now
from flashctl.actions.quarantine import quarantine, release
from flashctl.actions.retry import retry
from flashctl.actions.rollback import rollback, way_back
from flashctl.actions.update import offered, restarts, update
from flashctl.errors import CommandError, NoRightError, NotFoundError, UsageError
from flashctl.exits import Exit
from flashctl.output import Format
from flashctl.session import Session
from operated_cluster import OperatedCluster
from planned_snapshot import UPGRADED, Cluster

AT = "2026-11-28T19:00:00Z"
FUTURE = "2038-01-01T00:00:00Z"


def run(command: Callable[..., Any], cluster: OperatedCluster, *, kubectl: tuple[str, ...] = (), **given: Any) -> Any:
    return command.__wrapped__(Session(cluster, Format.JSON, kubectl), **given)  # type: ignore[attr-defined]


def settled(cluster: Cluster) -> Cluster:
    for _ in range(3):
        cluster.reconcile()
    return cluster


def changed() -> tuple[OperatedCluster, str, str]:
    planned = settled(Cluster(a_flash()))
    first = planned.revision
    planned.edit(engine={"contextTokens": 4096})
    settled(planned)
    return OperatedCluster(planned), first, planned.revision


def upgraded() -> OperatedCluster:
    planned = settled(Cluster(a_flash()))
    planned.upgrade()
    return OperatedCluster(planned)


# update


def test_an_available_update_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    cluster = upgraded()
    assert cluster.planned is not None
    offer = cluster.planned.update["revision"]
    assert run(update, cluster, name="flash", yes=True) is None
    ((kind, body),) = cluster.patches
    assert (kind, body["spec"]) == (KIND, {"rollout": {"acceptUpdate": offer}})
    assert cluster.planned.images == {UPGRADED.engine_image}
    shown = json.loads(capsys.readouterr().out)
    assert (shown["action"], shown["name"]) == ("update", "flash")
    assert offer in shown["message"]


STATES: dict[str, tuple[dict[str, Any], str]] = {
    "none": ({"state": "UpToDate"}, "up to date"),
    "nobody has looked": ({}, "no operator has reported"),
    "under way": ({"state": "Updating", "revision": "r"}, "takes update r already"),
    "rejected": ({"state": "Rejected", "revision": "r", "message": "slower"}, "slower; kubectl dsf retry flash"),
    "without a name": ({"state": "Available", "revision": ""}, "no update of flash is available"),
    "of a newer operator": ({"state": "Sometime", "revision": "r"}, "no update of flash is available"),
}


@pytest.mark.parametrize(("state", "said"), STATES.values(), ids=STATES.keys())
def test_without_an_update_to_take_it_says_why_and_changes_nothing(state: dict[str, Any], said: str) -> None:
    cluster = OperatedCluster()
    cluster.status(**({"update": state} if state else {}))
    with pytest.raises(NothingToDoError, match=re.escape(said)) as caught:
        run(update, cluster, name="flash", yes=True)
    assert caught.value.exit is Exit.NOT_READY
    assert cluster.patches == []


def test_an_update_that_is_not_the_agreed_one_is_not_taken() -> None:
    cluster = OperatedCluster()
    cluster.status(update={"state": "Available", "revision": "seen"})

    def another() -> None:
        cluster.touch()
        cluster.status(update={"state": "Available", "revision": "another"})

    cluster.before_patch = another
    with pytest.raises(NothingToDoError, match="seen is no longer offered, but another"):
        run(update, cluster, name="flash", yes=True)
    assert cluster.patches == []


def test_a_status_that_the_operator_writes_meanwhile_is_no_reason_to_fail() -> None:
    cluster = upgraded()
    cluster.before_patch = cluster.touch
    run(update, cluster, name="flash", yes=True)
    assert len(cluster.patches) == 1


@pytest.mark.parametrize(("spec", "said"), [
    ({"replicas": 3}, "Its 3 replicas restart one by one"),
    ({"replicas": 0}, "No engine runs now"),
    ({}, "unless two more GPUs are free"),
    ({"rollout": {"surge": "Disabled"}}, "nobody serves until"),
])  # fmt: skip
def test_it_says_what_restarts(spec: RawObject, said: str) -> None:
    assert said in restarts({"spec": spec})


def test_without_a_terminal_nothing_is_assumed(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = upgraded()
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    with pytest.raises(UsageError, match="--yes"):
        run(update, cluster, name="flash", yes=False)
    assert cluster.patches == []


def questions_answered_no(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    asked: list[str] = []

    def confirm(question: str, *, err: bool) -> bool:
        assert err, "stdout is for the result"
        asked.append(question)
        return False

    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("typer.confirm", confirm)
    return asked


def test_no_is_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = upgraded()
    asked = questions_answered_no(monkeypatch)
    with pytest.raises(NothingToDoError, match="nothing was changed"):
        run(update, cluster, name="flash", yes=False)
    assert cluster.patches == []
    assert "engine image" in asked[0]
    assert offered(cluster.get(KIND, "flash"))["revision"] in asked[0]


def test_what_others_wrote_moves_no_cursor(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = OperatedCluster()
    cluster.status(update={"state": "Available", "revision": "r", "changes": ["image: \x1b[2Ja\r -> b"]})
    asked = questions_answered_no(monkeypatch)
    with pytest.raises(NothingToDoError):
        run(update, cluster, name="flash", yes=False)
    assert "image: [2Ja -> b" in asked[0]


# rollback


def test_a_rollback_is_ordered_carried_out_and_answered(capsys: pytest.CaptureFixture[str]) -> None:
    cluster, first, second = changed()
    assert cluster.planned is not None
    run(rollback, cluster, name="flash", yes=True, wait=60.0)
    assert cluster.planned.revision == first
    order = RollbackOrder.parse(cluster.flash["metadata"]["annotations"][ROLLBACK_ANNOTATION])
    assert order is not None
    assert order.revision == second
    assert f"goes back from {second} to {first} (Done: " in json.loads(capsys.readouterr().out)["message"]
    with pytest.raises(NothingToDoError, match="is rolled back to"):
        run(rollback, cluster, name="flash", yes=True, wait=60.0)


def test_the_question_names_what_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster, _, _ = changed()
    asked = questions_answered_no(monkeypatch)
    for _ in range(2):
        with pytest.raises(NothingToDoError):
            run(rollback, cluster, name="flash", yes=False, wait=60.0)
        cluster.refused = {"ControllerRevision": NoRightError("you may not get controllerrevisions")}
    assert "--max-model-len=4096" in asked[0]
    assert "--max-model-len" not in asked[1], "it is the user's to decide without the details"
    assert cluster.patches == []


ROLLOUTS: dict[str, tuple[dict[str, Any], str]] = {
    "nothing passed yet": ({"state": "Settled", "revision": "a"}, "no template of flash has passed"),
    "nothing before": ({"state": "Settled", "revision": "a", "provenRevision": "a"}, "good before a, which flash runs"),
    "rolled back": (
        {"state": "RolledBack", "revision": "a", "provenRevision": "a", "message": "slow"},
        "already: slow",
    ),
    "no operator": ({}, "no operator has started"),
    "flags": ({"state": "Settled", "revision": "a", "provenRevision": "a", "previousRevision": "b"}, "no template: it"),
}


@pytest.mark.parametrize(("rollout", "said"), ROLLOUTS.values(), ids=ROLLOUTS.keys())
def test_without_a_way_back_it_says_why(rollout: dict[str, Any], said: str) -> None:
    update = {"state": "Updating", "revision": "flags-1"} if "no template: it" in said else {}
    raw = {"metadata": {"name": "flash"}, "status": {"rollout": rollout, "update": update}}
    with pytest.raises(NothingToDoError, match=re.escape(said)):
        way_back(raw)


def test_an_operator_that_is_down_is_named_and_the_order_stands() -> None:
    cluster, _, second = changed()
    cluster.operator_runs = False
    with pytest.raises(NotDoneError, match="has not answered within 1 s") as caught:
        run(rollback, cluster, name="flash", yes=True, wait=1.0)
    assert caught.value.exit is Exit.REFUSED
    assert cluster.flash["metadata"]["annotations"][ROLLBACK_ANNOTATION].startswith(second)


def test_an_order_is_later_than_one_by_a_clock_that_is_ahead() -> None:
    now = datetime(2026, 11, 28, 19, 0, 0, tzinfo=UTC)
    assert order_now(now=now) == AT
    assert order_now(None, AT, f"abc@{FUTURE}", now=now) == "2038-01-01T00:00:01Z"
    assert order_now("garbage", "2026-02-31T00:00:00Z", "@", now=now) == AT
    with pytest.raises(UsageError, match="last second of time"):
        order_now("9999-12-31T23:59:59Z", now=now)


# retry


def test_a_retry_tries_what_the_user_left_although_gitops_repeats_the_rollback() -> None:
    cluster, first, second = changed()
    assert cluster.planned is not None
    cluster.flash["metadata"]["annotations"][ROLLBACK_ANNOTATION] = f"{second}@{FUTURE}"
    cluster.planned.order(rollback=f"{second}@{FUTURE}")
    assert settled(cluster.planned).revision == first
    run(retry, cluster, name="flash", yes=True, wait=60.0)
    assert settled(cluster.planned).revision == second
    at = order_time(cluster.flash["metadata"]["annotations"][RETRY_ANNOTATION])
    assert at is not None
    assert at > FUTURE, "the clock that gave the first order is ahead"


def a_reported(pod: RawObject, reason: str) -> dict[str, Any]:
    return {"name": pod["metadata"]["name"], "uid": pod["metadata"]["uid"], "reason": reason, "message": "why"}


def test_failed_replicas_are_made_again_and_no_others() -> None:
    cluster = OperatedCluster()
    reasons = {
        "a-download": "ModelUnavailable", "b-dead": "DraftDead", "c-serves": "Passed", "d-recovered": "TooSlow",
        "e-inspected": "EngineExited", "f-starting": "EngineStarting", "g-unschedulable": "Unschedulable",
        "h-pull": "ImagePullBackOff", "i-terminating": "EngineExited", "j-another": "EngineExited",
    }  # fmt: skip
    reported = []
    for name, reason in reasons.items():
        pod = a_pod(name, ready=name in ("c-serves", "d-recovered"))
        reported.append(a_reported(pod, reason))
        if name == "e-inspected":
            pod["metadata"]["annotations"][QUARANTINE_ANNOTATION] = ordered_quarantine(AT)
        if name == "i-terminating":
            pod["metadata"]["deletionTimestamp"] = AT
        if name == "j-another":
            pod["metadata"]["uid"] = "replaced-meanwhile"
        cluster.replica(pod)
    cluster.status(pods=reported)
    run(retry, cluster, name="flash", yes=True, wait=60.0)
    assert cluster.deleted == [("Pod", "a-download"), ("Pod", "b-dead"), ("Pod", "h-pull")]
    assert cluster.patches == [], "the operator has nothing to be told"


def test_a_failed_restore_is_made_again() -> None:
    cluster = OperatedCluster()
    cluster.status(model={"mtp": "Failed"})
    run(retry, cluster, name="flash", yes=True, wait=60.0)
    assert cluster.deleted == [("Job", "flash-restore")]


@pytest.mark.parametrize("status", [{}, {"rollout": {"state": "Settled"}, "update": {"state": "Available"}}])
def test_where_nothing_failed_nothing_is_done(status: dict[str, Any]) -> None:
    cluster = OperatedCluster()
    cluster.status(**status)
    with pytest.raises(NothingToDoError, match="nothing of flash"):
        run(retry, cluster, name="flash", yes=True, wait=60.0)
    assert (cluster.patches, cluster.deleted) == ([], [])


# quarantine and release


def with_replicas(*names: str, deployment: str = "flash") -> OperatedCluster:
    cluster = OperatedCluster()
    for name in names:
        cluster.replica(a_pod(name, ready=True), deployment)
    return cluster


def value_of(cluster: OperatedCluster, name: str) -> str | None:
    found: str | None = cluster.objects["Pod", name]["metadata"]["annotations"].get(QUARANTINE_ANNOTATION)
    return found


def test_a_replica_is_taken_out_and_given_back() -> None:
    cluster = with_replicas("a", "b")
    run(quarantine, cluster, pod="a", force=False, wait=0.0)
    assert is_ordered_quarantine(value_of(cluster, "a"))
    with pytest.raises(NothingToDoError, match="by a user's order"):
        run(quarantine, cluster, pod="a", force=False, wait=0.0)
    run(release, cluster, pod="a", wait=0.0)
    assert value_of(cluster, "a") is None
    with pytest.raises(NothingToDoError, match="no user has taken a out"):
        run(release, cluster, pod="a", wait=0.0)


def test_the_last_replica_that_serves_needs_force() -> None:
    cluster = with_replicas("a", "b")
    run(quarantine, cluster, pod="a", force=False, wait=0.0)
    with pytest.raises(NotDoneError, match="last replica of flash that serves") as caught:
        run(quarantine, cluster, pod="b", force=False, wait=0.0)
    assert caught.value.exit is Exit.REFUSED
    assert value_of(cluster, "b") is None
    run(quarantine, cluster, pod="b", force=True, wait=0.0)
    assert is_ordered_quarantine(value_of(cluster, "b"))


def test_two_users_cannot_take_out_the_last_two() -> None:
    cluster = with_replicas("a", "b")

    def other_user() -> None:
        cluster.objects["Pod", "b"]["metadata"]["annotations"][QUARANTINE_ANNOTATION] = ordered_quarantine(AT)

    cluster.before_patch = other_user
    with pytest.raises(NotDoneError, match="stays in service"):
        run(quarantine, cluster, pod="a", force=False, wait=0.0)
    assert value_of(cluster, "a") is None


def test_the_operators_own_quarantine_is_not_a_users_to_end() -> None:
    cluster = with_replicas("a", "b")
    cluster.objects["Pod", "a"]["metadata"]["annotations"][QUARANTINE_ANNOTATION] = "2026-11-28T19:00:00.000Z"
    with pytest.raises(NothingToDoError, match="the operator, and no user, took a out"):
        run(release, cluster, pod="a", wait=0.0)
    assert cluster.patches == []
    run(quarantine, cluster, pod="a", force=False, wait=0.0)
    assert is_ordered_quarantine(value_of(cluster, "a"))


def test_the_pod_of_somebody_else_is_left_alone() -> None:
    cluster = with_replicas("a", "b")
    cluster.put(a_pod("web", ready=True))
    forged = a_pod("forged", ready=True)
    cluster.replica(forged)
    forged["metadata"]["ownerReferences"] = []
    for name in ("web", "forged"):
        with pytest.raises(NotFoundError, match="no replica of a"):
            run(quarantine, cluster, pod=name, force=True, wait=0.0)
    orphans = with_replicas("c", deployment="gone")
    with pytest.raises(NotFoundError):
        run(quarantine, orphans, pod="c", force=True, wait=0.0)
    assert cluster.patches == orphans.patches == []


def test_a_pod_that_is_replaced_meanwhile_is_left_alone() -> None:
    cluster = with_replicas("a", "b")

    def replaced() -> None:
        pod = a_pod("a", ready=True)
        pod["metadata"]["uid"] = "another"
        cluster.replica(pod)

    cluster.before_patch = replaced
    with pytest.raises(NotFoundError, match="replaced meanwhile"):
        run(quarantine, cluster, pod="a", force=False, wait=0.0)
    assert value_of(cluster, "a") is None


def test_a_gate_that_knows_no_orders_is_told_of() -> None:
    cluster = with_replicas("a", "b")
    with pytest.raises(NotDoneError, match="still ready after 1 s"):
        run(quarantine, cluster, pod="a", force=False, wait=1.0)


# bench

SAMPLE = {"tokens": 128, "decodeTokensPerSecond": 84.0, "firstTokenMillis": 150.0, "drafted": 100, "accepted": 90}


def an_answer(*rates: float, problem: str = "", floor: float | None = 80.0) -> str:
    samples = [{**SAMPLE, "decodeTokensPerSecond": rate} for rate in rates]
    ordered = {"id": "1", "problem": problem, "samples": samples}
    return json.dumps({"ordered": ordered, "wanted": {"decodeTokensPerSecond": floor, "acceptancePercent": 60}})


def test_the_figures_are_median_spread_and_acceptance_beside_the_floors() -> None:
    figures = figures_of(an_answer(84.0, 88.0, 80.0, 85.0, 83.0), "team", "flash", "flash-a")
    assert (figures.median, figures.lowest, figures.highest) == (84.0, 80.0, 88.0)
    assert figures.spread_percent == pytest.approx(9.5)
    assert (figures.acceptance_percent, figures.floor, figures.acceptance_floor_percent) == (90.0, 80.0, 60.0)
    assert figures.is_fast
    text = lines(figures)
    assert "84.0 tok/s median, wanted at least 80 tok/s" in text
    assert "84.0, 88.0, 80.0, 85.0, 83.0 (spread 9.5 %)" in text
    assert "90 % of drafted tokens, wanted at least 60 %" in text
    assert not figures_of(an_answer(70.0), "team", "flash", "flash-a").is_fast
    assert figures_of(an_answer(70.0, floor=None), "team", "flash", "flash-a").is_fast


@pytest.mark.parametrize("text", ["", "[]", "null", "{", '{"ordered": null}', '{"ordered": {"id": "1", "samples": 7}}',
                                  an_answer(), an_answer(0.0), an_answer(-1.0), an_answer(float("inf")),
                                  an_answer(float("nan")), an_answer(84.0, problem="busy")])  # fmt: skip
def test_what_is_no_measurement_gives_no_figures(text: str) -> None:
    with pytest.raises(NotDoneError):
        figures_of(text, "team", "flash", "flash-a")


def fake_kubectl(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    program = folder / "kubectl"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_the_gate_of_an_idle_replica_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = with_replicas("a", "b")
    run(quarantine, cluster, pod="b", force=False, wait=0.0)
    capsys.readouterr()
    (tmp_path / "answer").write_text(an_answer(70.0))
    fake_kubectl(tmp_path, monkeypatch, f'echo "$@" >{tmp_path}/asked; cat {tmp_path}/answer')
    assert run(bench, cluster, kubectl=("--context=prod",), name="flash", pod=None) is Exit.NOT_READY
    asked = (tmp_path / "asked").read_text().strip()
    assert asked == "exec --context=prod --namespace=team b --container=gate -- flash-measure", "b is surely idle"
    assert json.loads(capsys.readouterr().out)["median"] == 70.0


FAILURES: dict[str, tuple[str, type[CommandError], str]] = {
    "no right": (
        'Error from server (Forbidden): pods "a" is forbidden: User "jane" cannot create resource "pods/exec"',
        NoRightError, "you (jane) may not create pods/exec"),
    "an older image": (
        'exec: "flash-measure": executable file not found in $PATH', NotDoneError, "take the engine update"),
    "another error": ("error: unable to upgrade connection", NotDoneError, "unable to upgrade connection"),
    "nothing": ("", NotDoneError, "without a word"),
}  # fmt: skip


@pytest.mark.parametrize(("stderr", "kind", "said"), FAILURES.values(), ids=FAILURES.keys())
def test_a_command_that_cannot_run_is_explained(stderr: str, kind: type[CommandError], said: str) -> None:
    error = failure(stderr, "team", "a")
    assert isinstance(error, kind)
    assert said in str(error)


def test_the_answer_of_a_gate_that_refuses_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "answer").write_text(an_answer(problem="not measured within 120 s: it has requests of users"))
    fake_kubectl(tmp_path, monkeypatch, f"cat {tmp_path}/answer; exit 1")
    with pytest.raises(NotDoneError, match="a was not measured: not measured within 120 s: it has requests"):
        run(bench, with_replicas("a"), name="flash", pod="a")


def test_without_kubectl_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="kubectl is not in PATH"):
        run(bench, with_replicas("a"), name="flash", pod="a")


def test_only_replicas_of_the_deployment_are_measured() -> None:
    pods = [a_pod("b", ready=True), a_pod("a", ready=True), a_pod("c")]
    assert replica(pods, "flash", None) == "a"
    with pytest.raises(NotFoundError, match="x is no replica of flash; it has a, b, c"):
        replica(pods, "flash", "x")
    with pytest.raises(NothingToDoError, match="no replica of flash serves"):
        replica([a_pod("c")], "flash", None)
