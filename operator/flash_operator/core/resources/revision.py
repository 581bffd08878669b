"""The revision of a pod template: a hash in one of its annotations, so that its pods have it too."""

import hashlib
import json

from flash_contracts.names import REVISION_ANNOTATION
from flash_operator.core.observed.snapshot import RawObject


def with_revision(template: RawObject) -> RawObject:
    """The template with its own hash as an annotation."""
    text = json.dumps(template, sort_keys=True, separators=(",", ":"))
    annotations = {
        **((template.get("metadata") or {}).get("annotations") or {}),
        REVISION_ANNOTATION: hashlib.sha256(text.encode()).hexdigest()[:10],
    }
    return {**template, "metadata": {**(template.get("metadata") or {}), "annotations": annotations}}


def computed_revision(template: RawObject) -> str:
    """What the annotation must say if the template is as it was written."""
    annotations = {
        key: value for key, value in template["metadata"].get("annotations", {}).items() if key != REVISION_ANNOTATION
    }
    return revision_of(with_revision({**template, "metadata": {**template["metadata"], "annotations": annotations}}))


def revision_of(template: RawObject) -> str:
    return str(template["metadata"]["annotations"][REVISION_ANNOTATION])


def revision_of_pod(pod: RawObject) -> str | None:
    revision: str | None = (pod["metadata"].get("annotations") or {}).get(REVISION_ANNOTATION)
    return revision
