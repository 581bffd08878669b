"""Events worth telling: what changed between two statuses.

An event is for a change, never for a state: a pod that stays slow is told of once.
"""

from dataclasses import dataclass
from typing import Literal

from flash_contracts.verdict_reason import Reason, is_failure
from flash_operator.core.observed import RawObject

NOTE_LIMIT = 1000
"""events.k8s.io/v1 allows 1024 characters in a note."""

GIB = 1 << 30


@dataclass(frozen=True)
class EventDraft:
    """An event on the CR or on a node, before the runtime gives it a name and a time."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str
    action: str


def happenings(before: RawObject, after: RawObject) -> tuple[EventDraft, ...]:
    """Verdicts that changed, flags that were taken, flags that fell behind."""
    known = {pod["uid"]: pod for pod in before.get("pods", [])}
    drafts: list[EventDraft] = []
    for pod in after["pods"]:
        drafts += _pod_happenings(known.get(pod["uid"], {}), pod)
    return (*_restoration(before, after), *drafts, *_rollout(before, after), *_readiness(before, after))


RESTORATION_REASONS = {
    "Restoring": "RestoringMtp",
    "Restored": "MtpRestored",
    "Native": "MtpNotNeeded",
    "Failed": "MtpRestoreFailed",
}


def _restoration(before: RawObject, after: RawObject) -> list[EventDraft]:
    """Begin, end and failure; what the Job waits for in between is no event of ours."""
    was, now = before.get("model") or {}, after.get("model") or {}
    if not now or (was.get("mtp"), was.get("path")) == (now["mtp"], now["path"]):
        return []
    kind: Literal["Normal", "Warning"] = "Warning" if now["mtp"] == "Failed" else "Normal"
    return [draft(kind, RESTORATION_REASONS[now["mtp"]], f"{now['path']}: {now['message']}", "Restore")]


def _pod_happenings(before: RawObject, after: RawObject) -> list[EventDraft]:
    drafts = []
    name = after["name"]
    if after["reason"] != before.get("reason") and after["reason"] != Reason.ENGINE_STARTING:
        kind: Literal["Normal", "Warning"] = "Warning" if is_failure(after["reason"]) else "Normal"
        drafts.append(draft(kind, after["reason"], f"{name}: {after.get('message', '')}", "Judge"))
    if after.get("flagsOrigin") and after.get("flagsOrigin") != before.get("flagsOrigin"):
        told = f"{name} on {after.get('node')}: row {after.get('row')}, from {after['flagsOrigin']}: "
        told += "; ".join(after.get("flags") or ["no flag"])
        drafts.append(draft("Normal", "FlagsTaken", told, "HandOver"))
    drafts += _delivery(before.get("delivery") or {}, after)
    if after.get("quarantine") != before.get("quarantine"):
        drafts += _quarantine_happening(before, after)
    if after.get("incident") and after.get("incident") != before.get("incident"):
        drafts.append(draft("Warning", "EngineRecovered", f"{name}: {after['incident']}", "Recover"))
    if after.get("flagsOutdated") == "Outdated" and before.get("flagsOutdated") == "Current":
        told = f"{name}: the labels of node {after.get('node')} call for other flags now; delete the pod to take them"
        drafts.append(draft("Warning", "FlagsOutdated", told, "HandOver"))
    return drafts


def _delivery(before: RawObject, after: RawObject) -> list[EventDraft]:
    """A model that is whole now, with what is served; where it was a branch or tag, with what to pin."""
    now = after.get("delivery") or {}
    if now.get("phase") != "Complete" or before.get("phase") == "Complete":
        return []
    revision = str(now.get("commit"))
    named = f"digest {revision}" if ":" in revision else f"commit {revision}"
    told = f"{after['name']}: {now.get('totalBytes', 0) / GIB:.1f} GiB at {named}"
    warning = now.get("warning")
    drafts = [draft("Normal", "ModelDelivered", told, "Deliver")]
    return (
        [*drafts, draft("Warning", "RevisionNotPinned", f"{after['name']}: {warning}", "Deliver")]
        if warning
        else drafts
    )


def _quarantine_happening(before: RawObject, after: RawObject) -> list[EventDraft]:
    name, message = after["name"], after.get("message", "")
    if after.get("quarantine") == "Granted":
        return [draft("Warning", "Quarantined", f"{name}: taken out of service: {message}", "Quarantine")]
    if after.get("quarantine") == "Waiting":
        told = f"{name}: stays in service, for too few others are ready: {message}"
        return [draft("Warning", "QuarantineWaits", told, "Quarantine")]
    return [draft("Normal", "Released", f"{name}: {message}", "Quarantine")] if before.get("quarantine") else []


def _rollout(before: RawObject, after: RawObject) -> list[EventDraft]:
    was, now = before.get("rollout") or {}, after.get("rollout") or {}
    if now.get("state") != "RolledBack" or was.get("rejected") == now.get("rejected"):
        return []
    return [draft("Warning", "RolledBack", now["message"], "Rollout")]


def _readiness(before: RawObject, after: RawObject) -> list[EventDraft]:
    was, now = _ready(before), _ready(after)
    if was.get("status") == now["status"] or (not was and now["status"] != "True"):
        return []
    kind: Literal["Normal", "Warning"] = "Normal" if now["status"] == "True" else "Warning"
    reason = "Ready" if now["status"] == "True" else "NotReady"
    return [draft(kind, reason, now["message"], "Report")]


def _ready(status: RawObject) -> RawObject:
    return next((c for c in status.get("conditions", []) if c["type"] == "Ready"), {})


def draft(kind: Literal["Normal", "Warning"], reason: str, message: str, action: str) -> EventDraft:
    """An event with a note that the API server takes."""
    return EventDraft(type=kind, reason=reason, message=message[:NOTE_LIMIT], action=action)
