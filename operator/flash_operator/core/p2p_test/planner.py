"""When to test the links of a node, and what to do with the answer.

    observed                                              | Job    | node            | look again
    ----------------------------------------------------- | ------ | --------------- | ----------
    nothing to prove, or nobody lets us                   | -      | -               | never
    worth a test, but GPUs in use or wanted               | -      | -               | when a pod goes
    worth a test, and an earlier one found nothing out    | -      | -               | after its back-off
    worth a test                                          | start  | -               | soon
    the Job runs                                          | -      | -               | soon
    the Job runs or found nothing out, an engine waits    | delete | -               | when a pod goes
    the Job ended, with a verdict                         | delete | labels          | never
    the Job ended, and found nothing out                  | delete | the attempt     | after its back-off

"Never" still means the resync of every node.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from flash_contracts.names import P2P_ATTEMPT_ANNOTATION
from flash_contracts.node_facts import TESTED, NodeFacts
from flash_contracts.p2p_report import P2pReport
from flash_operator.core.observed.gpu_demand import gpus_of, selects
from flash_operator.core.observed.pod_failure import failure_of
from flash_operator.core.observed.snapshot import RawObject
from flash_operator.core.p2p_test.job import P2pTestSettings, p2p_test_job
from flash_operator.core.p2p_test.node_verdict import NodeVerdict, from_p2p_test
from flash_operator.core.resources.engine_args import TENSOR_PARALLEL_SIZE
from flash_operator.core.status.events import EventSpec, event_spec
from flash_operator.core.status.status import timestamp

WATCH_TEST_SECONDS = 2.0
BUSY_SECONDS = 60.0
FIRST_BACKOFF = timedelta(minutes=10)
LONGEST_BACKOFF = timedelta(hours=24)


@dataclass(frozen=True)
class NodeObserved:
    """What a decision about one node's links may depend on."""

    name: str
    node: RawObject | None
    """None for a node that is gone."""
    settings: P2pTestSettings
    now: datetime
    job: RawObject | None = None
    job_pods: tuple[RawObject, ...] = ()
    pods: tuple[RawObject, ...] = ()
    """Every pod that is bound to the node or to none."""


@dataclass(frozen=True)
class NodePlan:
    """What to do about one node, in this order."""

    create: RawObject | None = None
    patch: RawObject | None = None
    """A merge patch of the node."""
    delete: RawObject | None = None
    """The Job."""
    events: tuple[EventSpec, ...] = ()
    requeue_after: float | None = None


@dataclass(frozen=True)
class Attempt:
    """A test that found nothing out, and how many there were in a row under the same driver."""

    at: datetime
    driver: str | None
    count: int

    @classmethod
    def last_on(cls, node: RawObject) -> "Attempt | None":
        text = (node["metadata"].get("annotations") or {}).get(P2P_ATTEMPT_ANNOTATION)
        try:
            raw = json.loads(text or "null")
            return cls(datetime.fromisoformat(raw["at"]), raw["driver"], int(raw["count"])) if raw else None
        except (ValueError, KeyError, TypeError):
            return None

    @property
    def due(self) -> datetime:
        backoff: timedelta = FIRST_BACKOFF * 2 ** min(self.count - 1, 10)
        return self.at + min(backoff, LONGEST_BACKOFF)


def plan_node(observed: NodeObserved) -> NodePlan:
    """What brings this node's verdict up to date."""
    if observed.job is not None:
        return _with_job(observed, observed.job)
    if observed.node is None or needless(NodeFacts.from_node(observed.node)):
        return NodePlan()
    if gpus_wanted(observed):
        return NodePlan(requeue_after=BUSY_SECONDS)
    wait = _backoff_seconds(observed)
    if wait > 0:
        return NodePlan(requeue_after=wait)
    return NodePlan(create=p2p_test_job(observed.name, observed.settings), requeue_after=WATCH_TEST_SECONDS)


def needless(facts: NodeFacts) -> str | None:
    """Why there is nothing to test on a node; None where a test is worth its minute. A chain of checks."""
    return next(filter(None, (check(facts) for check in CHECKS)), None)


def _unmanaged(facts: NodeFacts) -> str | None:
    return None if facts.managed else "an administrator keeps the labels by hand"


def _cordoned(facts: NodeFacts) -> str | None:
    return None if facts.schedulable else "the node takes no pods"


def _not_a_pair(facts: NodeFacts) -> str | None:
    """With more than two cards nobody knows which pair an engine will get, and one pair's verdict is not another's."""
    return (
        None if facts.gpus == TENSOR_PARALLEL_SIZE else f"{facts.gpus} GPUs, and only a pair can be judged as a whole"
    )


def _not_granted(facts: NodeFacts) -> str | None:
    """Nobody says that peer-to-peer is allowed, so the safe set is in force whatever a test would find."""
    return None if facts.p2p in ("granted", *TESTED) else f"gpu-p2p={facts.p2p}"


