"""The plan: everything that one reconcile will do, as a value.

    observed                                     | apply | annotate         | status | requeue
    -------------------------------------------- | ----- | ---------------- | ------ | -------
    a new CR                                     | all   | -                | yes    | soon
    a pod was bound to a node                    | -     | the node's flags | -      | soon
    an engine is starting or being judged        | -     | -                | if new | soon
    all replicas passed, nothing changed         | -     | -                | -      | never
    a child was edited by hand                   | it    | -                | -      | as above
    a node's labels changed under a running pod  | -     | -                | yes    | never
    an engine recovered without peer-to-peer     | -     | -                | yes    | as above; and a verdict

"Never" still means the resync of every key (`runtime.resync`): a watch can lose an event.
"""

from dataclasses import dataclass

from flash_operator.api.names import ENGINE_FLAGS_ANNOTATION
from flash_operator.core.applied import needs_apply, stamped
from flash_operator.core.fleet import Fleet
from flash_operator.core.happenings import EventDraft, happenings
from flash_operator.core.node_verdict import NodeVerdict, from_incident
from flash_operator.core.observed import Observed, RawObject
from flash_operator.core.replica import Replica
from flash_operator.core.resources.deployment import deployment
from flash_operator.core.resources.disruption_budget import disruption_budget
from flash_operator.core.resources.gate_config import gate_config
from flash_operator.core.resources.service import service
from flash_operator.core.status import status_of

WATCH_GATE_SECONDS = 2.0
"""While a replica is on its way, its gate's phase is worth knowing; pods do not change when only the phase does."""

WATCH_FAILED_SECONDS = 10.0
"""A replica that failed measures again by itself every `retrySeconds`; it changes no faster than that."""


@dataclass(frozen=True)
class ObjectRef:
    """Names one object."""

    api_version: str
    kind: str
    namespace: str
    name: str


@dataclass(frozen=True)
class PodAnnotation:
    """Annotations for one pod; the uid keeps a namesake that came later from receiving them."""

    namespace: str
    name: str
    uid: str
    annotations: dict[str, str]


@dataclass(frozen=True)
class Plan:
    """What to do, in this order. An empty plan touches nothing."""

    apply: tuple[RawObject, ...] = ()
    delete: tuple[ObjectRef, ...] = ()
    annotate: tuple[PodAnnotation, ...] = ()
    verdicts: tuple[NodeVerdict, ...] = ()
    """What engines found out about the links of their nodes, the hard way."""
    status: RawObject | None = None
    """The whole status, or None where the live one already says it."""
    events: tuple[EventDraft, ...] = ()
    requeue_after: float | None = None
    """Seconds until the next look, None where only a watch event or the resync is worth one."""


def plan(observed: Observed) -> Plan:
    """What brings the cluster from `observed` to what its CR asks for."""
    apply = tuple(child for child in desired_children(observed) if needs_apply(child, _live(observed, child)))
    fleet = Fleet.of(observed, unapplied=any(child["kind"] == "Deployment" for child in apply))
    status = status_of(observed, fleet)
    changed = status != observed.live_status
    return Plan(
        apply=apply,
        annotate=tuple(_flags_annotation(replica) for replica in fleet.replicas if replica.needs_flags),
        verdicts=tuple(filter(None, (_verdict(observed, replica) for replica in fleet.replicas))),
        status=status if changed else None,
        events=happenings(observed.live_status, status) if changed else (),
        requeue_after=_requeue_after(fleet),
    )


def desired_children(observed: Observed) -> tuple[RawObject, ...]:
    """All children, whole. The gate's configuration comes first: no pod may wait for it."""
    flash = observed.flash
    children = (
        gate_config(flash),
        service(flash),
        disruption_budget(flash),
        deployment(flash, observed.settings),
    )
    return tuple(stamped(child) for child in children)


def _live(observed: Observed, desired: RawObject) -> RawObject | None:
    return observed.children.get((desired["kind"], desired["metadata"]["name"]))


def _flags_annotation(replica: Replica) -> PodAnnotation:
    if replica.derived is None:
        raise ValueError(f"{replica.name} is bound to no node: no flags follow")
    return PodAnnotation(
        namespace=replica.pod["metadata"]["namespace"],
        name=replica.name,
        uid=replica.uid,
        annotations={ENGINE_FLAGS_ANNOTATION: replica.derived.to_annotation()},
    )


def _verdict(observed: Observed, replica: Replica) -> NodeVerdict | None:
    """Of a replica that failed with peer-to-peer on and is right without it: only both together speak of the links.

    Once only, and status remembers it: when the host was mended and its label removed, an old story must not come back.
    """
    node, incident = replica.node, replica.incident
    if node is None or incident is None or not (node.managed and replica.incident_is_proved):
        return None
    noted = any(
        pod.get("uid") == replica.uid and pod.get("incidentVerdict") == "Noted"
        for pod in observed.live_status.get("pods", [])
    )
    return None if noted else from_incident(node, incident)


def _requeue_after(fleet: Fleet) -> float | None:
    if fleet.complete or (fleet.wanted == 0 and not fleet.replicas):
        return None
    starting = fleet.worst is None or fleet.worst.verdict[0] in ("EngineStarting", "Passed", "Inconclusive")
    return WATCH_GATE_SECONDS if starting else WATCH_FAILED_SECONDS
