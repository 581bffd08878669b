"""Writes events on CRs and nodes. Their names are derived from their content, so a repeat updates the existing one."""

import hashlib
from datetime import datetime

import structlog

from flash_contracts.names import API_VERSION, FIELD_MANAGER, KIND
from flash_operator.api.v1alpha1 import FlashDeployment
from flash_operator.core.observed.snapshot import RawObject
from flash_operator.core.status.events import EventSpec
from flash_operator.runtime.cluster import ApiError, Cluster

log = structlog.get_logger("flash.events")

CLUSTER_EVENTS_NAMESPACE = "default"
"""The namespace for events about cluster-scoped objects."""


async def emit_event(cluster: Cluster, event: RawObject) -> None:
    """Logs and writes an event. A rejected event is only logged: it must not block a reconcile."""
    log.info(event["reason"], about=event["regarding"]["name"], note=event["note"], type=event["type"])
    try:
        await cluster.record_event(event)
    except ApiError as error:
        log.warning("event not written", about=event["regarding"]["name"], reason=event["reason"], error=str(error))


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
    text = f"{regarding['uid']} {event_spec.reason} {event_spec.message}"
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": f"{regarding['name']}.{digest}", "namespace": namespace},
        "regarding": regarding,
        "type": event_spec.type,
        "reason": event_spec.reason,
        "action": event_spec.action,
        "note": event_spec.message,
        "eventTime": moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "reportingController": f"deepseekflash.dev/{FIELD_MANAGER}",
        "reportingInstance": instance[:128],
    }
