"""Events on the CR. Their names follow from what they say, so that a repeat updates one instead of adding another."""

import hashlib
from datetime import datetime

from flash_operator.api.names import API_VERSION, FIELD_MANAGER, KIND
from flash_operator.api.v1alpha1 import FlashDeployment
from flash_operator.core.happenings import EventDraft
from flash_operator.core.observed import RawObject


def event_object(flash: FlashDeployment, draft: EventDraft, moment: datetime, instance: str) -> RawObject:
    """The whole event of events.k8s.io/v1."""
    digest = hashlib.sha256(f"{flash.uid} {draft.reason} {draft.message}".encode()).hexdigest()[:16]
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": f"{flash.name}.{digest}", "namespace": flash.namespace},
        "regarding": {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "name": flash.name,
            "namespace": flash.namespace,
            "uid": flash.uid,
        },
        "type": draft.type,
        "reason": draft.reason,
        "action": draft.action,
        "note": draft.message,
        "eventTime": moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "reportingController": f"deepseekflash.dev/{FIELD_MANAGER}",
        "reportingInstance": instance[:128],
    }
