"""The explanation of one deployment: is it ready, why not, since when, why these flags, what to do next."""

from collections.abc import Iterator
from typing import Any

from flash_contracts.verdict_reason import MEANINGS, is_failure, verdict_reason
from flash_operator.api.vocabulary import CONDITION_REASONS
from flash_operator.core.observed.snapshot import RawObject
from flashctl.age import age_of
from flashctl.explain.facts import Facts
from flashctl.explain.flag_lines import NodeFlags, flags_by_node
from flashctl.explain.operator_state import OperatorState, operator_state
from flashctl.explain.remedies import NOTHING, remedy
from flashctl.explain.replicas import ReplicaLine, replica_lines
from flashctl.output import Document

MAX_STEPS = 6
MAX_EVENTS = 4
WANTED = {
    "SpecValid": "True",
    "Ready": "True",
    "SmokeTestPassed": "True",
    "SpeculationActive": "True",
    "TopologyResolved": "True",
    "Degraded": "False",
    "ScalingActive": "True",
    "UpdateAvailable": "False",
}
"""The status of each condition where nothing is to be done, the most important first."""


NOT_CARRIED_OUT = ("ChildRefused", "NameTaken")
"""Reasons with which the operator has seen the spec, and says on purpose that it has not carried it out."""


class Finding(Document):
    """One thing that is not as wanted, or that explains the state."""

    about: str
    """A condition's type, `pod NAME` or `operator`."""
    reason: str
    means: str | None = None
    message: str
    since: str | None = None


class Step(Document):
    """What to do about a reason."""

    reason: str
    do: str


class EventLine(Document):
    """A warning from the events of the deployment and its pods."""

    at: str
    reason: str
    about: str
    note: str


class Explanation(Document):
    """`explain -o json`."""

    namespace: str
    name: str
    ready: str
    """True, False or Unknown, as the condition Ready; Unknown while no operator judges."""
    headline: str
    since: str | None = None
    findings: list[Finding]
    replicas: list[ReplicaLine]
    flags: list[NodeFlags]
    next: list[Step]
    operator: OperatorState
    events: list[EventLine]
    unread: list[str]


def explain(facts: Facts) -> Explanation:
    operator = operator_state(facts.leases if isinstance(facts.leases, str) else list(facts.leases), facts.now)
    replicas = replica_lines(facts, from_pods=operator.is_away)
    findings = [*_of_operator(operator, facts), *(_of_pods(replicas) if operator.is_away else _of_conditions(facts))]
    ready = "Unknown" if operator.is_away else str(facts.conditions.get("Ready", {}).get("status", "Unknown"))
    return Explanation(
        namespace=facts.namespace,
        name=facts.name,
        ready=ready,
        headline=_headline(facts, ready, operator, replicas),
        since=None if operator.is_away else facts.conditions.get("Ready", {}).get("lastTransitionTime"),
        findings=findings,
        replicas=replicas,
        flags=flags_by_node(facts, from_pods=operator.is_away),
        next=_steps(findings, replicas, facts),
        operator=operator,
        events=_events(facts),
        unread=list(facts.unread),
    )


def _headline(facts: Facts, ready: str, operator: OperatorState, replicas: list[ReplicaLine]) -> str:
    who = f"{facts.namespace}/{facts.name}"
    wanted = facts.spec.get("replicas", 1)
    serving = sum(replica.ready for replica in replicas)
    if facts.flash["metadata"].get("deletionTimestamp"):
        return f"{who} is being deleted; {serving} pods still serve"
    if operator.is_away:
        return f"{who}: no operator looks after it; by their pods, {serving} of {wanted} replicas serve"
    condition = facts.conditions.get("Ready", {})
    age = age_of(condition.get("lastTransitionTime"), facts.now)
    since = f" for {age}" if age else ""
    if ready == "True":
        return f"{who} has been ready{since}: {serving} of {wanted} replicas serve"
    if not condition:
        return f"{who}: no operator has looked at it yet"
    return f"{who} has not been ready{since}: {condition.get('reason', '')}; {serving} of {wanted} replicas serve"


def _of_operator(operator: OperatorState, facts: Facts) -> Iterator[Finding]:
    if operator.is_away:
        message = f"{operator.message}. What follows is read from pods and nodes alone"
        yield Finding(about="operator", reason=f"Operator{operator.state}", message=message, since=operator.renewed)
    seen, written = facts.status.get("observedGeneration", 0), facts.flash["metadata"].get("generation", 0)
    refused = facts.conditions.get("Ready", {}).get("reason") in NOT_CARRIED_OUT
    if not operator.is_away and facts.status and seen < written and not refused:
        message = f"the status is about generation {seen} of the spec, and the spec has generation {written}"
        yield Finding(about="operator", reason="SpecNotSeen", message=message)