def _host_forbids(facts: NodeFacts) -> str | None:
    """Row T7 already, and a test that hangs the driver helps nobody."""
    seen = {"gpu-iommu": facts.iommu, "gpu-acs": facts.acs}
    return next((f"{n}={v}" for n, v in seen.items() if v in ("translated", "redirect")), None)


def _up_to_date(facts: NodeFacts) -> str | None:
    return f"gpu-p2p={facts.p2p}" if facts.p2p in TESTED and not facts.staleness else None


CHECKS: tuple[Callable[[NodeFacts], str | None], ...] = (
    _unmanaged,
    _cordoned,
    _not_a_pair,
    _not_granted,
    _host_forbids,
    _up_to_date,
)


def gpus_wanted(observed: NodeObserved) -> bool:
    """Some pod holds GPUs of this node, or waits for GPUs and may land here. The test's own pod does not count."""
    own = {pod["metadata"]["uid"] for pod in observed.job_pods}
    others = [pod for pod in observed.pods if pod["metadata"]["uid"] not in own]
    return any(gpus_of(pod) and _may_be_here(pod, observed) for pod in others)


def _may_be_here(pod: RawObject, observed: NodeObserved) -> bool:
    """A pod that waits for another kind of node must not keep this one from being tested for ever."""
    return bool(pod["spec"].get("nodeName")) or observed.node is None or selects(pod["spec"], observed.node)


def _backoff_seconds(observed: NodeObserved) -> float:
    attempt = Attempt.last_on(observed.node) if observed.node else None
    if attempt is None or observed.node is None or attempt.driver != NodeFacts.from_node(observed.node).driver:
        return 0.0
    return (attempt.due - observed.now).total_seconds()


def _with_job(observed: NodeObserved, job: RawObject) -> NodePlan:
    if observed.node is None:
        return NodePlan(delete=job)
    said = _last_words(observed.job_pods) or _why_it_failed(observed.job_pods, job)
    if said is not None:
        return _conclude(observed, job, said)
    if gpus_wanted(observed):
        return _give_up(job)
    return NodePlan(requeue_after=WATCH_TEST_SECONDS)


def _give_up(job: RawObject) -> NodePlan:
    """No failed attempt: it is made as soon as the GPUs are free again."""
    told = "an engine wants the GPUs: the test of the links was given up, and is made when they are free"
    return NodePlan(
        delete=job, events=(event_spec("Normal", "ProbeGivenUp", told, "Probe"),), requeue_after=BUSY_SECONDS
    )


def _conclude(observed: NodeObserved, job: RawObject, said: str) -> NodePlan:
    node = observed.node or {}
    facts, report = NodeFacts.from_node(node), P2pReport.of_text(said)
    verdict = from_p2p_test(facts, report, said)
    if not facts.managed:
        told = f"not written, for this node's labels are kept by hand: {report.verdict}: {report.reason}"
        return NodePlan(delete=job, events=(event_spec("Normal", "VerdictNotWritten", told, "Probe"),))
    if verdict:
        return NodePlan(patch=verdict.patch(), delete=job, events=(verdict_event(verdict),))
    if gpus_wanted(observed):
        # The scheduler was faster than this operator in taking the GPUs away from it.
        return _give_up(job)
    attempt = Attempt.last_on(node)
    count = attempt.count + 1 if attempt and attempt.driver == facts.driver else 1
    noted = {"at": timestamp(observed.now), "driver": facts.driver, "count": count, "reason": report.reason[:500]}
    event = event_spec("Warning", "ProbeInconclusive", f"{report.verdict}: {report.reason}", "Probe")
    patch = {"metadata": {"annotations": {P2P_ATTEMPT_ANNOTATION: json.dumps(noted)}}}
    return NodePlan(patch=patch, delete=job, events=(event,), requeue_after=FIRST_BACKOFF.total_seconds())


def verdict_event(verdict: NodeVerdict) -> EventSpec:
    """For the node's own events, where its administrator looks."""
    if verdict.bad:
        return event_spec("Warning", "PeerToPeerBroken", verdict.told, "Probe")
    return event_spec("Normal", "PeerToPeerVerified", verdict.told, "Probe")


def _last_words(pods: tuple[RawObject, ...]) -> str | None:
    """The termination message of a probe that ended; None while none has."""
    for pod in pods:
        for container in pod.get("status", {}).get("containerStatuses", []):
            ended = container.get("state", {}).get("terminated")
            if ended:
                return str(ended.get("message") or f"exit code {ended.get('exitCode')}, {ended.get('reason', '')}")
    return None


def _why_it_failed(pods: tuple[RawObject, ...], job: RawObject) -> str | None:
    """Why a Job ended whose probe said nothing: its deadline, and what kept the pod from starting before that."""
    for condition in job.get("status", {}).get("conditions", []):
        if condition["type"] in ("Complete", "Failed") and condition["status"] == "True":
            failure = next(filter(None, map(failure_of, pods)), None)
            told = f"{condition.get('reason', '')}: {condition.get('message', '')}"
            return f"{told}; {failure.reason}: {failure.message}" if failure else told
    return None
