"""Plans the test of a node's links, and what follows from its result.

    observed                                              | Job    | node            | requeue
    ----------------------------------------------------- | ------ | --------------- | ------------------
    nothing to test, or not permitted                     | -      | -               | never
    test due, but GPUs are in use or requested            | -      | -               | when a pod ends
    test due, but an earlier one was inconclusive         | -      | -               | after its back-off
    test due                                              | create | -               | soon
    the Job is running                                    | -      | -               | soon
    the Job runs or was inconclusive, an engine waits     | delete | -               | when a pod ends
    the Job ended with a verdict                          | delete | labels          | never
    the Job ended inconclusively                          | delete | record attempt  | after its back-off

"Never" means at the next resync.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from flash_contracts.names import P2P_ATTEMPT_ANNOTATION
from flash_contracts.node_facts import TESTED, NodeFacts, differs
from flash_contracts.p2p_report import P2pReport
from flash_operator.core.observed.gpu_demand import could_run_on, gpus_of
from flash_operator.core.observed.kube import condition_of, job_outcome, moment_of, termination_message
from flash_operator.core.observed.pod_failure import failure_of
from flash_operator.core.observed.snapshot import RawObject
from flash_operator.core.p2p_test.job import P2pTestSettings, p2p_test_job
from flash_operator.core.p2p_test.node_verdict import REMEDY, NodeClaim, NodeVerdict, from_p2p_test
from flash_operator.core.resources.engine_args import TENSOR_PARALLEL_SIZE
from flash_operator.core.status.events import OPERATOR_LOG, EventSpec
from flash_operator.core.status.status import timestamp

WATCH_TEST_SECONDS = 2.0
BUSY_SECONDS = 60.0
FIRST_BACKOFF = timedelta(minutes=10)
LONGEST_BACKOFF = timedelta(hours=24)


@dataclass(frozen=True)
class NodeObserved:
    """The input of a plan for one node."""

    name: str
    node: RawObject | None
    """None if the node was deleted."""
    settings: P2pTestSettings
    now: datetime
    job: RawObject | None = None
    job_pods: tuple[RawObject, ...] = ()
    pods: tuple[RawObject, ...] = ()
    """All pods bound to the node, and all pending pods."""


@dataclass(frozen=True)
class NodePlan:
    """The actions for one node, in this order."""

    create: RawObject | None = None
    patch: RawObject | None = None
    """A merge patch of the node."""
    delete: RawObject | None = None
    """The Job."""
    events: tuple[EventSpec, ...] = ()
    requeue_after: float | None = None


@dataclass(frozen=True)
class P2pTestAttempt:
    """The last inconclusive test, and how many there were in a row with the same driver."""

    at: datetime
    driver: str | None
    count: int

    @classmethod
    def last_on(cls, node: RawObject) -> "P2pTestAttempt | None":
        text = (node["metadata"].get("annotations") or {}).get(P2P_ATTEMPT_ANNOTATION)
        try:
            raw = json.loads(text or "null")
            return cls(moment_of(raw["at"]), raw["driver"], int(raw["count"])) if raw else None
        except (ValueError, KeyError, TypeError):
            return None

    @property
    def due(self) -> datetime:
        backoff: timedelta = FIRST_BACKOFF * 2 ** min(self.count - 1, 10)
        return self.at + min(backoff, LONGEST_BACKOFF)


def plan_node(observed: NodeObserved) -> NodePlan:
    """Plans the next action for a node."""
    if observed.job is not None:
        return _with_job(observed, observed.job)
    if observed.node is None or reason_not_to_test(NodeFacts.from_node(observed.node)):
        return NodePlan()
    if gpus_in_demand(observed):
        return NodePlan(requeue_after=BUSY_SECONDS)
    wait = _backoff_seconds(observed)
    if wait > 0:
        return NodePlan(requeue_after=wait)
    return NodePlan(create=p2p_test_job(observed.node, observed.settings), requeue_after=WATCH_TEST_SECONDS)


def reason_not_to_test(facts: NodeFacts) -> str | None:
    """Why the node need not or must not be tested; None if a test is due. The first check that objects decides."""
    return next(filter(None, (check(facts) for check in CHECKS)), None)


def _unmanaged(facts: NodeFacts) -> str | None:
    return None if facts.managed else "an administrator manages the labels"


def _cordoned(facts: NodeFacts) -> str | None:
    return None if facts.schedulable else "the node is unschedulable"


def _not_a_pair(facts: NodeFacts) -> str | None:
    """With more than two cards it is unknown which pair an engine gets, and a verdict holds for one pair only."""
    return None if facts.gpus == TENSOR_PARALLEL_SIZE else f"{facts.gpus} GPUs, and only pairs are tested"


def _not_granted(facts: NodeFacts) -> str | None:
    """Without a grant of peer-to-peer the safe flags are used, whatever a test would find."""
    return None if facts.p2p in ("granted", *TESTED) else f"gpu-p2p={facts.p2p}"


def _host_forbids(facts: NodeFacts) -> str | None:
    """Row T7 applies already, and a test could hang the driver."""
    seen = {"gpu-iommu": facts.iommu, "gpu-acs": facts.acs}
    return next((f"{n}={v}" for n, v in seen.items() if v in ("translated", "redirect")), None)


def _up_to_date(facts: NodeFacts) -> str | None:
    tested = facts.p2p in TESTED and not facts.staleness and not facts.claims
    return f"gpu-p2p={facts.p2p}" if tested else None


CHECKS: tuple[Callable[[NodeFacts], str | None], ...] = (
    _unmanaged,
    _cordoned,
    _not_a_pair,
    _not_granted,
    _host_forbids,
    _up_to_date,
)


def gpus_in_demand(observed: NodeObserved) -> bool:
    """Whether another pod uses GPUs of this node, or is pending and may be scheduled here."""
    own = {pod["metadata"]["uid"] for pod in observed.job_pods}
    others = [pod for pod in observed.pods if pod["metadata"]["uid"] not in own]
    return any(gpus_of(pod) and _may_run_here(pod, observed) for pod in others)


def _may_run_here(pod: RawObject, observed: NodeObserved) -> bool:
    """A pending pod that cannot be scheduled here must not block the test forever."""
    return bool(pod["spec"].get("nodeName")) or observed.node is None or could_run_on(pod, observed.node)


def _backoff_seconds(observed: NodeObserved) -> float:
    attempt = P2pTestAttempt.last_on(observed.node) if observed.node else None
    if attempt is None or observed.node is None or differs(attempt.driver, NodeFacts.from_node(observed.node).driver):
        return 0.0
    return (attempt.due - observed.now).total_seconds()


def _with_job(observed: NodeObserved, job: RawObject) -> NodePlan:
    if observed.node is None:
        return NodePlan(delete=job)
    report = termination_message(observed.job_pods) or _failure_message(observed.job_pods, job)
    if report is not None:
        return _conclude(observed, job, report)
    if gpus_in_demand(observed):
        return _give_up(job)
    return NodePlan(requeue_after=WATCH_TEST_SECONDS)


def _give_up(job: RawObject) -> NodePlan:
    """Does not count as an attempt: the test is repeated as soon as the GPUs are free."""
    message = "an engine needs the GPUs: the p2p test was cancelled, and will be repeated when they are free"
    return NodePlan(
        delete=job, events=(_node_event("Normal", "P2pTestCancelled", message),), requeue_after=BUSY_SECONDS
    )


def _conclude(observed: NodeObserved, job: RawObject, text: str) -> NodePlan:
    node = observed.node or {}
    facts, report = NodeFacts.from_node(node), P2pReport.of_text(text)
    verdict = from_p2p_test(facts, report, text)
    if not facts.managed:
        message = f"not written, because an administrator manages this node's labels: {report.verdict}: {report.reason}"
        return NodePlan(delete=job, events=(_node_event("Normal", "VerdictNotWritten", message),))
    if verdict:
        return NodePlan(patch=verdict.patch(), delete=job, events=(verdict_event(verdict),))
    if gpus_in_demand(observed):
        # The scheduler preempted the test before the operator did.
        return _give_up(job)
    attempt = P2pTestAttempt.last_on(node)
    same = attempt is not None and not differs(attempt.driver, facts.driver)
    count = attempt.count + 1 if attempt and same else 1
    noted = {"at": timestamp(observed.now), "driver": facts.driver, "count": count, "reason": report.reason[:500]}
    event = _node_event("Warning", "P2pTestInconclusive", f"{report.verdict}: {report.reason}")
    patch = {"metadata": {"annotations": {P2P_ATTEMPT_ANNOTATION: json.dumps(noted)}}}
    return NodePlan(patch=patch, delete=job, events=(event,), requeue_after=FIRST_BACKOFF.total_seconds())


def verdict_event(verdict: NodeVerdict | NodeClaim) -> EventSpec:
    """The event for the node."""
    if isinstance(verdict, NodeClaim):
        return _node_event("Warning", "PeerToPeerSuspected", verdict.message)
    if verdict.bad:
        return _node_event("Warning", "PeerToPeerBroken", verdict.message, REMEDY)
    return _node_event("Normal", "PeerToPeerVerified", verdict.message)


def _node_event(kind: Literal["Normal", "Warning"], reason: str, message: str, remedy: str = "") -> EventSpec:
    return EventSpec(kind, reason, message, "TestLinks", OPERATOR_LOG, remedy)


def _failure_message(pods: tuple[RawObject, ...], job: RawObject) -> str | None:
    """Why a Job failed without a report: its deadline, and what kept the pod from starting."""
    outcome = job_outcome(job)
    condition = condition_of(job, outcome) if outcome else None
    if condition is None:
        return None
    message = f"{condition.get('reason', '')}: {condition.get('message', '')}"
    failure = next(filter(None, map(failure_of, pods)), None)
    return f"{message}; {failure.reason}: {failure.message}" if failure else message
