"""What a request to the API server is, for the metric of them: Kubernetes' verb and the resource."""

from collections.abc import Mapping

VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
WRITES = frozenset(VERBS.values())
ROOT_PARTS = {"apis": 3, "api": 2}
"""Parts of /apis/GROUP/VERSION and of /api/VERSION."""
NAMESPACE_PARTS = 2
"""Parts of namespaces/NAME, before the resource in it."""


def verb_and_resource(method: str, path: str, query: Mapping[str, str]) -> tuple[str, str]:
    """The resource is a plural, with its subresource if it is about one. What is no resource (/version, /openapi/v3)
    is named by the first part of its path."""
    parts = path.strip("/").split("/")
    if parts[0] not in ROOT_PARTS:
        return _verb(method, query, named=True), parts[0]
    parts = parts[ROOT_PARTS[parts[0]] :]
    if parts[0] == "namespaces" and len(parts) > NAMESPACE_PARTS:
        parts = parts[NAMESPACE_PARTS:]
    resource, *name_and_part = parts
    return _verb(method, query, named=bool(name_and_part)), "/".join((resource, *name_and_part[1:]))


def _verb(method: str, query: Mapping[str, str], *, named: bool) -> str:
    if "dryRun" in query:
        return "dry-run"
    if method != "GET":
        return VERBS[method]
    return "watch" if "watch" in query else "get" if named else "list"
