"""What the chart's account may do, as a real API server with RBAC decides it."""

import json
import subprocess
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from cluster_fixtures import ControlPlane
from local_cluster.binaries import binary

pytestmark = pytest.mark.apiserver

CHART = Path(__file__).resolve().parents[2] / "charts/deepseek-flash-operator"
RELEASE, WATCHED, OTHER = "rights-release", "rights-watched", "rights-other"
EVERYWHERE = ""
ACCOUNT = f"system:serviceaccount:{RELEASE}:flash"
RIGHTS = ("ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding")


class Right(NamedTuple):
    group: str
    resource: str
    verb: str


NODES = {Right("", "nodes", verb) for verb in ("get", "list", "watch", "patch")}
NEVER = {
    Right("", "secrets", "get"),
    Right("", "secrets", "list"),
    Right("", "pods", "create"),
    Right("", "pods/exec", "create"),
    Right("", "serviceaccounts/token", "create"),
    Right("", "nodes/proxy", "get"),
    Right("rbac.authorization.k8s.io", "roles", "create"),
}


def rendered() -> list[dict[str, Any]]:
    command = ["template", "flash", str(CHART), "--namespace", RELEASE, f"--set=watchNamespace={WATCHED}"]
    text = subprocess.run([str(binary("helm")), *command], capture_output=True, text=True, check=True).stdout
    return [document for document in yaml.safe_load_all(text) if document and document["kind"] in RIGHTS]


def granted(documents: list[dict[str, Any]], name: str) -> set[Right]:
    rules = next(
        d["rules"] for d in documents if d["kind"] in ("Role", "ClusterRole") and d["metadata"]["name"] == name
    )
    return {Right(*one) for rule in rules for one in product(rule["apiGroups"], rule["resources"], rule["verbs"])}


@pytest.fixture(scope="module")
def installed(api_server: ControlPlane) -> Iterator[list[dict[str, Any]]]:
    """The roles of an installation that watches one namespace."""
    documents = rendered()
    for namespace in (RELEASE, WATCHED, OTHER):
        api_server.kubectl("create", "namespace", namespace)
    bundle = json.dumps({"apiVersion": "v1", "kind": "List", "items": documents})
    api_server.kubectl("apply", "--server-side", "-f", "-", stdin=bundle)
    yield documents
    api_server.kubectl("delete", "--wait=false", "-f", "-", stdin=bundle)


def allowed(server: ControlPlane, rights: set[Right], namespace: str) -> set[Right]:
    """Those of the rights that the account has in the namespace, or in all namespaces."""
    asked = sorted(rights)
    reviews = [
        {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {"user": ACCOUNT, "resourceAttributes": _attributes(right, namespace)},
        }
        for right in asked
    ]
    bundle = json.dumps({"apiVersion": "v1", "kind": "List", "items": reviews})
    form = '-o=jsonpath={.status.allowed}{"\\n"}'
    answers = server.kubectl("create", "-f", "-", form, stdin=bundle).stdout.split()
    return {right for right, answer in zip(asked, answers, strict=True) if answer == "true"}


def _attributes(right: Right, namespace: str) -> dict[str, str]:
    resource, _, subresource = right.resource.partition("/")
    found = {"group": right.group, "resource": resource, "verb": right.verb, "namespace": namespace}
    return {**found, "subresource": subresource} if subresource else found


def test_in_the_watched_namespace_it_may_do_its_work_and_no_more(
    api_server: ControlPlane, installed: list[dict[str, Any]]
) -> None:
    needed = granted(installed, "flash-watched")
    assert len(needed) > 20
    assert allowed(api_server, needed | NODES | NEVER, WATCHED) == needed | NODES


@pytest.mark.parametrize("namespace", [OTHER, "kube-system", EVERYWHERE])
def test_outside_of_it_it_may_only_use_nodes(
    namespace: str, api_server: ControlPlane, installed: list[dict[str, Any]]
) -> None:
    assert allowed(api_server, granted(installed, "flash-watched") | NODES | NEVER, namespace) == NODES
