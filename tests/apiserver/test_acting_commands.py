"""The acting commands of kubectl dsf against a real API server, with a user's kubeconfig and rights."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from builders import a_flash_object
from cluster_fixtures import ControlPlane
from flash_contracts.names import DEPLOYMENT_LABEL, GROUP, PLURAL, QUARANTINE_ANNOTATION
from flash_contracts.orders import is_ordered_quarantine
from flashctl.__main__ import app
from flashctl.exits import Exit

NAMESPACE = "acting"
READER = "reader"
RBAC = "rbac.authorization.k8s.io/v1"


@pytest.fixture(scope="module")
def server(crd_server: ControlPlane) -> Iterator[ControlPlane]:
    crd_server.kubectl("create", "namespace", NAMESPACE)
    crd_server.kubectl("-n", NAMESPACE, "create", "serviceaccount", "default", check=False)
    reads = [(GROUP, PLURAL), ("", "pods"), ("apps", "controllerrevisions")]
    rules = [{"apiGroups": [group], "resources": [name], "verbs": ["get", "list"]} for group, name in reads]
    role = {"apiVersion": RBAC, "kind": "ClusterRole", "metadata": {"name": READER}, "rules": rules}
    crd_server.kubectl("apply", "-f", "-", stdin=json.dumps(role))
    crd_server.kubectl("-n", NAMESPACE, "create", "rolebinding", READER, f"--clusterrole={READER}", "--user=jane")
    yield crd_server
    crd_server.kubectl("delete", "namespace", NAMESPACE, "--wait=false")
    crd_server.kubectl("delete", "clusterrole", READER)


@pytest.fixture
def flash(server: ControlPlane) -> Iterator[str]:
    server.kubectl("apply", "-f", "-", stdin=json.dumps(a_manifest(replicas=2, engine={"contextTokens": 4096})))
    yield "flash"
    server.kubectl("-n", NAMESPACE, "delete", "dsf", "--all")


def a_manifest(name: str = "flash", **spec: Any) -> dict[str, Any]:
    return {**a_flash_object(name, **spec), "metadata": {"name": name, "namespace": NAMESPACE}}


def run(server: ControlPlane, *command: str) -> Result:
    return CliRunner().invoke(app, [*command, "-n", NAMESPACE, f"--kubeconfig={server.kubeconfig}"])


def live(server: ControlPlane, kind: str, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(server.kubectl("-n", NAMESPACE, "get", kind, name, "-o", "json").stdout)
    return found


def compare(server: ControlPlane, folder: Path, manifest: dict[str, Any], *more: str) -> Result:
    file = folder / "flash.yaml"
    file.write_text(yaml.safe_dump(manifest))
    return run(server, "diff", "-f", str(file), "-o", "json", *more)


def test_diff_tells_what_differs_and_changes_nothing(server: ControlPlane, flash: str, tmp_path: Path) -> None:
    before = live(server, "dsf", flash)
    same = compare(server, tmp_path, a_manifest(replicas=2, engine={"contextTokens": 4096}))
    assert (same.exit_code, json.loads(same.stdout)["deployments"][0]["effect"]) == (Exit.DONE, "Nothing")
    other = compare(server, tmp_path, a_manifest(replicas=3, engine={"contextTokens": 4096}))
    assert other.exit_code == Exit.NOT_READY
    assert json.loads(other.stdout)["deployments"][0]["spec"] == ["replicas: 2 -> 3"]
    dropped = compare(server, tmp_path, a_manifest(replicas=2))
    (line,) = json.loads(dropped.stdout)["deployments"][0]["spec"]
    assert line.startswith("engine contextTokens: 4096 -> "), "the last kubectl apply had set it"
    assert live(server, "dsf", flash) == before


@pytest.mark.usefixtures("flash")
def test_diff_has_the_api_servers_words_for_what_it_refuses(server: ControlPlane, tmp_path: Path) -> None:
    refused = compare(server, tmp_path, a_manifest(replicas=-1))
    assert refused.exit_code == Exit.REFUSED
    assert "spec.replicas" in refused.stderr
    unknown = compare(server, tmp_path, a_manifest(engine={"contextToken": 1}))
    assert unknown.exit_code == Exit.REFUSED
    assert "contextToken" in unknown.stderr
    assert compare(server, tmp_path, a_manifest("new")).exit_code == Exit.NOT_READY
    no_right = compare(server, tmp_path, a_manifest(replicas=3), "--as=jane")
    assert no_right.exit_code == Exit.NO_RIGHT
    assert "patch deepseekflashdeployments" in no_right.stderr


def test_update_sets_the_offered_name_and_a_second_time_there_is_nothing_to_do(
    server: ControlPlane, flash: str
) -> None:
    update = {"state": "Available", "revision": "0123456789", "changes": ["engine image: a -> b"]}
    offer = {"status": {"update": update}}
    patch = ("patch", "dsf", flash, "--subresource=status", "--type=merge")
    server.kubectl("-n", NAMESPACE, *patch, "-p", json.dumps(offer))
    assert run(server, "update", flash, "--yes", "--as=jane").exit_code == Exit.NO_RIGHT
    assert run(server, "update", flash).exit_code == Exit.USAGE, "nobody can answer"
    done = run(server, "update", flash, "--yes")
    assert done.exit_code == Exit.DONE, done.output
    assert live(server, "dsf", flash)["spec"]["rollout"]["acceptUpdate"] == "0123456789"
    update["state"] = "UpToDate"
    server.kubectl("-n", NAMESPACE, *patch, "-p", json.dumps(offer))
    again = run(server, "update", flash, "--yes")
    assert (again.exit_code, "up to date" in again.stderr) == (Exit.NOT_READY, True)


def test_a_rollback_without_an_operator_says_so_and_the_order_stands(server: ControlPlane, flash: str) -> None:
    status = {"status": {"rollout": {"state": "Rolling", "revision": "bbbbbbbbbb", "provenRevision": "aaaaaaaaaa"}}}
    patch = ("patch", "dsf", flash, "--subresource=status", "--type=merge")
    server.kubectl("-n", NAMESPACE, *patch, "-p", json.dumps(status))
    done = run(server, "rollback", flash, "--yes", "--wait=1")
    assert done.exit_code == Exit.REFUSED
    assert "the operator has not answered within 1 s" in done.stderr
    assert live(server, "dsf", flash)["metadata"]["annotations"]["deepseekflash.dev/rollback"].startswith("bbbbbbbbbb@")


def test_a_replica_is_taken_out_and_given_back(server: ControlPlane, flash: str) -> None:
    for name in ("flash-a", "flash-b"):
        owner = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "flash-1", "uid": "1"}
        metadata = {
            "name": name,
            "namespace": NAMESPACE,
            "labels": {DEPLOYMENT_LABEL: flash},
            "ownerReferences": [owner],
        }
        spec = {"containers": [{"name": "engine", "image": "x"}], "automountServiceAccountToken": False}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
        server.kubectl("apply", "-f", "-", stdin=json.dumps(pod))
        ready = {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}
        server.kubectl("-n", NAMESPACE, "patch", "pod", name, "--subresource=status", "-p", json.dumps(ready))
    out = run(server, "quarantine", "flash-a", "--wait=0")
    assert out.exit_code == Exit.DONE, out.output
    assert is_ordered_quarantine(live(server, "pod", "flash-a")["metadata"]["annotations"][QUARANTINE_ANNOTATION])
    last = run(server, "quarantine", "flash-b", "--wait=0")
    assert (last.exit_code, "--force" in last.stderr) == (Exit.REFUSED, True)
    assert run(server, "release", "flash-a", "--wait=0", "--as=jane").exit_code == Exit.NO_RIGHT
    assert run(server, "release", "flash-a", "--wait=0").exit_code == Exit.DONE
    assert QUARANTINE_ANNOTATION not in live(server, "pod", "flash-a")["metadata"].get("annotations", {})
