"""The rights of the chart's accounts, and users who have all of them but one."""

from collections.abc import Mapping
from typing import NamedTuple

from flash_operator.core.observed.raw import RawObject
from rendered_chart import granted

RBAC = "rbac.authorization.k8s.io"
CLUSTER = "cluster"

Roles = dict[str, RawObject]
"""By place: `cluster` for the ClusterRole, and what the caller calls the namespaces of the Roles."""


class Right(NamedTuple):
    place: str
    verb: str
    resource: str

    @property
    def user(self) -> str:
        """Who has all rights of the account but this one."""
        return f"without-{self.place}-{self.verb}-{self.resource.replace('/', '-')}"


def roles_of(account: str, documents: list[RawObject], places: Mapping[str, str]) -> Roles:
    """Those that the chart binds to its account; `places` are the names of namespaces."""
    bindings = [document for document in documents if document["kind"] in ("RoleBinding", "ClusterRoleBinding")]
    bound = {
        (binding["roleRef"]["kind"], binding["roleRef"]["name"], binding["metadata"].get("namespace"))
        for binding in bindings
        if any(subject["name"] == account for subject in binding["subjects"])
    }
    roles = [document for document in documents if document["kind"] in ("Role", "ClusterRole")]
    ours = [r for r in roles if (r["kind"], r["metadata"]["name"], r["metadata"].get("namespace")) in bound]
    return {places[role["metadata"]["namespace"]] if role["kind"] == "Role" else CLUSTER: role for role in ours}


def rights_of(roles: Roles) -> dict[Right, str]:
    """With their API groups."""
    return {
        Right(place, verb, resource): group for place, role in roles.items() for group, resource, verb in granted(role)
    }


def users_without_each(roles: Roles) -> list[RawObject]:
    """Roles and bindings of a user for each right. What the other roles grant is bound to groups named after places."""
    groups = [_binding(role, {"kind": "Group", "name": place}) for place, role in roles.items()]
    return [*groups, *(made for right in rights_of(roles) for made in _without(right, roles[right.place]))]


def _without(right: Right, role: RawObject) -> list[RawObject]:
    rules = [
        {"apiGroups": [group], "resources": [resource], "verbs": [verb]}
        for group, resource, verb in sorted(granted(role))
        if (verb, resource) != (right.verb, right.resource)
    ]
    made = {**role, "metadata": {**_place(role), "name": right.user}, "rules": rules}
    return [made, _binding(made, {"kind": "User", "name": right.user})]


def _binding(role: RawObject, subject: dict[str, str]) -> RawObject:
    name = role["metadata"]["name"]
    return {
        "apiVersion": role["apiVersion"],
        "kind": f"{role['kind']}Binding",
        "metadata": {**_place(role), "name": f"{name}-{subject['name']}"},
        "roleRef": {"apiGroup": RBAC, "kind": role["kind"], "name": name},
        "subjects": [{"apiGroup": RBAC, **subject}],
    }


def _place(role: RawObject) -> dict[str, str]:
    return {key: value for key, value in role["metadata"].items() if key == "namespace"}
