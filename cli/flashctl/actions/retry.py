"""`kubectl dsf retry`: tries again now what the operator, a Job or a kubelet has given up or puts off.

    what                                          | how it is tried again
    --------------------------------------------- | -----------------------------------------------------------------
    a template or update that was rolled back     | an order to the operator, which tries it once more
    a restore of the MTP head that failed         | its Job is deleted, and the operator makes another
    a replica that failed, or that its kubelet    | its pod is deleted, and the Deployment makes another
    restarts ever more slowly (a download)        |

A replica that serves, or that a user took out of service, is left alone.
"""

from dataclasses import dataclass, field
from typing import Any

from flash_contracts.names import DEPLOYMENT_LABEL, KIND, QUARANTINE_ANNOTATION, RETRY_ANNOTATION, ROLLBACK_ANNOTATION
from flash_contracts.orders import is_ordered_quarantine
from flash_contracts.verdict_reason import is_failure
from flash_operator.core.observed.kube import is_ready, is_terminating
from flash_operator.core.observed.snapshot import RawObject
from flashctl.actions.order import (
    ActionDocument,
    NameArgument,
    NothingToDoError,
    WaitOption,
    YesOption,
    annotation,
    annotations_of,
    change,
    confirm,
    order_now,
    wait_for_answer,
)
from flashctl.errors import NotFoundError
from flashctl.session import Session, on_cluster

NOT_HELPED = frozenset({"Unschedulable"})
"""Another pod would wait for the same."""


@dataclass(frozen=True)
class Retry:
    """What can be tried again."""

    rejected: str = ""
    """Why a template or an update was rolled back."""
    job: str = ""
    """The failed Job that restores the MTP head."""
    pods: dict[str, str] = field(default_factory=dict)
    """Failed replicas, each with its reason."""

    @property
    def lines(self) -> list[str]:
        lines = [f"what was rolled back: {self.rejected}"] if self.rejected else []
        lines += [f"the Job {self.job}, which restores the MTP head, is deleted and made again"] if self.job else []
        return lines + [f"the pod {name} is deleted and made again: {reason}" for name, reason in self.pods.items()]


@on_cluster
def retry(session: Session, *, name: NameArgument, yes: YesOption = False, wait: WaitOption = 60.0) -> None:
    """Try again now what was rejected, or has failed.

    Ends with 1 if there is nothing to try again.
    """
    cluster = session.cluster
    raw = cluster.get(KIND, name)
    namespace = raw["metadata"].get("namespace", "")
    found = to_retry(raw, cluster.listed("Pod", namespace, labels={DEPLOYMENT_LABEL: name}))
    if not found.lines:
        raise NothingToDoError(f"nothing of {name} was rejected or has failed; kubectl dsf explain {name} says more")
    confirm("\n  ".join([f"To try again for {name}:", *found.lines]) + "\nTry it?", yes=yes)
    if found.rejected:
        ordered = change(cluster, KIND, name, namespace, order_of)
        if wait:
            wait_for_answer(cluster, raw, "Retry", annotations_of(ordered)[RETRY_ANNOTATION], wait)
    for kind, gone in [("Job", found.job), *(("Pod", pod) for pod in found.pods)]:
        if gone:
            _delete(session, kind, gone, namespace)
    message = "\n  ".join([f"{name} tries again:", *found.lines])
    session.show(ActionDocument(namespace=namespace, name=name, action="retry", message=message), message)


def order_of(raw: RawObject) -> RawObject:
    """The patch: an order that is later than the user's order to roll back."""
    known = annotations_of(raw)
    return annotation(RETRY_ANNOTATION, order_now(known.get(RETRY_ANNOTATION), known.get(ROLLBACK_ANNOTATION)))


def to_retry(raw: RawObject, pods: list[RawObject]) -> Retry:
    """From the status, and from the pods as they are now: one that has recovered is left alone."""
    name, status = raw["metadata"]["name"], raw.get("status") or {}
    rollout, update, model = (status.get(part) or {} for part in ("rollout", "update", "model"))
    rejected = rollout if rollout.get("state") == "RolledBack" else update if update.get("state") == "Rejected" else {}
    return Retry(
        rejected=rejected.get("message", "") or ("it was rejected" if rejected else ""),
        job=f"{name}-restore" if model.get("mtp") == "Failed" else "",
        pods=_failed(status.get("pods") or [], pods),
    )


def _failed(reported: list[dict[str, Any]], pods: list[RawObject]) -> dict[str, str]:
    alive = {pod["metadata"]["uid"]: pod for pod in pods if not (is_ready(pod) or is_terminating(pod))}
    failed = {}
    for replica in reported:
        pod, reason = alive.get(replica.get("uid")), replica.get("reason", "")
        if pod is None or not is_failure(reason) or reason in NOT_HELPED:
            continue
        annotation = (pod["metadata"].get("annotations") or {}).get(QUARANTINE_ANNOTATION)
        if not is_ordered_quarantine(annotation):
            failed[pod["metadata"]["name"]] = f"{reason}: {replica.get('message', '')}"
    return failed


def _delete(session: Session, kind: str, name: str, namespace: str) -> None:
    try:
        session.cluster.delete(kind, name, namespace)
    except NotFoundError:
        return
