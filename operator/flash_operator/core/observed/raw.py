"""The parts of raw Kubernetes objects that the operator reads, as types.

A whole object stays a `RawObject`, because most of it is passed on without being read. These types name the fields that
are read, so that mypy finds a mistyped key. Every field may be missing.
"""

from typing import Any, Literal, TypeAlias, TypedDict, cast

RawObject: TypeAlias = dict[str, Any]
"""A Kubernetes object as its JSON. Typed models of the client drop unknown fields and are four times slower."""


class RawOwner(TypedDict, total=False):
    """An entry of `metadata.ownerReferences`."""

    kind: str
    name: str
    uid: str


class RawMetadata(TypedDict, total=False):
    """`metadata`, of any kind of object."""

    name: str
    namespace: str
    uid: str
    labels: dict[str, str] | None
    annotations: dict[str, str] | None
    ownerReferences: list[RawOwner] | None
    deletionTimestamp: str


class RawCondition(TypedDict, total=False):
    """An entry of `status.conditions`, of any kind of object."""

    type: str
    status: Literal["True", "False", "Unknown"]
    reason: str
    message: str
    lastTransitionTime: str


class RawTermination(TypedDict, total=False):
    """`state.terminated` of a container status."""

    exitCode: int
    reason: str
    message: str
    """What the container wrote to its termination log."""
    finishedAt: str


class RawWaiting(TypedDict, total=False):
    """`state.waiting` of a container status."""

    reason: str
    message: str


class RawContainerState(TypedDict, total=False):
    waiting: RawWaiting | None
    terminated: RawTermination | None


class RawContainerStatus(TypedDict, total=False):
    name: str
    state: RawContainerState
    lastState: RawContainerState


class RawPodStatus(TypedDict, total=False):
    phase: Literal["Pending", "Running", "Succeeded", "Failed", "Unknown"]
    reason: str
    message: str
    conditions: list[RawCondition] | None
    containerStatuses: list[RawContainerStatus] | None
    initContainerStatuses: list[RawContainerStatus] | None


class RawTaint(TypedDict, total=False):
    """An entry of a node's `spec.taints`."""

    key: str
    value: str
    effect: str


class RawToleration(TypedDict, total=False):
    """An entry of a pod's `spec.tolerations`."""

    key: str
    operator: str
    value: str
    effect: str


class RawRequirement(TypedDict, total=False):
    """An entry of `matchExpressions` or `matchFields`."""

    key: str
    operator: str
    values: list[str] | None


def metadata_of(raw: RawObject) -> RawMetadata:
    return cast("RawMetadata", raw["metadata"])


def without_managed_fields(raw: RawObject) -> RawObject:
    """A copy without what only the API server reads, which may be the largest part of an object."""
    metadata = {key: value for key, value in raw["metadata"].items() if key != "managedFields"}
    return {**raw, "metadata": metadata}


def pod_status(pod: RawObject) -> RawPodStatus:
    """Empty for a pod without a status."""
    return cast("RawPodStatus", pod.get("status") or {})


def conditions_of(raw: RawObject) -> list[RawCondition]:
    conditions: list[RawCondition] | None = (raw.get("status") or {}).get("conditions")
    return conditions or []


def taints_of(node: RawObject) -> list[RawTaint]:
    taints: list[RawTaint] | None = (node.get("spec") or {}).get("taints")
    return taints or []
