"""The replicas of a deployment: from its status, or from the pods alone while no operator writes one."""

from typing import Any

from pydantic import Field

from flash_contracts.verdict_reason import Reason
from flash_operator.core.observed.kube import condition_of
from flash_operator.core.observed.pod_failure import failure_of
from flash_operator.core.observed.snapshot import RawObject
from flashctl.explain.facts import Facts
from flashctl.output import Document

CONTAINERS = ("fetch", "gate", "engine")


class ReplicaLine(Document):
    """One replica."""

    pod: str
    node: str | None = None
    ready: bool
    reason: str
    message: str = ""
    decode_tokens_per_second: int | None = None
    floor_tokens_per_second: int | None = None
    acceptance_percent: int | None = None
    quarantine: str | None = None
    incident: str | None = None
    warnings: list[str] = Field(default_factory=list)
    restarts: int = 0


def replica_lines(facts: Facts, *, from_pods: bool) -> list[ReplicaLine]:
    """In the order of their names. `from_pods` leaves the status out, because nobody keeps it fresh."""
    pods = {str(pod["metadata"]["name"]): pod for pod in facts.pods}
    known = {str(one.get("name")): one for one in facts.status.get("pods") or []}
    if from_pods and facts.pods:
        return [_of_pod(name, pods[name]) for name in sorted(pods)]
    named = {**{name: {} for name in pods}, **known}
    return [_of_status(name, named[name], pods.get(name)) for name in sorted(named)]


def _of_status(name: str, known: dict[str, Any], pod: RawObject | None) -> ReplicaLine:
    if not known and pod is not None:
        return _of_pod(name, pod)
    return ReplicaLine(
        pod=name,
        node=known.get("node"),
        ready=_is_ready(pod) if pod else known.get("reason") == Reason.PASSED,
        reason=str(known.get("reason", "Unknown")),
        message=str(known.get("message", "")),
        decode_tokens_per_second=known.get("decodeTokensPerSecond"),
        floor_tokens_per_second=known.get("floorTokensPerSecond"),
        acceptance_percent=known.get("acceptancePercent"),
        quarantine=known.get("quarantine"),
        incident=known.get("incident"),
        warnings=list(known.get("warnings") or []),
        restarts=_restarts(pod),
    )


def _of_pod(name: str, pod: RawObject) -> ReplicaLine:
    ready = _is_ready(pod)
    reason, message = ("Ready", "its gate has passed it") if ready else _why_not(pod)
    node = (pod.get("spec") or {}).get("nodeName")
    return ReplicaLine(pod=name, node=node, ready=ready, reason=reason, message=message, restarts=_restarts(pod))


def _why_not(pod: RawObject) -> tuple[str, str]:
    """What the scheduler and the kubelet say; the gate's verdict is only its own."""
    if failure := failure_of(pod):
        return failure.reason, failure.message
    if pod["metadata"].get("deletionTimestamp"):
        return "Terminating", "it is being deleted"
    for name, state in _states(pod):
        if waiting := state.get("waiting"):
            reason = waiting.get("reason", "Waiting")
            return reason, f"container {name}: {waiting.get('message') or 'not started yet'}"
        if (ended := state.get("terminated")) and ended.get("exitCode"):
            return "Exited", f"container {name} ended with exit code {ended['exitCode']}"
    return "NotReady", "its containers run, and its gate has not passed it yet: kubectl dsf logs shows what it measures"


def _states(pod: RawObject) -> list[tuple[str, dict[str, Any]]]:
    status = pod.get("status") or {}
    known = [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]
    return [(str(one.get("name")), one.get("state") or {}) for one in known if one.get("name") in CONTAINERS]


def _is_ready(pod: RawObject | None) -> bool:
    return (condition_of(pod or {}, "Ready") or {}).get("status") == "True"


def _restarts(pod: RawObject | None) -> int:
    known = ((pod or {}).get("status") or {}).get("containerStatuses") or []
    return sum(int(one.get("restartCount") or 0) for one in known if one.get("name") == "engine")
