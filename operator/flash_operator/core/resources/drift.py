"""Decides whether a child needs a write.

A server-side apply that changes nothing still costs a request, and an idle cluster should see none from the operator.
So every desired object has a hash of its content as an annotation. A live object is not written if it has the same
hash and still has every desired value. The hash detects fields that we no longer set; the comparison detects changes
by others.

The API server may store something else than it was given: it drops zero values, and webhooks rewrite images and add
tolerations. So the last word is the server's: a live object that is still what the server answered to the same content
is not written again (`runtime.answers`).
"""

import hashlib
import json
import re
from decimal import Decimal
from typing import Any

from flash_contracts.names import APPLIED_HASH_ANNOTATION, LABEL_PREFIX
from flash_operator.core.observed.snapshot import RawObject

SUFFIXES = {
    "": Decimal(1),
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    **{suffix: Decimal(1000) ** power for power, suffix in enumerate(("k", "M", "G", "T", "P", "E"), 1)},
    **{suffix: Decimal(1024) ** power for power, suffix in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"), 1)},
}
QUANTITY = re.compile(r"(?P<number>[+-]?\d+(?:\.\d+)?)(?P<suffix>[numkMGTPE]|[KMGTPE]i|)")
"""Quantities of k8s.io/apimachinery/pkg/api/resource, except for the rare exponent form."""

LIST_KEYS = ("name", "mountPath", "containerPort", "port", "uid", "path")
"""Fields that identify an item of the lists that we write, in order of preference."""


def with_hash(desired: RawObject) -> RawObject:
    """`desired` with the hash of its content as an annotation."""
    text = json.dumps(desired, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    annotations = {**desired["metadata"].get("annotations", {}), APPLIED_HASH_ANNOTATION: digest}
    return {**desired, "metadata": {**desired["metadata"], "annotations": annotations}}


def hash_of(child: RawObject) -> str:
    """The hash of its content that an object was applied with; empty if it is not ours."""
    return str((child["metadata"].get("annotations") or {}).get(APPLIED_HASH_ANNOTATION, ""))


def needs_apply(desired: RawObject, live: RawObject | None) -> bool:
    """True if the live object is missing, was changed by others, or was written by an older plan."""
    return live is None or not is_superset(live, desired)


def stored_content(live: RawObject) -> str:
    """A digest of what the API server stored, without what it and controllers count and report."""
    metadata = live["metadata"]
    annotations = {k: v for k, v in (metadata.get("annotations") or {}).items() if k.startswith(LABEL_PREFIX)}
    content = {key: value for key, value in live.items() if key not in ("metadata", "status", "apiVersion", "kind")}
    kept = [content, metadata.get("labels"), annotations, metadata.get("ownerReferences")]
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def is_superset(live: Any, desired: Any) -> bool:
    """`live` has every value of `desired`; additions by the server or others do not matter."""
    if live == desired:
        return True
    if live is None:
        return desired in (None, {}, [], "")
    if isinstance(desired, dict):
        return isinstance(live, dict) and all(is_superset(live.get(key), value) for key, value in desired.items())
    if isinstance(desired, list):
        return isinstance(live, list) and _is_superset_list(live, desired)
    return _same_quantity(live, desired)


def _same_quantity(live: Any, desired: Any) -> bool:
    """The server normalises quantities: 1000m of CPU becomes 1, and 0.5 becomes 500m."""
    amounts = [_amount(value) for value in (live, desired)]
    return None not in amounts and amounts[0] == amounts[1]


def _amount(value: Any) -> Decimal | None:
    match = QUANTITY.fullmatch(str(value))
    return Decimal(match["number"]) * SUFFIXES[match["suffix"]] if match else None


def _is_superset_list(live: list[Any], desired: list[Any]) -> bool:
    """Lists of named items may have additional items, which others own; lists of plain values must be equal."""
    key = next((key for key in LIST_KEYS if desired and all(isinstance(d, dict) and key in d for d in desired)), None)
    if key is None:
        return len(live) == len(desired) and all(map(is_superset, live, desired))
    by_key = {item.get(key): item for item in live}
    return all(is_superset(by_key.get(item[key]), item) for item in desired)
