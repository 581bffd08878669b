"""Why a pod cannot start, with the reason and message of the scheduler or the kubelet.

"Not ready" alone would send people to three other commands. The pod's own status has the reason, so it is copied.
"""

from dataclasses import dataclass

from flash_operator.core.observed.kube import condition_of
from flash_operator.core.observed.raw import RawContainerStatus, RawTermination, pod_status
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
"""Reasons of a waiting container that do not resolve themselves. The engine's `CrashLoopBackOff` is not among them: the
gate knows more about that than the kubelet, namely the engine's last log lines."""


@dataclass(frozen=True)
class PodFailure:
    """A CamelCase reason as the component reported it, and its message."""

    reason: str
    message: str


def failure_of(pod: RawObject) -> PodFailure | None:
    """The first thing that keeps this pod from running, or None."""
    return _unschedulable(pod) or _failed(pod) or _stuck_container(pod)


def deployment_failure(deployment: RawObject | None) -> PodFailure | None:
    """Why the Deployment could not create pods at all: a quota, or an admission policy."""
    condition = condition_of(deployment or {}, "ReplicaFailure")
    if condition is None or condition.get("status") != "True":
        return None
    return PodFailure(condition.get("reason", "ReplicaFailure"), condition.get("message", ""))


def exceeded_memory_limit(pod: RawObject) -> bool:
    """Whether the engine's container last ended by exceeding its memory limit.

    With cgroup v2 the kernel kills the whole container, the launcher with it, so that only the kubelet knows.
    """
    containers = pod_status(pod).get("containerStatuses") or []
    ended = [_last_termination(container) for container in containers if container["name"] == "engine"]
    return any(terminated.get("reason") == "OOMKilled" for terminated in ended)


def _unschedulable(pod: RawObject) -> PodFailure | None:
    condition = condition_of(pod, "PodScheduled")
    if condition is None or condition.get("status") != "False":
        return None
    return PodFailure(condition.get("reason", "Unschedulable"), condition.get("message", ""))


def _failed(pod: RawObject) -> PodFailure | None:
    """Evicted, or refused by the kubelet's admission (`UnexpectedAdmissionError` when a GPU fell off the bus)."""
    status = pod_status(pod)
    if status.get("phase") != "Failed":
        return None
    return PodFailure(status.get("reason") or "PodFailed", status.get("message", ""))


def _stuck_container(pod: RawObject) -> PodFailure | None:
    status = pod_status(pod)
    for container in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
        waiting = container.get("state", {}).get("waiting") or {}
        reason = waiting.get("reason", "")
        if _is_stuck(container["name"], reason):
            text = waiting.get("message") or _last_termination(container).get("message", "").strip()
            return PodFailure(reason, f"container {container['name']}: {text}".strip())
    return None


def _is_stuck(name: str, reason: str) -> bool:
    return reason in STUCK_WAITING or (name == "gate" and reason == "CrashLoopBackOff")


def _last_termination(container: RawContainerStatus) -> RawTermination:
    """Empty if it has not ended before."""
    return container.get("lastState", {}).get("terminated") or {}
