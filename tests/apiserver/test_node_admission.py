"""Who may write what on a node: the chart's roles and admission policy on a real kube-apiserver."""

import json
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml

from cluster_fixtures import ControlPlane
from rendered_chart import bundle, render
from waiting import eventually

pytestmark = pytest.mark.apiserver

NAMESPACE = "flash-admission"
KINDS = {
    "ServiceAccount",
    "ClusterRole",
    "ClusterRoleBinding",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
}
OURS = "deepseekflash.dev/gpu-link"
REFUSED = "the labeller may patch only the node that its pod runs on"

Patch = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def server(api_server: ControlPlane) -> Iterator[ControlPlane]:
    """Accounts, roles and policy of the chart; two nodes; a labeller's pod on the first."""
    documents = bundle([document for document in render(namespace=NAMESPACE) if document["kind"] in KINDS])
    api_server.kubectl("create", "namespace", NAMESPACE)
    api_server.kubectl("apply", "--server-side", "-f", "-", stdin=documents)
    for node in ("near", "far"):
        api_server.kubectl("create", "-f", "-", stdin=json.dumps(a_node(node)))
    for account in ("flash-labeller", "flash"):
        api_server.kubectl("create", "-f", "-", stdin=json.dumps(a_pod(account)))
    yield api_server
    api_server.kubectl("delete", "node", "near", "far")
    api_server.kubectl("delete", "-f", "-", stdin=documents)


def a_node(name: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {"zone": "a"}, "annotations": {"a": "b"}},
    }


def a_pod(account: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": account, "namespace": NAMESPACE},
        "spec": {"serviceAccountName": account, "nodeName": "near", "containers": [{"name": "c", "image": "i"}]},
    }


@pytest.fixture
def patch(server: ControlPlane) -> Patch:
    """Patch a node with the token of an account, as bound to its pod by the kubelet."""

    def run(account: str, node: str, body: dict[str, Any], *, bound: bool = True) -> "subprocess.CompletedProcess[str]":
        to_pod = ["--bound-object-kind=Pod", f"--bound-object-name={account}"] if bound else []
        token = server.kubectl("create", "token", account, "-n", NAMESPACE, *to_pod).stdout.strip()
        arguments = ("patch", "node", node, "--type=merge", "-p", json.dumps(body))
        return as_bearer(server, token, *arguments)

    wait_for_the_policy(server)
    return run


def as_bearer(server: ControlPlane, token: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """kubectl with this token and nothing else: the administrator's certificate would win over it."""
    config = yaml.safe_load(server.kubeconfig.read_text())
    config["users"] = [{"name": user["name"], "user": {"token": token}} for user in config["users"]]
    file = server.kubeconfig.with_name(f"bearer-{uuid.uuid4().hex[:6]}.conf")
    file.write_text(yaml.safe_dump(config))
    try:
        command = [str(server.kubectl_path), f"--kubeconfig={file}", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)
    finally:
        file.unlink()


def wait_for_the_policy(server: ControlPlane) -> None:
    """The API server needs a moment to compile a policy; until then, everything is admitted."""

    def refuses() -> bool:
        token = server.kubectl("create", "token", "flash-labeller", "-n", NAMESPACE).stdout.strip()
        body = json.dumps({"metadata": {"labels": {OURS: str(time.monotonic_ns())}}})
        return as_bearer(server, token, "patch", "node", "far", "--type=merge", "-p", body).returncode != 0

    eventually(refuses, "the admission policy is in force", pause=0.2)


def label(value: str | None, name: str = OURS) -> dict[str, Any]:
    return {"metadata": {"labels": {name: value}}}


def test_the_labeller_labels_its_own_node(patch: Patch) -> None:
    done = patch("flash-labeller", "near", label("phb"))
    assert done.returncode == 0, done.stderr
    assert patch("flash-labeller", "near", label(None)).returncode == 0


def test_the_labeller_cannot_label_another_node(patch: Patch) -> None:
    done = patch("flash-labeller", "far", label("phb"))
    assert done.returncode != 0
    assert REFUSED in done.stderr


def test_a_token_without_a_node_cannot_label_any_node(patch: Patch) -> None:
    assert REFUSED in patch("flash-labeller", "near", label("phb"), bound=False).stderr


def test_the_operator_labels_any_node(patch: Patch) -> None:
    done = patch("flash", "far", label("phb"))
    assert done.returncode == 0, done.stderr


FOREIGN = {
    "a label of others": (label("x", "nvidia.com/gpu.product"), "labels"),
    "a changed label of others": (label("b", "zone"), "labels"),
    "a removed label of others": (label(None, "zone"), "labels"),
    "an annotation of others": ({"metadata": {"annotations": {"c": "d"}}}, "annotations"),
    "a removed annotation of others": ({"metadata": {"annotations": {"a": None}}}, "annotations"),
    "a taint": ({"spec": {"taints": [{"key": "k", "effect": "NoExecute"}]}}, "taints"),
    "a cordon": ({"spec": {"unschedulable": True}}, "schedulability"),
}


@pytest.mark.parametrize("account", ["flash", "flash-labeller"])
@pytest.mark.parametrize(("body", "named"), FOREIGN.values(), ids=FOREIGN.keys())
def test_neither_account_may_change_labels_of_others(
    patch: Patch, account: str, body: dict[str, Any], named: str
) -> None:
    done = patch(account, "near", body)
    assert done.returncode != 0
    assert named in done.stderr


def test_the_policy_does_not_restrict_other_accounts(server: ControlPlane, patch: Patch) -> None:
    assert patch("flash", "near", label("phb")).returncode == 0
    server.kubectl("label", "node", "near", "zone=c", "--overwrite")
