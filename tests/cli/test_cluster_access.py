"""Commands against a real API server: rights by RBAC, expired credentials, names and kinds that do not exist."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from builders import a_flash_object
from cluster_fixtures import ControlPlane
from custom_resource import CRD, install_crd
from flashctl.exits import Exit
from flashctl_runs import flashctl, kubeconfig
from waiting import eventually

pytestmark = pytest.mark.apiserver

NAMESPACE = "cli-team"


@pytest.fixture(scope="module")
def server(api_server: ControlPlane) -> Iterator[ControlPlane]:
    """With two deployments, one of which has a pod."""
    install_crd(api_server)
    api_server.kubectl("create", "namespace", NAMESPACE)
    api_server.kubectl("create", "serviceaccount", "default", "-n", NAMESPACE, check=False)
    for name in ("flash-prod", "flash-test"):
        raw = {**a_flash_object(name), "metadata": {"name": name, "namespace": NAMESPACE}}
        api_server.kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps(raw))
    yield api_server
    api_server.kubectl("delete", "dsf", "--all", "-n", NAMESPACE)
    api_server.kubectl("delete", "namespace", NAMESPACE, "--wait=false")


@pytest.fixture(scope="module")
def viewer(server: ControlPlane) -> Iterator[Path]:
    """A user who may read deployments in one namespace, and nothing else."""
    rules = "--verb=get,list", "--resource=deepseekflashdeployments.inference.deepseekflash.dev"
    server.kubectl("create", "role", "cli-viewer", "-n", NAMESPACE, *rules)
    server.kubectl("create", "rolebinding", "cli-viewer", "-n", NAMESPACE, "--role=cli-viewer", "--user=cli-jane")
    yield server.identity("cli-jane", "cli-jane")
    server.kubectl("delete", "role,rolebinding", "cli-viewer", "-n", NAMESPACE)


def as_admin(server: ControlPlane, *args: str) -> Any:
    return flashctl(*args, "--kubeconfig", server.kubeconfig, "-n", NAMESPACE)


def test_the_table_of_a_namespace(server: ControlPlane) -> None:
    done = as_admin(server, "status")
    assert done.exit_code == Exit.NOT_READY
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["NAME", "flash-prod", "flash-test"]


def test_an_unknown_name_gets_the_nearest(server: ControlPlane) -> None:
    done = as_admin(server, "explain", "flash-prd")
    assert done.exit_code == Exit.NOT_FOUND
    assert f"no deepseekflashdeployments flash-prd in namespace {NAMESPACE}; did you mean flash-prod" in done.stderr


def test_a_namespace_that_does_not_exist_has_no_deployment(server: ControlPlane) -> None:
    done = flashctl("explain", "flash", "--kubeconfig", server.kubeconfig, "-n", "nowhere")
    assert done.exit_code == Exit.NOT_FOUND
    assert "in namespace nowhere; there is none" in done.stderr


def test_a_missing_right_is_named_with_the_question_to_ask(server: ControlPlane, viewer: Path) -> None:
    done = flashctl("status", "-A", "--kubeconfig", viewer)
    assert done.exit_code == Exit.NO_RIGHT
    assert "you (cli-jane) may not list deepseekflashdeployments in all namespaces" in done.stderr
    command = done.stderr.strip().rpartition("check with: ")[2].split()
    asked = server.kubectl(*command[1:], "--as=cli-jane", check=False)
    assert asked.stdout.strip() == "no", "the command that is named must answer"


def test_explain_says_what_it_could_not_read(viewer: Path) -> None:
    done = flashctl("explain", "flash-prod", "--kubeconfig", viewer, "-n", NAMESPACE, "-o", "json")
    assert done.exit_code == Exit.NOT_READY
    found = json.loads(done.stdout)
    assert [line.partition(":")[0] for line in found["unread"]] == ["pods", "events"]
    assert found["operator"]["state"] == "Unknown"
    assert "may not list leases in all namespaces" in found["operator"]["message"]


def test_a_dump_is_written_without_what_may_not_be_read(viewer: Path, tmp_path: Path) -> None:
    target = tmp_path / "dump.tar.gz"
    arguments = ("dump", "flash-prod", "--kubeconfig", viewer, "-n", NAMESPACE, "--to", target, "-o", "json")
    done = flashctl(*arguments)
    assert done.exit_code == Exit.DONE, done.stderr
    assert any("may not list services" in line for line in json.loads(done.stdout)["unread"])
    assert target.stat().st_mode & 0o077 == 0
    assert [path.name for path in tmp_path.iterdir()] == ["dump.tar.gz"]


@pytest.mark.parametrize(
    ("user", "part"),
    [
        ({"token": "made-up"}, "does not accept your credentials (401)"),
        ({"username": "a", "password": "b"}, "does not know who you are (system:anonymous)"),
    ],
)
def test_credentials_that_are_not_accepted(
    server: ControlPlane, user: dict[str, str], part: str, tmp_path: Path
) -> None:
    authority = {"certificate-authority": str(server.certificate_authority)}
    done = flashctl("status", "--kubeconfig", kubeconfig(tmp_path, server.url, user, **authority))
    assert done.exit_code == Exit.UNREACHABLE
    assert part in done.stderr


def test_a_server_whose_authority_is_unknown(server: ControlPlane, tmp_path: Path) -> None:
    done = flashctl("status", "--kubeconfig", kubeconfig(tmp_path, server.url))
    assert done.exit_code == Exit.UNREACHABLE
    assert "is not trusted" in done.stderr


def test_a_node_that_does_not_exist(server: ControlPlane) -> None:
    done = as_admin(server, "topology", "gpu-1")
    assert done.exit_code == Exit.NOT_FOUND
    assert "there is no node gpu-1" in done.stderr


def test_logs_of_a_pod_that_has_not_started(server: ControlPlane) -> None:
    labels = {"deepseekflash.dev/deployment": "flash-prod"}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "cli-pod", "namespace": NAMESPACE, "labels": labels},
        "spec": {"containers": [{"name": "engine", "image": "x"}], "automountServiceAccountToken": False},
    }
    server.kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps(pod))
    done = as_admin(server, "logs", "flash-prod")
    server.kubectl("delete", "pod", "cli-pod", "-n", NAMESPACE, "--force")
    assert done.exit_code == Exit.NOT_READY
    assert "no log: cli-pod engine; kubectl dsf explain flash-prod says why" in done.stderr


def test_check_names_what_is_missing(server: ControlPlane) -> None:
    done = as_admin(server, "check", "-o", "json")
    assert done.exit_code == Exit.NOT_READY
    lines = {line["name"]: line for line in json.loads(done.stdout)["lines"]}
    assert lines["Kubernetes"]["level"] == "ok"
    assert lines["CRD"]["found"] == "serves v1alpha1 with the fields that this plugin knows"
    assert lines["Nodes with two GPUs"]["level"] == "missing"
    assert lines["Operator"]["level"] == "missing"
    assert lines["Your rights"]["level"] == "ok"


def test_check_names_the_rights_that_a_user_lacks(viewer: Path) -> None:
    done = flashctl("check", "--kubeconfig", viewer, "-n", NAMESPACE, "-o", "json")
    lacking = {line["found"] for line in json.loads(done.stdout)["lines"] if line["name"] == "Your rights"}
    assert "you may not list Pod" in lacking
    assert "you may not get Pod/log" in lacking
    assert "you may not list DeepSeekFlashDeployment" not in lacking


def test_a_cluster_without_the_crd(server: ControlPlane) -> None:
    """Last in this file: it takes the deployments along."""
    server.kubectl("delete", "-f", str(CRD))
    try:
        done = eventually(lambda: _without_crd(server), "the CRD is gone")
    finally:
        install_crd(server)
    assert done.exit_code == Exit.NOT_FOUND
    assert "has no DeepSeekFlashDeployment: its CRD is not installed; install the operator's chart" in done.stderr


def _without_crd(server: ControlPlane) -> Any:
    done = as_admin(server, "status")
    return done if done.exit_code == Exit.NOT_FOUND else None
