"""Events worth telling: what changed between two statuses.

An event is for a change, never for a state: a pod that stays slow is told of once.
"""

from dataclasses import dataclass
from typing import Literal

from flash_operator.core.observed import RawObject

NOTE_LIMIT = 1000
"""events.k8s.io/v1 allows 1024 characters in a note."""

TELLING = {"Passed", "EngineStarting", "Inconclusive"}
"""Verdicts that are not failures."""


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
    return (*drafts, *_readiness(before, after))


def _pod_happenings(before: RawObject, after: RawObject) -> list[EventDraft]:
    drafts = []
    name = after["name"]
    if after["reason"] != before.get("reason") and after["reason"] != "EngineStarting":
        kind: Literal["Normal", "Warning"] = "Normal" if after["reason"] in TELLING else "Warning"
        drafts.append(draft(kind, after["reason"], f"{name}: {after.get('message', '')}", "Judge"))
    if after.get("flagsOrigin") and after.get("flagsOrigin") != before.get("flagsOrigin"):
        told = f"{name} on {after.get('node')}: row {after.get('row')}, from {after['flagsOrigin']}: "
        told += "; ".join(after.get("flags") or ["no flag"])
        drafts.append(draft("Normal", "FlagsTaken", told, "HandOver"))
    if after.get("incident") and after.get("incident") != before.get("incident"):
        drafts.append(draft("Warning", "EngineRecovered", f"{name}: {after['incident']}", "Recover"))
    if after.get("flagsOutdated") == "Outdated" and before.get("flagsOutdated") == "Current":
        told = f"{name}: the labels of node {after.get('node')} call for other flags now; delete the pod to take them"
        drafts.append(draft("Warning", "FlagsOutdated", told, "HandOver"))
    return drafts


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
