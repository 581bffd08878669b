"""Writes events on CRs and nodes. Their names are derived from their content, so a repeat updates the existing one.

Each object has a budget of events, as with client-go's recorder: what happens to it may come from a tenant's pod, whose
words differ each time. Events over the budget are only logged.
"""

import hashlib
import time
from collections.abc import Callable
from datetime import datetime

import structlog

from flash_contracts.names import API_VERSION, FIELD_MANAGER, KIND
from flash_operator.api.v1alpha1 import FlashDeployment
from flash_operator.core.observed.snapshot import RawObject
from flash_operator.core.status.events import EventSpec
from flash_operator.runtime.cluster import ApiError, Cluster, UnreachableError

log = structlog.get_logger("flash.events")

CLUSTER_EVENTS_NAMESPACE = "default"
"""The namespace for events about cluster-scoped objects."""


BURST = 25
SECONDS_PER_EVENT = 30.0
"""An object may have so many events at once, and then one in so many seconds."""


class EventRecorder:
    """Logs and writes events."""

    def __init__(self, cluster: Cluster, clock: Callable[[], float] = time.monotonic) -> None:
        self._cluster = cluster
        self._clock = clock
        self._full_at: dict[str, float] = {}
        """When each object's budget is whole again, by uid."""

    async def emit(self, event: RawObject, message: str = "") -> None:
        """An event that cannot be written is only logged: it must not block a reconcile, nor the events after it.

        `message` is all that the log shall have; the event's note is one short sentence of it.
        """
        written = self._is_within_budget(event["regarding"]["uid"])
        log.info(
            event["reason"],
            about=event["regarding"]["name"],
            note=message or event["note"],
            type=event["type"],
            written=written,
        )
        if not written:
            return
        try:
            await self._cluster.record_event(event)
        except (ApiError, UnreachableError) as error:
            log.warning("event not written", about=event["regarding"]["name"], reason=event["reason"], error=str(error))

    def _is_within_budget(self, uid: str) -> bool:
        now = self._clock()
        self._full_at = {known: at for known, at in self._full_at.items() if at > now}
        full_at = self._full_at.get(uid, now) + SECONDS_PER_EVENT
        if full_at - now > BURST * SECONDS_PER_EVENT:
            return False
        self._full_at[uid] = full_at
        return True


def flash_event(flash: FlashDeployment, event_spec: EventSpec, moment: datetime, instance: str) -> RawObject:
    """An event about a DeepSeekFlashDeployment."""
    regarding = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "name": flash.name,
        "namespace": flash.namespace,
        "uid": flash.uid,
    }
    return _event(regarding, flash.namespace, event_spec, moment, instance)


def node_event(node: RawObject, event_spec: EventSpec, moment: datetime, instance: str) -> RawObject:
    """An event about a node. Its uid is the node's name, as from a kubelet, so `kubectl describe node` finds it."""
    name = node["metadata"]["name"]
    regarding = {"apiVersion": "v1", "kind": "Node", "name": name, "uid": name}
    return _event(regarding, CLUSTER_EVENTS_NAMESPACE, event_spec, moment, instance)


def _event(regarding: RawObject, namespace: str, event_spec: EventSpec, moment: datetime, instance: str) -> RawObject:
    text = f"{regarding['uid']} {event_spec.reason} {event_spec.note}"
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": f"{regarding['name']}.{digest}", "namespace": namespace},
        "regarding": regarding,
        "type": event_spec.type,
        "reason": event_spec.reason,
        "action": event_spec.action,
        "note": event_spec.note,
        "eventTime": moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "reportingController": f"deepseekflash.dev/{FIELD_MANAGER}",
        "reportingInstance": instance[:128],
    }
