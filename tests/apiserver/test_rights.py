"""What the chart's account may do, as a real API server with RBAC decides it."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from cluster_fixtures import ControlPlane
from rendered_chart import bundle, granted, only, render

pytestmark = pytest.mark.apiserver

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


@pytest.fixture(scope="module")
def installed(api_server: ControlPlane) -> Iterator[list[dict[str, Any]]]:
    """The roles of an installation that watches one namespace."""
    values = f"watchNamespace={WATCHED}"
    documents = [document for document in render(values, namespace=RELEASE) if document["kind"] in RIGHTS]
    for namespace in (RELEASE, WATCHED, OTHER):
        api_server.kubectl("create", "namespace", namespace)
    api_server.kubectl("apply", "--server-side", "-f", "-", stdin=bundle(documents))
    yield documents
    api_server.kubectl("delete", "--wait=false", "-f", "-", stdin=bundle(documents))


def rights_of(documents: list[dict[str, Any]]) -> set[Right]:
    """What the operator's role in the watched namespace grants."""
    return {Right(*one) for one in granted(only(documents, "Role", "flash-watched"))}


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
    form = '-o=jsonpath={.status.allowed}{"\\n"}'
    answers = server.kubectl("create", "-f", "-", form, stdin=bundle(reviews)).stdout.split()
    return {right for right, answer in zip(asked, answers, strict=True) if answer == "true"}


def _attributes(right: Right, namespace: str) -> dict[str, str]:
    resource, _, subresource = right.resource.partition("/")
    found = {"group": right.group, "resource": resource, "verb": right.verb, "namespace": namespace}
    return {**found, "subresource": subresource} if subresource else found


def test_in_the_watched_namespace_it_may_do_its_work_and_no_more(
    api_server: ControlPlane, installed: list[dict[str, Any]]
) -> None:
    needed = rights_of(installed)
    assert len(needed) > 20
    assert allowed(api_server, needed | NODES | NEVER, WATCHED) == needed | NODES


@pytest.mark.parametrize("namespace", [OTHER, "kube-system", EVERYWHERE])
def test_outside_of_it_it_may_only_use_nodes(
    namespace: str, api_server: ControlPlane, installed: list[dict[str, Any]]
) -> None:
    assert allowed(api_server, rights_of(installed) | NODES | NEVER, namespace) == NODES
