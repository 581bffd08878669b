"""`kubectl dsf quarantine` and `release`: a user takes a replica out of the Service for a while, and gives it back.

The order is an annotation of the pod, which its gate obeys. It ends with the pod. The operator reports it and never
takes it back; its own quarantine of slow replicas is another value of the same annotation.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated

import typer

from flash_contracts.names import DEPLOYMENT_LABEL, KIND, QUARANTINE_ANNOTATION
from flash_contracts.orders import is_ordered_quarantine, ordered_quarantine
from flash_operator.core.observed.kube import is_ready, is_terminating
from flash_operator.core.observed.snapshot import RawObject
from flashctl.actions.order import (
    POLL_SECONDS,
    ActionDocument,
    NotDoneError,
    NothingToDoError,
    PodArgument,
    WaitOption,
    annotation,
    annotations_of,
    change,
    order_now,
)
from flashctl.cluster import Cluster
from flashctl.errors import NotFoundError
from flashctl.session import Session, on_cluster

ForceOption = Annotated[bool, typer.Option("--force", help="Even the last replica that serves.")]


@dataclass(frozen=True)
class Neighbourhood:
    """A replica, its deployment and the other replicas of that."""

    pod: RawObject
    deployment: str
    others: tuple[RawObject, ...]


@on_cluster
def quarantine(session: Session, *, pod: PodArgument, force: ForceOption = False, wait: WaitOption = 180.0) -> None:
    """Take a replica out of the Service for inspection. Requests that it has begun finish.

    The operator keeps its hands off until `release`. The order ends with the pod.
    """
    found = neighbourhood(session.cluster, pod)
    check_quarantine(found, force=force)
    value = ordered_quarantine(order_now())
    _annotate(session.cluster, found, value, lambda now: check_quarantine(now, force=force))
    _take_back_if_last(session.cluster, found, force=force)
    if wait:
        _wait_for(session.cluster, found.pod, wait, ready=False)
    said = "gets no new requests" if wait else "leaves the Service once its gate has read the order"
    message = f"{pod} of {found.deployment} {said}; kubectl dsf release {pod} gives it back"
    _show(session, found, "quarantine", message)


@on_cluster
def release(session: Session, *, pod: PodArgument, wait: WaitOption = 180.0) -> None:
    """Give a replica back that `quarantine` took out of the Service. Its gate decides when it serves."""
    found = neighbourhood(session.cluster, pod)
    check_release(found)
    _annotate(session.cluster, found, None, check_release)
    if wait:
        _wait_for(session.cluster, found.pod, wait, ready=True)
    said = "serves again" if wait else "serves again once its gate has read that"
    _show(session, found, "release", f"{pod} of {found.deployment} {said}")


def neighbourhood(cluster: Cluster, name: str) -> Neighbourhood:
    """Raises NotFoundError if the pod is no replica of a deployment."""
    pod = cluster.get("Pod", name)
    metadata = pod["metadata"]
    deployment = (metadata.get("labels") or {}).get(DEPLOYMENT_LABEL)
    owners = {owner.get("kind") for owner in metadata.get("ownerReferences") or []}
    if not deployment or "ReplicaSet" not in owners:
        raise NotFoundError(f"the pod {name} is no replica of a {KIND}: kubectl dsf status names the deployments")
    cluster.get(KIND, deployment, metadata.get("namespace"))
    pods = cluster.listed("Pod", metadata.get("namespace"), labels={DEPLOYMENT_LABEL: deployment})
    others = tuple(other for other in pods if other["metadata"]["uid"] != metadata["uid"])
    return Neighbourhood(pod, deployment, others)


def check_quarantine(found: Neighbourhood, *, force: bool) -> None:
    """Raises NothingToDoError or NotDoneError."""
    name = found.pod["metadata"]["name"]
    if is_terminating(found.pod):
        raise NothingToDoError(f"{name} is terminating and gets no new requests")
    if is_ordered_out(found.pod):
        raise NothingToDoError(f"{name} is out of service by a user's order; kubectl dsf release {name} ends it")
    if not force and is_ready(found.pod) and not any(map(serves, found.others)):
        raise NotDoneError(
            f"{name} is the last replica of {found.deployment} that serves: without it, users get errors. The operator "
            "would obey and give it back to nobody; --force takes it out all the same"
        )


def check_release(found: Neighbourhood) -> None:
    """Raises NothingToDoError."""
    name, value = found.pod["metadata"]["name"], annotations_of(found.pod).get(QUARANTINE_ANNOTATION)
    if is_ordered_out(found.pod):
        return
    if value:
        raise NothingToDoError(
            f"the operator, and no user, took {name} out of service, because it is slow: it returns when its gate "
            f"measures that it is fast again; kubectl dsf explain {found.deployment} says more"
        )
    raise NothingToDoError(f"no user has taken {name} out of service")


def _annotate(
    cluster: Cluster, found: Neighbourhood, value: str | None, check: Callable[[Neighbourhood], None]
) -> None:
    def change_of(pod: RawObject) -> RawObject:
        if pod["metadata"]["uid"] != found.pod["metadata"]["uid"]:
            raise NotFoundError(f"the pod {pod['metadata']['name']} was replaced meanwhile")
        check(replace(found, pod=pod))
        return annotation(QUARANTINE_ANNOTATION, value)

    metadata = found.pod["metadata"]
    change(cluster, "Pod", metadata["name"], metadata.get("namespace"), change_of)


def _take_back_if_last(cluster: Cluster, found: Neighbourhood, *, force: bool) -> None:
    """Two users may each have taken out one of the last two. Raises NotDoneError."""
    now = neighbourhood(cluster, found.pod["metadata"]["name"])
    if force or not is_ready(found.pod) or any(map(serves, now.others)):
        return
    _annotate(cluster, now, None, check_release)
    raise NotDoneError(
        f"the other replicas of {found.deployment} stopped serving meanwhile, so {found.pod['metadata']['name']} stays "
        "in service"
    )


def is_ordered_out(pod: RawObject) -> bool:
    return is_ordered_quarantine(annotations_of(pod).get(QUARANTINE_ANNOTATION))


def serves(pod: RawObject) -> bool:
    """It is ready, and nothing is about to change that."""
    return is_ready(pod) and not is_terminating(pod) and not annotations_of(pod).get(QUARANTINE_ANNOTATION)


def _wait_for(
    cluster: Cluster, pod: RawObject, seconds: float, *, ready: bool, pause: Callable[[float], None] = time.sleep
) -> None:
    """Until the kubelet reports it. Raises NotDoneError."""
    metadata = pod["metadata"]
    for _ in range(max(1, round(seconds / POLL_SECONDS))):
        now = cluster.get("Pod", metadata["name"], metadata.get("namespace"))
        if now["metadata"]["uid"] != metadata["uid"]:
            raise NotFoundError(f"the pod {metadata['name']} was replaced meanwhile")
        if is_ready(now) == ready:
            return
        pause(POLL_SECONDS)
    if ready:
        raise NotDoneError(
            f"released, but {metadata['name']} is not ready after {seconds:g} s: its gate has not passed it; "
            "kubectl dsf explain says why"
        )
    raise NotDoneError(
        f"ordered, but {metadata['name']} is still ready after {seconds:g} s: its gate is of an older image that knows "
        "no orders, or the kubelet has not passed the annotation on yet. The order stands"
    )


def _show(session: Session, found: Neighbourhood, action: str, message: str) -> None:
    metadata = found.pod["metadata"]
    document = ActionDocument(
        namespace=metadata.get("namespace", ""), name=metadata["name"], action=action, message=message
    )
    session.show(document, message)
