"""`kubectl dsf status`: the table and the document, and the exit code that scripts rely on."""

import json
from pathlib import Path
from typing import Any

import pytest

from builders import NOON, a_flash_object
from explained_failures import a_serving_observed, explanations
from flash_contracts.names import API_VERSION
from flash_operator.core.plan import plan
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
