"""What a request to the API server is, for the metric of them: Kubernetes' verb and the resource."""

from collections.abc import Mapping

VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
WRITES = frozenset(VERBS.values())
GROUP_PARTS, CORE_PARTS = 3, 2
"""Parts of /apis/GROUP/VERSION and of /api/VERSION."""


def verb_and_resource(method: str, path: str, query: Mapping[str, str]) -> tuple[str, str]:
    """For one of `Cluster`'s requests. The resource is a plural, with its subresource if it is about one."""
    parts = path.strip("/").split("/")
    parts = parts[GROUP_PARTS:] if parts[0] == "apis" else parts[CORE_PARTS:]
    if parts[0] == "namespaces":
        parts = parts[2:]
    resource, *name_and_part = parts
    return _verb(method, query, named=bool(name_and_part)), "/".join((resource, *name_and_part[1:]))


def _verb(method: str, query: Mapping[str, str], *, named: bool) -> str:
    if "dryRun" in query:
        return "dry-run"
    if method != "GET":
        return VERBS[method]
    return "watch" if "watch" in query else "get" if named else "list"