def _of_conditions(facts: Facts) -> list[Finding]:
    """Those that are not as wanted; of conditions with the same reason and message, the first."""
    found: list[Finding] = []
    for name, wanted in WANTED.items():
        condition = facts.conditions.get(name)
        if not condition or condition.get("status") in (wanted, "Unknown"):
            continue
        finding = _finding(name, condition)
        if all(finding.reason != known.reason for known in found):
            found.append(finding)
    limit = facts.conditions.get("ScalingActive", {})
    if limit.get("reason") == "AtMaximum":
        found.append(_finding("ScalingActive", limit))
    return [finding for finding in found if finding.reason != "Disabled"]


def _finding(name: str, condition: RawObject) -> Finding:
    reason = str(condition.get("reason", "Unknown"))
    return Finding(
        about=name,
        reason=reason,
        means=MEANINGS.get(reason) or CONDITION_REASONS.get(reason),
        message=str(condition.get("message", "")),
        since=condition.get("lastTransitionTime"),
    )


def _of_pods(replicas: list[ReplicaLine]) -> list[Finding]:
    return [
        Finding(about=f"pod {replica.pod}", reason=replica.reason, message=replica.message)
        for replica in replicas
        if not replica.ready
    ]


def _steps(findings: list[Finding], replicas: list[ReplicaLine], facts: Facts) -> list[Step]:
    """One for each reason, the most important first."""
    failing = [Finding(about=r.pod, reason=r.reason, message=r.message) for r in replicas if _is_failing(r)]
    steps: dict[str, str] = {}
    for finding in (*findings, *failing):
        text = _remedy(finding, facts)
        if text != NOTHING and text not in steps.values():
            steps.setdefault(finding.reason, text)
    return [Step(reason=reason, do=text) for reason, text in list(steps.items())[:MAX_STEPS]]


def _is_failing(replica: ReplicaLine) -> bool:
    """A reason of the status that no condition may have: conditions speak of the worst replica only."""
    return not replica.ready and verdict_reason(replica.reason) is not None and is_failure(replica.reason)


def _remedy(finding: Finding, facts: Facts) -> str:
    if finding.reason == "OperatorAbsent":
        return "install the operator's chart; without it, pods keep what they have"
    if finding.reason == "OperatorDown":
        return "bring the operator back: see why its pods are not ready; replicas serve on meanwhile"
    if finding.reason == "SpecNotSeen":
        return "wait some seconds; if it lasts, look at the operator's log"
    if finding.reason in POD_REMEDIES:
        return POD_REMEDIES[finding.reason].replace("NAMESPACE", facts.namespace).replace("NAME", facts.name)
    return remedy(finding.reason, finding.message, name=facts.name, namespace=facts.namespace)


POD_REMEDIES = {
    "NotReady": "kubectl dsf logs NAME -n NAMESPACE shows what engine and gate do",
    "Terminating": "wait: it drains, and goes",
    "Exited": "kubectl dsf logs NAME -n NAMESPACE shows what came before",
    "PodInitializing": "kubectl dsf logs NAME -n NAMESPACE -f shows the download",
    "ContainerCreating": "wait some seconds; if it lasts: kubectl describe pod -n NAMESPACE shows what it waits for",
}
"""Reasons that are read from pods only while no operator judges."""


def _events(facts: Facts) -> list[EventLine]:
    """The last warnings, newest first, each kind once."""
    lines: dict[tuple[str, str], EventLine] = {}
    for event in sorted(facts.events, key=_moment, reverse=True):
        if event.get("type") == "Warning":
            line = _event(event)
            lines.setdefault((line.reason, line.about), line)
    return list(lines.values())[:MAX_EVENTS]


def _event(event: RawObject) -> EventLine:
    about: dict[str, Any] = event.get("regarding") or {}
    kind = "" if about.get("kind") not in ("Pod", "Node") else f"{str(about['kind']).lower()} "
    return EventLine(
        at=_moment(event),
        reason=str(event.get("reason", "")),
        about=f"{kind}{about.get('name', '')}",
        note=str(event.get("note", "")),
    )


def _moment(event: RawObject) -> str:
    series = event.get("series") or {}
    known = (
        series.get("lastObservedTime"),
        event.get("deprecatedLastTimestamp"),
        event.get("eventTime"),
        (event.get("metadata") or {}).get("creationTimestamp"),
    )
    return next((str(moment) for moment in known if moment), "")
