"""Why a pod cannot even start, in the words of the scheduler or the kubelet.

A bare "not ready" sends people to three other commands. The reason stands in the pod's own status, so it is copied.
"""

from dataclasses import dataclass

from flash_operator.core.observed.snapshot import RawObject

STUCK_WAITING = frozenset(
    {
        "ErrImagePull",
        "ImagePullBackOff",
        "ErrImageNeverPull",
        "InvalidImageName",
        "ImageInspectError",
        "RegistryUnavailable",
        "CreateContainerConfigError",
        "CreateContainerError",
        "RunContainerError",
    }
)
"""Reasons of a waiting container that time alone does not cure. `CrashLoopBackOff` of the engine is not among them:
there the gate knows more than the kubelet, namely the engine's own last words."""


@dataclass(frozen=True)
class PodFailure:
    """A reason in CamelCase as the component gave it, and its message."""

    reason: str
    message: str


def failure_of(pod: RawObject) -> PodFailure | None:
    """The first thing that keeps this pod from running, or None."""
    status = pod.get("status", {})
    return _unschedulable(status) or _failed(status) or _stuck_container(status)


def _unschedulable(status: RawObject) -> PodFailure | None:
    for condition in status.get("conditions", []):
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return PodFailure(condition.get("reason", "Unschedulable"), condition.get("message", ""))
    return None


def _failed(status: RawObject) -> PodFailure | None:
    """Evicted, or refused by the kubelet's admission (`UnexpectedAdmissionError` when a GPU fell off the bus)."""
    if status.get("phase") != "Failed":
        return None
    return PodFailure(status.get("reason") or "PodFailed", status.get("message", ""))


def _stuck_container(status: RawObject) -> PodFailure | None:
    containers = [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]
    for container in containers:
        waiting = container.get("state", {}).get("waiting", {})
        if _is_stuck(container["name"], waiting.get("reason", "")):
            text = waiting.get("message") or _last_words(container)
            return PodFailure(waiting["reason"], f"container {container['name']}: {text}".strip())
    return None


def _is_stuck(name: str, reason: str) -> bool:
    return reason in STUCK_WAITING or (name == "gate" and reason == "CrashLoopBackOff")


def _last_words(container: RawObject) -> str:
    return str(container.get("lastState", {}).get("terminated", {}).get("message", "")).strip()


def deployment_failure(deployment: RawObject | None) -> PodFailure | None:
    """Why the Deployment could not create pods at all: a quota, or an admission policy."""
    for condition in (deployment or {}).get("status", {}).get("conditions", []):
        if condition.get("type") == "ReplicaFailure" and condition.get("status") == "True":
            return PodFailure(condition.get("reason", "ReplicaFailure"), condition.get("message", ""))
    return None
