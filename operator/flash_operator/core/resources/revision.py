"""The revision of a pod template: its hash, which it carries itself, so that its pods are known by it."""

import hashlib
import json

from flash_contracts.names import REVISION_ANNOTATION
from flash_operator.core.observed.snapshot import RawObject


def with_revision(template: RawObject) -> RawObject:
    """The template with the hash of itself, by which its pods are known."""
    text = json.dumps(template, sort_keys=True, separators=(",", ":"))
    annotations = {
        **template["metadata"].get("annotations", {}),
        REVISION_ANNOTATION: hashlib.sha256(text.encode()).hexdigest()[:10],
    }
    return {**template, "metadata": {**template["metadata"], "annotations": annotations}}


def revision_of(template: RawObject) -> str:
    return str(template["metadata"]["annotations"][REVISION_ANNOTATION])


def revision_of_pod(pod: RawObject) -> str | None:
    revision: str | None = (pod["metadata"].get("annotations") or {}).get(REVISION_ANNOTATION)
    return revision
