"""Merges the user's `spec.podTemplate` into ours, like `kubectl patch --type strategic`.

Lists that the API server merges by key are merged by key; any other list replaces ours; null removes a field.
 Source of the keys: `patchMergeKey` in k8s.io/api/core/v1 types.go.
"""

from typing import Any, cast

from flash_operator.core.observed.snapshot import RawObject

MERGE_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "env": "name",
    "volumes": "name",
    "volumeMounts": "mountPath",
    "ports": "containerPort",
    "imagePullSecrets": "name",
    "topologySpreadConstraints": "topologyKey",
    "hostAliases": "ip",
}


def merge(ours: RawObject, theirs: RawObject) -> RawObject:
    """`ours` overlaid with `theirs`. Neither argument is modified."""
    merged = dict(ours)
    for key, value in theirs.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = _merge_value(key, merged.get(key), value)
    return merged


def _merge_value(key: str, ours: Any, theirs: Any) -> Any:
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return merge(ours, theirs)
    merge_key = MERGE_KEYS.get(key)
    if merge_key and isinstance(ours, list) and isinstance(theirs, list):
        return _merge_list(ours, theirs, merge_key)
    return theirs


def _merge_list(ours: list[RawObject], theirs: list[RawObject], merge_key: str) -> list[RawObject]:
    """Our items in our order, each overlaid with its counterpart; then their other items in their order."""
    overlay = {cast("str", item.get(merge_key)): item for item in theirs}
    known = {item.get(merge_key) for item in ours}
    kept = [merge(item, overlay.get(cast("str", item.get(merge_key)), {})) for item in ours]
    return kept + [item for item in theirs if item.get(merge_key) not in known]
