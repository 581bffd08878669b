"""Builds the Kubernetes events to emit when status changes.

Events are for changes, not for states: a pod that stays slow gets one event.
"""

from dataclasses import dataclass
from typing import Literal

from flash_contracts import event_note
from flash_contracts.verdict_reason import Reason, is_failure
from flash_operator.core.observed.pod_failure import failure_of
from flash_operator.core.observed.snapshot import RawObject
from flash_operator.core.scaling.scaling_status import was_deleted

REASON_LIMIT = 128
"""events.k8s.io/v1 allows no more."""

OPERATOR_LOG = "the operator's log"

GIB = 1 << 30


@dataclass(frozen=True)
class EventSpec:
    """An event on the CR or on a node, before the runtime gives it a name and a time."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str
    """All of it, for the log."""
    action: str
    details: str = "status"
    """Where a person finds what the note has no room for."""
    remedy: str = ""
    """What to do, of at most 120 characters: it is never cut."""

    @property
    def note(self) -> str:
        """The message as one short sentence."""
        return event_note.note(self.message, details=self.details, remedy=self.remedy)


def status_events(before: RawObject, after: RawObject) -> tuple[EventSpec, ...]:
    """The events for everything that changed from one status to the next."""
    known = {pod["uid"]: pod for pod in before.get("pods", [])}
    events: list[EventSpec] = []
    for pod in after["pods"]:
        events += _pod_events(known.get(pod["uid"], {}), pod)
    return (
        *_mtp_restore_events(before, after),
        *events,
        *_rollout_events(before, after),
        *_update_events(before, after),
        *_scaling_events(before, after),
        *_spec_events(before, after),
        *_readiness_events(before, after),
    )


MTP_RESTORE_REASONS = {
    "Restoring": "RestoringMtp",
    "Restored": "MtpRestored",
    "Native": "MtpNotNeeded",
    "Failed": "MtpRestoreFailed",
}


def _mtp_restore_events(before: RawObject, after: RawObject) -> list[EventSpec]:
    """Start, end and failure of a restore. What the Job waits for in between is shown in status only."""
    was, now = before.get("model") or {}, after.get("model") or {}
    if not now or (was.get("mtp"), was.get("path")) == (now["mtp"], now["path"]):
        return []
    kind: Literal["Normal", "Warning"] = "Warning" if now["mtp"] == "Failed" else "Normal"
    return [EventSpec(kind, MTP_RESTORE_REASONS[now["mtp"]], f"{now['path']}: {now['message']}", "Restore")]


def _pod_events(before: RawObject, after: RawObject) -> list[EventSpec]:
    events = []
    name = after["name"]
    if after["reason"] != before.get("reason") and after["reason"] != Reason.ENGINE_STARTING:
        kind: Literal["Normal", "Warning"] = "Warning" if is_failure(after["reason"]) else "Normal"
        events.append(EventSpec(kind, after["reason"], f"{name}: {after.get('message', '')}", "Judge"))
    if after.get("flagsOrigin") and after.get("flagsOrigin") != before.get("flagsOrigin"):
        message = f"{name} on {after.get('node')}: row {after.get('row')}, from {after['flagsOrigin']}: "
        message += "; ".join(after.get("flags") or ["no flags"])
        events.append(EventSpec("Normal", "FlagsTaken", message, "HandOver"))
    events += _download_events(before.get("delivery") or {}, after)
    if after.get("quarantine") != before.get("quarantine"):
        events += _quarantine_event(before, after)
    if after.get("incident") and after.get("incident") != before.get("incident"):
        events.append(EventSpec("Warning", "EngineRecovered", f"{name}: {after['incident']}", "Recover"))
    if after.get("flagsOutdated") == "Outdated" and before.get("flagsOutdated") == "Current":
        message = f"{name}: the labels of node {after.get('node')} now call for other flags"
        events.append(EventSpec("Warning", "FlagsOutdated", message, "HandOver"))
    return events


def _download_events(before: RawObject, after: RawObject) -> list[EventSpec]:
    """A completed download with the commit or digest that is served, and a warning if the revision was not pinned."""
    now = after.get("delivery") or {}
    if now.get("phase") != "Complete" or before.get("phase") == "Complete":
        return []
    revision = str(now.get("commit"))
    where = f"digest {revision}" if ":" in revision else f"commit {revision}"
    message = f"{after['name']}: {now.get('totalBytes', 0) / GIB:.1f} GiB at {where}"
    warning = now.get("warning")
    events = [EventSpec("Normal", "ModelDelivered", message, "Deliver")]
    return (
        [*events, EventSpec("Warning", "RevisionNotPinned", f"{after['name']}: {warning}", "Deliver")]
        if warning
        else events
    )


def _quarantine_event(before: RawObject, after: RawObject) -> list[EventSpec]:
    name, message = after["name"], after.get("message", "")
    if after.get("quarantine") == "Granted":
        return [EventSpec("Warning", "Quarantined", f"{name}: taken out of service: {message}", "Quarantine")]
    if after.get("quarantine") == "Waiting":
        note = f"{name}: stays in service because too few other replicas are ready: {message}"
        return [EventSpec("Warning", "QuarantineWaits", note, "Quarantine")]
    return [EventSpec("Normal", "Released", f"{name}: {message}", "Quarantine")] if before.get("quarantine") else []


def _rollout_events(before: RawObject, after: RawObject) -> list[EventSpec]:
    was, now = before.get("rollout") or {}, after.get("rollout") or {}
    if now.get("state") != "RolledBack" or was.get("rejected") == now.get("rejected"):
        return []
    return [EventSpec("Warning", "RolledBack", now["message"], "Rollout")]


def pod_ended_event(pod: RawObject) -> EventSpec:
    """A pod that ended and is deleted, in the kubelet's words: after the deletion nothing else has them."""
    failure = failure_of(pod)
    reason = failure.reason if failure else "PodSucceeded"
    node = pod.get("spec", {}).get("nodeName") or "no node"
    message = f"{pod['metadata']['name']} on {node}: {failure.message if failure else 'its containers exited'}"
    return EventSpec("Warning", reason[:REASON_LIMIT], message, "Replace", OPERATOR_LOG)


