"""`kubectl dsf diff`: which engines an apply would restart, by the operator's own code."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from builders import a_flash, a_flash_object
from flash_contracts.names import KIND
from flash_operator.core.observed.snapshot import RawObject
from flashctl.actions.diff import diff, manifests
from flashctl.actions.difference import LAST_APPLIED, Difference, Effect, as_applied, text_of, without_dropped
from flashctl.errors import CommandError, RefusedError, UsageError
from flashctl.exits import Exit
from flashctl.output import Format
from flashctl.session import Session
from operated_cluster import OperatedCluster
from planned_snapshot import Cluster


def a_cluster(**spec: Any) -> OperatedCluster:
    planned = Cluster(a_flash(**spec))
    for _ in range(3):
        planned.reconcile()
    return OperatedCluster(planned)


def compare(cluster: OperatedCluster, folder: Path, capsys: pytest.CaptureFixture[str], **spec: Any) -> RawObject:
    file = folder / "flash.yaml"
    raw = a_flash_object(**spec)
    file.write_text(yaml.safe_dump({**raw, "metadata": {"name": "flash"}}))
    ended = diff.__wrapped__(Session(cluster, Format.JSON), filename=str(file))  # type: ignore[attr-defined]
    (found,) = json.loads(capsys.readouterr().out)["deployments"]
    assert (ended is Exit.DONE) == (found["effect"] == "Nothing")
    assert cluster.patches == []
    return dict(found)


def test_the_same_spec_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare(a_cluster(), tmp_path, capsys)["effect"] == "Nothing"


RESTARTING: dict[str, tuple[dict[str, Any], str]] = {
    "context": ({"engine": {"contextTokens": 4096}}, "--max-model-len=4096"),
    "image": ({"engine": {"image": "registry.example/own:1"}}, "registry.example/own:1"),
    "interconnect": ({"interconnect": {"mode": "Safe"}}, "interconnect"),
}


@pytest.mark.parametrize(("spec", "said"), RESTARTING.values(), ids=RESTARTING.keys())
def test_what_is_in_the_template_restarts_engines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], spec: dict[str, Any], said: str
) -> None:
    found = compare(a_cluster(), tmp_path, capsys, **spec)
    assert found["effect"] == "Restarts"
    assert any(said in line for line in found["template"])
    assert found["spec"]


@pytest.mark.parametrize("spec", [
    {"replicas": 2},
    {"rollout": {"engineUpdates": "Paced"}},
    {"rollout": {"maxSlowdownPercent": 20}},
    {"readiness": {"minDecodeTokensPerSecond": 33}},
])  # fmt: skip
def test_what_is_not_in_the_template_restarts_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], spec: dict[str, Any]
) -> None:
    cluster = a_cluster()
    found = compare(cluster, tmp_path, capsys, **spec)
    assert (found["effect"], found["template"]) == ("NoRestart", [])
    assert found["spec"]
    assert cluster.planned is not None
    before = cluster.planned.revision
    cluster.planned.edit(**spec)
    assert cluster.planned.revision == before, "the operator agrees"


def test_an_update_that_the_file_accepts_restarts_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cluster = a_cluster()
    assert cluster.planned is not None
    cluster.planned.upgrade()
    offer = cluster.planned.update["revision"]
    found = compare(cluster, tmp_path, capsys, rollout={"acceptUpdate": offer})
    assert (found["effect"], found["update"]) == ("Restarts", offer)
    assert any("engine image" in line for line in found["template"])
    assert compare(cluster, tmp_path, capsys, rollout={"acceptUpdate": "other"})["effect"] == "NoRestart"


def test_the_first_to_let_updates_come_by_themselves_restarts_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = a_cluster()
    assert cluster.planned is not None
    cluster.planned.upgrade()
    assert compare(cluster, tmp_path, capsys, rollout={"engineUpdates": "Paced"})["effect"] == "Restarts"


def test_a_pause_and_its_end_are_seen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cluster = a_cluster()
    paused = {"rollout": {"state": "Paused"}, "engine": {"contextTokens": 4096}}
    assert compare(cluster, tmp_path, capsys, **paused)["effect"] == "Waits"
    assert compare(cluster, tmp_path, capsys, rollout={"state": "Paused"})["effect"] == "NoRestart"
    assert cluster.planned is not None
    status = cluster.planned.observed.live_status
    pending = {**status, "rollout": {**status["rollout"], "state": "Paused", "provenRevision": "another"}}
    cluster.planned.observed = replace(
        cluster.planned.observed, flash=a_flash(rollout={"state": "Paused"}), live_status=pending
    )
    resumed = compare(OperatedCluster(cluster.planned), tmp_path, capsys, rollout={"state": "Active"})
    assert resumed["effect"] == "Restarts"


def test_what_was_rolled_back_is_not_tried_again_for_more_replicas(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = a_cluster()
    assert cluster.planned is not None
    first = cluster.planned.revision
    cluster.planned.speed = 20.0
    other = {"engine": {"contextTokens": 4096}}
    for _ in range(3):
        cluster.planned.edit(**other)
    assert cluster.planned.revision == first
    assert compare(cluster, tmp_path, capsys, replicas=3, **other)["effect"] == "NoRestart"
    assert compare(cluster, tmp_path, capsys, engine={"contextTokens": 8000})["effect"] == "Restarts"
    assert compare(cluster, tmp_path, capsys)["effect"] == "NoRestart", "what runs is asked for again"


def test_a_newer_operator_alone_is_no_difference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cluster = a_cluster()
    assert cluster.planned is not None
    cluster.planned.upgrade()
    found = compare(cluster, tmp_path, capsys, engine={"contextTokens": 4096})
    assert not any("engine image" in line for line in found["template"])


def test_a_new_deployment_is_new(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "new.yaml"
    file.write_text(yaml.safe_dump({**a_flash_object(replicas=3), "metadata": {"name": "other"}}))
    assert diff.__wrapped__(Session(a_cluster()), filename=str(file)) is Exit.NOT_READY  # type: ignore[attr-defined]
    assert "other is new: 3 replicas to start" in capsys.readouterr().out


def test_a_template_that_is_not_stored_is_not_guessed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cluster = a_cluster()
    assert cluster.planned is not None
    children = cluster.planned.observed.children
    for key in [key for key in children if key[0] == "ControllerRevision"]:
        del children[key]
    assert compare(cluster, tmp_path, capsys, engine={"contextTokens": 4096})["effect"] == "Unknown"


def test_what_the_api_server_refuses_is_an_error_in_its_words(tmp_path: Path) -> None:
    cluster = a_cluster()

    def refuse(_: RawObject) -> RawObject:
        raise RefusedError("spec.replicas: Invalid value: -1", 422)

    cluster.dry_run = refuse
    file = tmp_path / "bad.yaml"
    file.write_text(yaml.safe_dump(a_flash_object(replicas=-1)))
    with pytest.raises(CommandError, match="Invalid value: -1") as caught:
        diff.__wrapped__(Session(cluster), filename=str(file))  # type: ignore[attr-defined]
    assert caught.value.exit > 1


BAD_FILES: dict[str, tuple[str, str]] = {
    "no YAML": ("a: [", "is no YAML"),
    "a number": ("7", "no Kubernetes object"),
    "a text": ("hello", "no Kubernetes object"),
    "empty": ("", f"has no {KIND}"),
    "another kind": ("kind: Pod\nmetadata: {name: a}", "kubectl diff"),
    "no name": (f"kind: {KIND}\nmetadata: {{}}\nspec: {{}}", "needs metadata.name"),
    "no spec": (f"kind: {KIND}\nmetadata: {{name: a}}", "needs metadata.name and spec"),
    "a tag": ("!!python/object/apply:os.system ['id']", "is no YAML"),
}


@pytest.mark.parametrize(("text", "said"), BAD_FILES.values(), ids=BAD_FILES.keys())
def test_a_file_without_a_deployment_is_a_usage_error(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        manifests(text, "f.yaml")


def test_a_missing_file_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        diff.__wrapped__(Session(OperatedCluster()), filename=str(tmp_path / "no"))  # type: ignore[attr-defined]


def test_other_kinds_of_a_file_are_left_out_and_lists_are_read() -> None:
    ours = a_flash_object()
    text = yaml.safe_dump_all([{"kind": "Secret", "metadata": {"name": "s"}}, None, {"kind": "List", "items": [ours]}])
    assert manifests(text, "f.yaml") == [ours]


def test_a_field_that_the_last_apply_set_and_the_file_lacks_is_removed() -> None:
    earlier = {"replicas": 3, "engine": {"contextTokens": 4096}, "model": {"source": "pvc://a/b"}}
    wanted = {"model": {"source": "pvc://a/c"}, "engine": {}}
    taken = {"replicas": 3, "engine": {"contextTokens": 4096, "swap": 1}, "model": {"source": "pvc://a/c"}, "own": 1}
    expected = {"engine": {"swap": 1}, "model": {"source": "pvc://a/c"}, "own": 1}
    assert without_dropped(taken, earlier, wanted) == expected
    live = {"metadata": {"annotations": {LAST_APPLIED: json.dumps({"spec": earlier})}}}
    assert as_applied(live, {"spec": wanted}, {"spec": taken}) == expected


@pytest.mark.parametrize("text", [None, "", "{", "[]", "7", '{"spec": 7}', "{}"])
def test_an_annotation_that_is_none_of_kubectls_is_ignored(text: str | None) -> None:
    live: RawObject = {"metadata": {"annotations": {LAST_APPLIED: text} if text is not None else None}}
    assert as_applied(live, {"spec": {}}, {"spec": {"replicas": 3}}) == {"replicas": 3}


def test_the_text_says_first_what_restarts() -> None:
    found = Difference(namespace="team", name="flash", effect=Effect.RESTARTS, replicas=2, spec=["replicas: 1 -> 2"],
                       template=["engine image: a -> b"], update="r1")  # fmt: skip
    assert text_of(found).splitlines() == [
        "team/flash RESTARTS its engines: 2 replicas, one by one, rolled back if they fail or become slower",
        "  takes engine update r1",
        "  spec    replicas: 1 -> 2",
        "  engine  engine image: a -> b",
    ]
