"""Why a pod cannot start, with the reason and message of the scheduler or the kubelet.

"Not ready" alone would send people to three other commands. The pod's own status has the reason, so it is copied.
"""

import re
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

ABOVE_ITS_LIMIT = re.compile(r"must be less than or equal to (cpu|memory) limit")
"""The API server's words for a request above the limit, as a LimitRange's default limit may be."""


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
    message = condition.get("message", "")
    refused = ABOVE_ITS_LIMIT.search(message)
    if refused:
        message += (
            "; if the spec sets no such limit, a LimitRange of the namespace does: set engine.resources.limits."
            f"{refused[1]} to the request or more"
        )
    return PodFailure(condition.get("reason", "ReplicaFailure"), message)


def exceeded_memory_limit(pod: RawObject) -> bool:
    """Whether the engine's container was last killed for its memory: by its limit, or because the node had no more.

    With cgroup v2 the kernel kills the whole container, the launcher with it, so that only the kubelet knows.
    """
    containers = pod_status(pod).get("containerStatuses") or []
    ended = [_last_termination(container) for container in containers if container["name"] == "engine"]
    return any(terminated.get("reason") == "OOMKilled" for terminated in ended)


LIMIT_RANGER_ANNOTATION = "kubernetes.io/limit-ranger"
"""Written by the API server: `LimitRanger plugin set: cpu, memory limit for container engine; ...`."""


def why_memory_ran_out(pod: RawObject) -> str:
    """Whose limit an engine exceeded that was `OOMKilled`, and what to do. It has nothing to do with GPU memory."""
    limit = _memory_limit(pod)
    if limit is None:
        return (
            "the node ran out of memory, and the kernel killed the engine's container, which has no memory limit "
            "(OOMKilled): raise engine.resources.requests.memory, so that the scheduler leaves it more room"
        )
    killed = f"the engine's container exceeded its memory limit of {limit}, and the kernel killed it (OOMKilled)"
    if _set_by_limit_range(pod):
        return (
            f"{killed}; a LimitRange of the namespace set that limit, because the spec sets none: set "
            "engine.resources.limits.memory; what is in /dev/shm counts too"
        )
    return f"{killed}: raise engine.resources.limits.memory; what is in /dev/shm counts too"


def _memory_limit(pod: RawObject) -> str | None:
    spec = pod.get("spec", {})
    engines = [container for container in spec.get("containers") or [] if container.get("name") == "engine"]
    found = (((owner.get("resources") or {}).get("limits") or {}).get("memory") for owner in (*engines, spec))
    return next((str(limit) for limit in found if limit is not None), None)


def _set_by_limit_range(pod: RawObject) -> bool:
    text = str((pod["metadata"].get("annotations") or {}).get(LIMIT_RANGER_ANNOTATION, ""))
    clauses = (clause.strip() for clause in text.partition(": ")[2].split(";"))
    end = " limit for container engine"
    names = next((clause.removesuffix(end) for clause in clauses if clause.endswith(end)), "")
    return "memory" in names.split(", ")


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
