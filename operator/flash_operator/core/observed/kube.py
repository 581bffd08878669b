"""Predicates on raw Kubernetes objects: the one place that knows where pods, nodes and Jobs report their state."""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from flash_operator.core.observed.raw import (
    RawCondition,
    RawObject,
    RawTermination,
    conditions_of,
    metadata_of,
    pod_status,
)


def condition_of(raw: RawObject, name: str) -> RawCondition | None:
    """The condition of this type, whatever its status."""
    return next((condition for condition in conditions_of(raw) if condition.get("type") == name), None)


def has_condition(raw: RawObject, name: str) -> bool:
    """The condition of this type is "True"."""
    condition = condition_of(raw, name)
    return condition is not None and condition.get("status") == "True"


def entries_of(raw: Any, *path: str) -> list[RawObject]:
    """The objects in the list at this path; none where a user's podTemplate has put something else there.

    Only the API server judges such a template, and says what is wrong with it.
    """
    for key in path:
        raw = raw.get(key) if isinstance(raw, dict) else None
    return [entry for entry in raw if isinstance(entry, dict)] if isinstance(raw, list) else []


def is_ready(pod_or_node: RawObject) -> bool:
    return has_condition(pod_or_node, "Ready")


def has_ended(pod: RawObject) -> bool:
    """All containers have exited for good, so the pod holds no GPUs any more."""
    return pod_status(pod).get("phase") in ("Succeeded", "Failed")


def is_terminating(raw: RawObject) -> bool:
    """Deleted, but still there until its finalizers and its grace period are done."""
    return bool(metadata_of(raw).get("deletionTimestamp"))


OVERDUE = timedelta(minutes=10)


def is_overdue(raw: RawObject, now: datetime) -> bool:
    """Its grace period ended long ago. The API server adds that period to `deletionTimestamp`."""
    try:
        return now > moment_of(metadata_of(raw)["deletionTimestamp"]) + OVERDUE
    except (KeyError, TypeError, ValueError):
        return False


SETUP_OVERDUE = timedelta(minutes=2)


def waits_for_setup(pod: RawObject) -> bool:
    """The kubelet has not mounted its volumes yet, or has not set up its network (KEP-3085)."""
    condition = condition_of(pod, "PodReadyToStartContainers")
    return condition is not None and condition.get("status") == "False" and not has_ended(pod)


def setup_is_overdue(pod: RawObject, now: datetime) -> bool:
    """Both take seconds. The pod's status never says what is wrong; events do."""
    if not waits_for_setup(pod):
        return False
    condition = condition_of(pod, "PodReadyToStartContainers") or {}
    try:
        return now > moment_of(condition.get("lastTransitionTime", "")) + SETUP_OVERDUE
    except (TypeError, ValueError):
        return False


def moment_of(text: str) -> datetime:
    """A time without a zone, as a person may write it, is in UTC. Raises TypeError, ValueError."""
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def is_owned_by(raw: RawObject, uid: str) -> bool:
    """Compares uids, because a Job may have the name of the one that it replaced."""
    return any(owner.get("uid") == uid for owner in metadata_of(raw).get("ownerReferences") or [])


def uid_of(raw: RawObject | None) -> str | None:
    return raw["metadata"].get("uid") if raw else None


def job_outcome(job: RawObject) -> Literal["Complete", "Failed"] | None:
    """How a Job ended, None while it runs."""
    if has_condition(job, "Complete"):
        return "Complete"
    return "Failed" if has_condition(job, "Failed") else None


def termination_message(pods: Iterable[RawObject]) -> str | None:
    """What the container that exited last left behind, or its exit code; None while none has exited."""
    last = max(_terminations(pods), key=lambda ended: ended.get("finishedAt") or "", default=None)
    if last is None:
        return None
    return last.get("message") or f"exit code {last.get('exitCode')}, {last.get('reason', '')}"


def _terminations(pods: Iterable[RawObject]) -> Iterator[RawTermination]:
    for pod in pods:
        for container in pod_status(pod).get("containerStatuses") or []:
            if ended := container.get("state", {}).get("terminated"):
                yield ended
