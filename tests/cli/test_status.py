"""`kubectl dsf status`: the table and the document, and the exit code that scripts rely on."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from builders import NOON, a_flash_object
from explained_failures import a_serving_observed, explanations
from flash_contracts.names import API_VERSION
from flash_operator.core.plan import plan
from flashctl.__main__ import complete
from flashctl.age import age_of
from flashctl.exits import Exit
from flashctl.status_table import Row, StatusDocument, rows
from flashctl_runs import ScriptedServer, flashctl, kubeconfig

LIST = f"/apis/{API_VERSION}/namespaces/team/deepseekflashdeployments"
SERVING = {**a_flash_object(), "status": plan(a_serving_observed()).status}


def run(tmp_path: Path, *args: str, items: list[Any]) -> Any:
    everywhere = f"/apis/{API_VERSION}/deepseekflashdeployments"
    with ScriptedServer({LIST: (200, {"items": items}), everywhere: (200, {"items": items})}) as server:
        return flashctl("status", *args, "--kubeconfig", kubeconfig(tmp_path, server.url))


def test_a_row_of_what_the_operator_writes() -> None:
    (row,) = rows([SERVING])
    assert (row.ready, row.reason, row.replicas) == ("True", "Passed", "1/1")
    assert (row.decode_tokens_per_second, row.acceptance_percent) == (85, 92)


def test_ready_ends_with_0_and_anything_else_with_1(tmp_path: Path) -> None:
    assert run(tmp_path, items=[SERVING]).exit_code == Exit.DONE
    assert run(tmp_path, items=[SERVING, a_flash_object("new")]).exit_code == Exit.NOT_READY


def test_all_namespaces_are_named_and_sorted(tmp_path: Path) -> None:
    other = {**a_flash_object("a"), "metadata": {"name": "a", "namespace": "zoo"}}
    done = run(tmp_path, "-A", items=[other, SERVING])
    assert [line.split()[:2] for line in done.stdout.splitlines()[1:]] == [["team", "flash"], ["zoo", "a"]]


def test_while_the_operator_is_down_ready_is_not_believed(tmp_path: Path) -> None:
    lease = {"metadata": {"name": "flash-operator", "namespace": "s"}, "spec": {"renewTime": "2020-01-01T00:00:00Z"}}
    leases = {"/apis/coordination.k8s.io/v1/leases": (200, {"items": [lease]})}
    with ScriptedServer({LIST: (200, {"items": [SERVING]}), **leases}) as server:
        done = flashctl("status", "--kubeconfig", kubeconfig(tmp_path, server.url))
    assert done.exit_code == Exit.NOT_READY
    assert "the operator is down" in done.stdout
    assert "the table is what it wrote last" in " ".join(done.stdout.split())


def test_escape_sequences_of_a_tenant_do_not_reach_the_terminal(tmp_path: Path) -> None:
    hostile = {**a_flash_object("evil"), "status": {"conditions": [{"type": "Ready", "reason": "\x1b]0;owned\x07"}]}}
    assert "\x1b" not in run(tmp_path, items=[hostile]).stdout


def test_an_empty_namespace_says_so(tmp_path: Path) -> None:
    assert run(tmp_path, items=[]).stdout.strip() == "no deployment in namespace team"


def test_the_document_has_the_declared_shape(tmp_path: Path) -> None:
    document = json.loads(run(tmp_path, "-o", "json", items=[SERVING]).stdout)
    assert StatusDocument.model_validate(document).deployments[0].name == "flash"
    assert {*document["deployments"][0]} <= {str(field.alias) for field in Row.model_fields.values()}


@pytest.mark.parametrize("title", explanations())
def test_an_explanation_survives_its_document(title: str) -> None:
    found = explanations()[title]
    assert type(found).model_validate(json.loads(json.dumps(found.as_json()))) == found


@pytest.mark.parametrize(
    ("since", "age"),
    [
        ("2026-11-24T11:59:20Z", "40s"), ("2026-11-24T11:30:00Z", "30m"), ("2026-11-24T05:00:00Z", "7h"),
        ("2026-11-20T12:00:00Z", "4d"), ("2026-11-24T12:00:05Z", "0s"), ("never", ""), (None, ""), ("2026-11-24", ""),
    ],
)  # fmt: skip
def test_ages_are_as_kubectl_writes_them(since: str | None, age: str) -> None:
    assert age_of(since, NOON) == age


@pytest.mark.parametrize("status", [None, {}, {"conditions": None, "summary": None}, {"summary": {"replicas": None}}])
def test_a_status_that_is_not_there_yet_is_no_obstacle(status: Any) -> None:
    (row,) = rows([{**a_flash_object(), "status": status}])
    assert (row.ready, row.replicas) == ("Unknown", "0/1")


def test_watching_outlives_a_server_that_is_away_for_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers: dict[str, tuple[int, Any]] = {LIST: (200, {"items": [SERVING]})}
    busy = {"kind": "Status", "message": "busy"}
    turns = iter([(503, busy), (200, {"items": [a_flash_object("later")]})])

    def next_turn(_: float) -> None:
        turn = next(turns, None)
        if turn is None:
            raise KeyboardInterrupt
        answers[LIST] = turn

    monkeypatch.setattr(sys.modules["flashctl.commands.status"], "sleep", next_turn)
    with ScriptedServer(answers) as server:
        done = flashctl("status", "--watch", "--kubeconfig", kubeconfig(tmp_path, server.url))
    assert done.exit_code == Exit.INTERRUPTED
    assert "later" in done.stdout


def test_watching_ends_at_once_if_the_first_answer_is_an_error(tmp_path: Path) -> None:
    done = flashctl("status", "--watch", "--kubeconfig", kubeconfig(tmp_path, "http://127.0.0.1:1"))
    assert done.exit_code == Exit.UNREACHABLE


def completed(command: str, word: str, config: Path) -> list[str]:
    """What bash is told about the word after the command."""
    env = {
        "_KUBECTL_DSF_COMPLETE": "complete_bash",
        "COMP_WORDS": f"kubectl-dsf {command} --kubeconfig {config} {word}",
        "COMP_CWORD": "4",
    }
    return flashctl(env=env, program="kubectl-dsf").stdout.split()


def test_names_are_completed(tmp_path: Path) -> None:
    items = [{"metadata": {"name": name}} for name in ("flash-b", "flash-a", "other")]
    with ScriptedServer({LIST: (200, {"items": items})}) as server:
        assert completed("explain", "fl", kubeconfig(tmp_path, server.url)) == ["flash-a", "flash-b"]


def test_completion_without_a_cluster_is_silent(tmp_path: Path) -> None:
    assert completed("explain", "fl", kubeconfig(tmp_path, "http://127.0.0.1:1")) == []


def test_kubectl_is_told_the_names_and_that_files_are_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with ScriptedServer({LIST: (200, {"items": [{"metadata": {"name": "flash"}}]})}) as server:
        config = kubeconfig(tmp_path, server.url)
        for name in ("COMP_WORDS", "COMP_CWORD", "_KUBECTL_DSF_COMPLETE"):
            monkeypatch.setenv(name, "")
        monkeypatch.setattr(sys, "argv", ["kubectl_complete-dsf", "explain", "--kubeconfig", str(config), "fl"])
        with pytest.raises(SystemExit):
            complete()
    assert capsys.readouterr().out.split() == ["flash", ":4"]