UPDATE_EVENTS = {"Available": "UpdateAvailable", "Updating": "UpdateTaken", "Rejected": "UpdateRejected"}
"""Waiting gets no event: it lasts until other deployments have finished, and status names them."""


def _update_events(before: RawObject, after: RawObject) -> list[EventSpec]:
    """An update that is offered, taken, complete or rejected."""
    was, now = before.get("update") or {}, after.get("update") or {}
    if (was.get("state"), was.get("revision")) == (now.get("state"), now.get("revision")):
        return []
    if now["state"] == "UpToDate":
        ended = was.get("state") == "Updating"
        return (
            [EventSpec("Normal", "UpdateComplete", f"{was['revision']} runs on every replica", "Update")]
            if ended
            else []
        )
    if now["state"] not in UPDATE_EVENTS:
        return []
    kind: Literal["Normal", "Warning"] = "Warning" if now["state"] == "Rejected" else "Normal"
    message = "; ".join((f"{now['revision']}: {now['message']}", *now["changes"]))
    return [EventSpec(kind, UPDATE_EVENTS[now["state"]], message, "Update")]


def _scaling_events(before: RawObject, after: RawObject) -> list[EventSpec]:
    """An autoscaler that somebody deleted, and one that does not work any more."""
    events = []
    was, now = before.get("scaling") or {}, after.get("scaling") or {}
    if was_deleted(was, now):
        message = (
            f"the {now['kind']} {now['name']} was deleted, and is created again; remove spec.scaling if you want none"
        )
        events.append(EventSpec("Warning", "ScalerRecreated", message, "Scale"))
    old, new = (_condition(status, "ScalingActive") for status in (before, after))
    if new.get("status") == "False" and new.get("reason") != old.get("reason"):
        events.append(EventSpec("Warning", new["reason"], new["message"], "Scale"))
    return events


def _spec_events(before: RawObject, after: RawObject) -> list[EventSpec]:
    was, now = _condition(before, "SpecValid"), _condition(after, "SpecValid")
    if now.get("status") != "False" or was.get("message") == now["message"]:
        return []
    return [EventSpec("Warning", now["reason"], now["message"], "Review")]


def _readiness_events(before: RawObject, after: RawObject) -> list[EventSpec]:
    was, now = _condition(before, "Ready"), _condition(after, "Ready")
    if was.get("status") == now["status"] or (not was and now["status"] != "True"):
        return []
    kind: Literal["Normal", "Warning"] = "Normal" if now["status"] == "True" else "Warning"
    reason = "Ready" if now["status"] == "True" else "NotReady"
    return [EventSpec(kind, reason, now["message"], "Report")]


def _condition(status: RawObject, name: str) -> RawObject:
    return next((c for c in status.get("conditions", []) if c["type"] == name), {})
