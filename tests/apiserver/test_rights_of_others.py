"""The rights of the labeller, each taken away once on a real API server, and those of the activator, which has none."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kubernetes import config
from structlog.testing import capture_logs

from chart_rights import Right, Roles, rights_of, roles_of, users_without_each
from cluster_fixtures import ControlPlane
from fake_node.readings import read_machine
from flash_node.labeller.cluster import NodeClient
from flash_node.labeller.loop import LabelLoop
from rendered_chart import bundle, only, render

pytestmark = pytest.mark.apiserver

NODE = "each-right-of-the-labeller"
BROKEN = "card-off-the-bus"
"""A machine with a fault, which is an event."""
GROUPS = {"nodes": "", "events": "events.k8s.io"}
RIGHTS = [Right("cluster", "get", "nodes"), Right("cluster", "patch", "nodes"), Right("cluster", "create", "events")]


@pytest.fixture(scope="module")
def documents() -> list[dict[str, Any]]:
    return render("activator.enabled=true")


@pytest.fixture(scope="module")
def labeller(api_server: ControlPlane, documents: list[dict[str, Any]]) -> Iterator[Roles]:
    """A user without each of its rights, and one with all: the group `cluster`."""
    roles = roles_of("flash-labeller", documents, {})
    made = bundle([*roles.values(), *users_without_each(roles)])
    api_server.kubectl("apply", "--server-side", "-f", "-", stdin=made)
    api_server.kubectl(
        "create", "-f", "-", stdin=bundle([{"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}}])
    )
    yield roles
    api_server.kubectl("delete", "node", NODE)
    api_server.kubectl("delete", "--wait=false", "-f", "-", stdin=made)


def complaints(server: ControlPlane, folder: Path, user: str, *groups: str) -> str:
    """What the labeller logs in a round as this user."""
    api = config.new_client_from_config(str(server.identity(user, user, groups=groups)))  # type: ignore[no-untyped-call]
    dump = read_machine(BROKEN, folder)
    server.kubectl("label", "node", NODE, "deepseekflash.dev/gpu-link-")
    with capture_logs() as logs:
        LabelLoop(NodeClient(NODE, api), lambda: dump, retry_seconds=0.0).run_once()
    return str(logs)


def test_with_all_its_rights_nothing_is_refused(api_server: ControlPlane, labeller: Roles, tmp_path: Path) -> None:
    assert rights_of(labeller) == {right: GROUPS[right.resource] for right in RIGHTS}
    assert "forbidden" not in complaints(api_server, tmp_path, "labeller-with-all", "cluster")


@pytest.mark.parametrize("right", RIGHTS, ids=[right.user for right in RIGHTS])
def test_without_a_right_the_labeller_says_what_it_may_not_do(
    right: Right, api_server: ControlPlane, labeller: Roles, tmp_path: Path
) -> None:
    del labeller
    found = complaints(api_server, tmp_path, right.user).replace(chr(92), "")
    assert f'cannot {right.verb} resource "{right.resource}" in API group "{GROUPS[right.resource]}"' in found


def test_the_activator_has_no_rights_and_no_token(documents: list[dict[str, Any]]) -> None:
    assert roles_of("flash-activator", documents, {"system": "release"}) == {}
    pod = only(documents, "Deployment", "flash-activator")["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
