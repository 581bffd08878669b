"""Argo CD's health check, in a real Lua 5.1, on what the operator writes into status."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from lupa import lua51

from flash_contracts.names import GROUP, KIND
from flash_situations import all_situations

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "argocd"
SITUATIONS = all_situations()

EXPECTED = {
    "it serves": "Healthy",
    "one of two is degraded and serves": "Degraded",
    "it loads": "Progressing",
    "it is slow": "Degraded",
    "its drafts are dead": "Degraded",
    "no node has free GPUs": "Progressing",
    "a quota refuses its pods": "Degraded",
    "a person set no replicas": "Suspended",
    "an autoscaler set no replicas": "Healthy",
    "its rollout is paused": "Suspended",
    "the operator has not seen its spec": "Progressing",
    "it has no status": "Progressing",
}


def health_of(deployment: dict[str, Any]) -> dict[str, str]:
    """As Argo CD does: the object is the global `obj`, and the script returns a table."""
    data = yaml.safe_load((EXAMPLES / "health.yaml").read_text())["data"]
    script = data[f"resource.customizations.health.{GROUP}_{KIND}"]
    lua = lua51.LuaRuntime(register_eval=False, register_builtins=False, unpack_returned_tuples=True)
    lua.globals().obj = lua.table_from(deployment, recursive=True)
    return dict(lua.execute(script))


@pytest.mark.parametrize("name", SITUATIONS)
def test_the_health_of_a_deployment(name: str) -> None:
    assert health_of(SITUATIONS[name])["status"] == EXPECTED[name]


def test_the_message_is_the_operators() -> None:
    assert "41 tok/s, wanted 60" in health_of(SITUATIONS["it is slow"])["message"]


OTHERS_ONLY = {"conditions": [{"type": "Other", "status": "True"}]}


@pytest.mark.parametrize("status", [None, {}, {"conditions": []}, OTHERS_ONLY])
def test_a_status_that_says_nothing_is_no_error(status: dict[str, Any] | None) -> None:
    deployment = {"metadata": {"generation": 1}, "spec": {}, **({"status": status} if status is not None else {})}
    assert health_of(deployment)["status"] == "Progressing"


def test_the_applications_leave_what_others_write() -> None:
    documents = list(yaml.safe_load_all((EXAMPLES / "applications.yaml").read_text()))
    (ignored,) = documents[1]["spec"]["ignoreDifferences"]
    assert (ignored["group"], ignored["kind"]) == (GROUP, KIND)
    assert ignored["jsonPointers"] == ["/spec/replicas", "/spec/rollout/acceptUpdate"]
    assert (EXAMPLES.parents[1] / documents[0]["spec"]["source"]["path"] / "Chart.yaml").exists()
