"""The plan: everything that one reconcile will do, as a value.

    observed                                        | apply                  | annotate        | gates
    ----------------------------------------------- | ---------------------- | --------------- | -------
    a new CR                                        | all children           | -               | soon
    a new CR whose image volume is not kept         | all children (model    | -               | soon
                                                    | is downloaded instead) |                 |
    a pod bound to a node                           | -                      | flags and floor | soon
    an engine that is starting or being measured    | -                      | -               | soon
    a replica that passed for the first time        | the baseline           | -               | later
    all replicas passed, nothing changed            | -                      | -               | later
    new replicas that are slower than the old ones  | the last known good    | -               | soon
                                                    | template               |                 |
    a replica that became slow while serving        | -                      | quarantine      | later
    a replica that a user took out of service       | -                      | -               | as without it
    a user's order to roll back                     | the template before    | -               | soon
    an engine that recovered without peer-to-peer   | - (node labels)        | -               | later
    a child that somebody else edited               | that child             | -               | as without the edit
    node labels that changed under a running pod    | -                      | -               | as without the change
    an MTP head that is to be restored              | the Job; an existing   | -               | later
                                                    | Deployment unchanged   |                 |
    a newer operator that would start other engines | - (offered in status)  | -               | as without it
    a pod that has ended                            | - (deleted, an event)  | -               | as without the pod
    an engine update that is taken                  | its template, or for   | -               | soon
                                                    | flags one replica more |                 |
                                                    | or evict one           |                 |
    a CR that is scaled to zero                     | as its spec asks       | -               | never
    a CR with spec.scaling                          | its autoscaler         | deletion cost   | every 5 s
    a CR with minReplicas 0, while none serves      | the activator as an    | -               | as without it
                                                    | endpoint of its Service|                 |

"Gates" is how often the replicas' gates are asked; everything else that changes is an event. Every key is also
reconciled periodically (`runtime.resync`), because a watch can lose an event. Status is written whenever it differs
from the live one; what differs decides how soon (`status_interval`).
"""

from dataclasses import dataclass

from flash_contracts.activation import ActivatorRoute
from flash_contracts.gate_config import PodFloor
from flash_contracts.names import ENGINE_FLAGS_ANNOTATION, FLOOR_ANNOTATION, QUARANTINE_ANNOTATION
from flash_operator.core.children import children_of
from flash_operator.core.decisions import Decisions
from flash_operator.core.mtp_restore.job import restore_name
from flash_operator.core.mtp_restore.planner import MtpRestore, has_orphaned_job
from flash_operator.core.observed.kube import SETUP_OVERDUE, has_ended, is_terminating, waits_for_setup
from flash_operator.core.observed.snapshot import Observed, RawObject
from flash_operator.core.p2p_test.node_verdict import NodeClaim, NodeVerdict, from_incident
from flash_operator.core.replicas.baseline import NO_FLOOR, baseline_key
from flash_operator.core.replicas.quarantine import quarantine_changes
from flash_operator.core.replicas.replica import Replica
from flash_operator.core.resources.drift import hash_of, needs_apply
from flash_operator.core.resources.image_volume import DROPPED, is_dropped, settled
from flash_operator.core.resources.revision import revision_of, revision_of_pod
from flash_operator.core.rollout.rollout import rollback_speed
from flash_operator.core.rollout.template_revision import superseded
from flash_operator.core.scaling.activation import (
    SLICE,
    activator_route,
    handover_seconds,
    needless_slices,
)
from flash_operator.core.scaling.decision import NONE as NO_SCALER
from flash_operator.core.scaling.decision import ScalerDecision
from flash_operator.core.scaling.demand import DemandBasis
from flash_operator.core.scaling.outcome import gate_interval, scaler_interval
from flash_operator.core.scaling.pod_annotations import scaling_annotations
from flash_operator.core.status.events import EventSpec, pod_ended_event, status_events
from flash_operator.core.status.replica_summary import ReplicaSummary
from flash_operator.core.status.status import is_written, status_interval, status_of

WATCH_GATE_SECONDS = 2.0
"""How often gates are asked while a replica starts: its phase changes without any change to the pod."""

WATCH_SERVING_SECONDS = 30.0
"""While all serve: a replica that became slow stays ready, and only its gate knows, until quarantine is granted."""

WATCH_FAILED_SECONDS = 10.0
"""A failed replica is measured again every `retrySeconds`, so its result changes no faster than that."""

WATCH_TURN_SECONDS = 10.0
"""While an engine update waits for its turn, which another deployment's status decides."""

ENDED_PODS_AT_ONCE = 20
"""A kubelet that refuses pods makes hundreds of them. The next reconcile takes the rest."""

WATCH_RESTORE_SECONDS = 30.0
"""While the MTP head is restored. Changes of the Job and its pods already arrive through watches."""


@dataclass(frozen=True)
class ObjectRef:
    """An object to delete or, if it is a pod, to evict."""

    kind: str
    namespace: str
    name: str
    uid: str | None = None
    """Set where a later object of the same name must survive."""


@dataclass(frozen=True)
class PodAnnotation:
    """Annotations for one pod. The uid keeps a later pod of the same name from receiving them."""

    namespace: str
    name: str
    uid: str
    annotations: dict[str, str | None]
    """None removes the annotation."""
    resource_version: str | None = None
    """Set where the pod must not have changed: a user may just have ordered something else by the same annotation."""


@dataclass(frozen=True)
class Plan:
    """What to do, in this order. An empty plan changes nothing."""

    apply: tuple[RawObject, ...] = ()
    scaler: ScalerDecision = NO_SCALER
    """The autoscaler to apply, and those to delete."""
    demand_basis: DemandBasis | None = None
    """What the demand is computed from until the next plan."""
    route: ActivatorRoute | None = None
    """The deployment's route for the activator; None if it may not be at zero."""
    delete: tuple[ObjectRef, ...] = ()
    evict: tuple[ObjectRef, ...] = ()
    annotate: tuple[PodAnnotation, ...] = ()
    verdicts: tuple[NodeVerdict | NodeClaim, ...] = ()
    """Node labels or claims for hosts whose links made an engine hang or read corrupt data."""
    status: RawObject | None = None
    """The whole status, or None if the live one is already equal to it."""
    status_interval: float = 0.0
    """Seconds that must have passed since the last write of a status."""
    events: tuple[EventSpec, ...] = ()
    poll_gates: float | None = None
    """Seconds between two requests to the replicas' gates; None to ask no more."""
    requeue_after: float | None = None
    """Seconds until the next reconcile; None to wait for an event, a changed gate result, or the resync."""
    is_irreversible: bool = False
    """Does something that a plan from an old snapshot must not do: deletes, evicts, replaces pods, takes a replica out
    of service, or labels a node."""


def plan(observed: Observed) -> Plan:
    """Compute the steps from `observed` to the state that the CR asks for."""
    observed = settled(observed)
    decided = Decisions(observed)
    desired = children_of(decided)
    dropped = any(is_dropped(child, _live(observed, child)) for child in desired)
    apply = tuple(child for child in desired if _should_apply(observed, child))
    unapplied = any(_changes_template(observed, child) for child in apply)
    mtp_restore = decided.mtp_restore
    failure = DROPPED if dropped else decided.refused_template
    summary = ReplicaSummary.of(
        observed,
        decided.rollout,
        mtp_restore,
        update=decided.update.status(decided.rollout, decided.flags_update),
        unapplied=unapplied,
        failure=failure,
        scaling=decided.scaling,
        held=decided.held,
    )
    status = status_of(observed, summary)
    changed = not is_written(status, observed.live_status)
    delete = (
        *_deletions(observed, mtp_restore),
        *_superseded(decided),
        *_ended_pods(observed),
        *_needless_slices(decided),
    )
    evict = _evictions(decided)
    annotate = _annotations(decided, summary)
    found = (_verdict(observed, replica) for replica in summary.replicas)
    verdicts = tuple(verdict for verdict in found if verdict is not None)
    grants = any(annotation.annotations.get(QUARANTINE_ANNOTATION) for annotation in annotate)
    replaces_pods = any(_changes_template(observed, child) and _live(observed, child) for child in apply)
    stops_one = decided.flags_update.stopped_first is not None
    is_irreversible = bool(
        delete or decided.scaling.decision.delete or evict or verdicts or grants or replaces_pods or stops_one
    )
    return Plan(
        apply=(*apply, mtp_restore.create) if mtp_restore and mtp_restore.create else apply,
        scaler=decided.scaling.decision,
        demand_basis=decided.scaling.basis,
        route=activator_route(observed, decided.replicas),
        delete=delete,
        evict=evict,
        annotate=annotate,
        verdicts=verdicts,
        status=status if changed else None,
        status_interval=0.0 if is_irreversible else status_interval(status, observed.live_status),
        events=(
            *(pod_ended_event(pod) for pod in _ended(observed)),
            *(status_events(observed.live_status, status) if changed else ()),
        ),
        poll_gates=sooner(_poll_gates(summary), gate_interval(observed.flash)),
        requeue_after=sooner(_requeue_after(summary), scaler_interval(observed.flash), _handover(decided)),
        is_irreversible=is_irreversible,
    )


def sooner(*seconds: float | None) -> float | None:
    """The shortest of these waits; None if there is none."""
    return min((due for due in seconds if due is not None), default=None)


def desired_children(observed: Observed) -> tuple[RawObject, ...]:
    """All children as they should be, except the Job."""
    return children_of(Decisions(settled(observed)))


def _evictions(decided: Decisions) -> tuple[ObjectRef, ...]:
    replica = decided.flags_update.evicted
    if replica is None:
        return ()
    return (ObjectRef("Pod", decided.observed.flash.namespace, replica.name, replica.uid),)


def _deletions(observed: Observed, mtp_restore: MtpRestore | None) -> tuple[ObjectRef, ...]:
    if not (has_orphaned_job(observed, mtp_restore) or (mtp_restore and mtp_restore.delete)):
        return ()
    return (ObjectRef("Job", observed.flash.namespace, restore_name(observed.flash)),)


def _needless_slices(decided: Decisions) -> tuple[ObjectRef, ...]:
    found = (one["metadata"] for one in needless_slices(decided.observed, decided.replicas))
    return tuple(ObjectRef(SLICE, one["namespace"], one["name"], one.get("uid")) for one in found)


def _superseded(decided: Decisions) -> tuple[ObjectRef, ...]:
    found = superseded(decided.observed, [made.template for made in decided.revisions])
    return tuple(ObjectRef(kind, decided.observed.flash.namespace, name) for kind, name in found)


def _ended(observed: Observed) -> tuple[RawObject, ...]:
    """Pods that will never run again: evicted, or refused by the kubelet. Their Deployment has replaced them."""
    return tuple(pod for pod in observed.pods if has_ended(pod) and not is_terminating(pod))[:ENDED_PODS_AT_ONCE]


def _ended_pods(observed: Observed) -> tuple[ObjectRef, ...]:
    namespace = observed.flash.namespace
    return tuple(
        ObjectRef("Pod", namespace, pod["metadata"]["name"], pod["metadata"]["uid"]) for pod in _ended(observed)
    )


def _should_apply(observed: Observed, child: RawObject) -> bool:
    """A child that is what the API server made of it is not applied again: it would make the same of it."""
    if (child["kind"], child["metadata"]["name"], hash_of(child)) in observed.settled:
        return False
    live = _live(observed, child)
    return needs_apply(child, live) and not is_dropped(child, live)


def _changes_template(observed: Observed, child: RawObject) -> bool:
    """Other differences of a Deployment replace no pods."""
    if child["kind"] != "Deployment":
        return False
    live = _live(observed, child)
    return live is None or revision_of_pod(live["spec"]["template"]) != revision_of(child["spec"]["template"])


def _live(observed: Observed, desired: RawObject) -> RawObject | None:
    return observed.children.get((desired["kind"], desired["metadata"]["name"]))


def _annotations(decided: Decisions, summary: ReplicaSummary) -> tuple[PodAnnotation, ...]:
    """All annotations that a pod needs, in one write per pod."""
    observed, revision = decided.observed, revision_of(decided.rollout.template)
    quarantine = quarantine_changes(summary.replicas, observed.flash.spec.readiness.serving)
    annotated = []
    for replica in summary.replicas:
        annotations: dict[str, str | None] = _flags(replica) | _floor(decided, replica)
        if replica.uid in quarantine:
            annotations[QUARANTINE_ANNOTATION] = quarantine[replica.uid]
        others = len(summary.replicas) - 1
        annotations |= scaling_annotations(replica, observed, others, revision, decided.flags_update)
        if annotations:
            metadata = replica.pod["metadata"]
            version = metadata.get("resourceVersion") if QUARANTINE_ANNOTATION in annotations else None
            annotated.append(PodAnnotation(metadata["namespace"], replica.name, replica.uid, annotations, version))
    return tuple(annotated)


def _flags(replica: Replica) -> dict[str, str | None]:
    if not replica.needs_flags or replica.derived is None:
        return {}
    return {ENGINE_FLAGS_ANNOTATION: replica.derived.to_text()}


def _floor(decided: Decisions, replica: Replica) -> dict[str, str | None]:
    """The learned floor, once the image digest is known, because that is part of the replica's class.

    Before any replica has passed, no class has a floor, and that is written with the flags of a new pod.
    During a rollout, also the speed below which it is rolled back, so that the gate measures a slower replica twice.
    """
    flash = decided.observed.flash
    readiness, name = flash.spec.readiness, baseline_key(flash, replica)
    is_learned = readiness.floor == "Learned"
    good, updates_flags = decided.rollout.last_known_good, decided.update.takes_flags
    limit = rollback_speed(flash, replica, good, updates_flags=updates_flags)
    is_first = good is None and not decided.baseline.classes and bool(_flags(replica))
    if replica.has_floor or (name is None and not is_first if is_learned else limit is None):
        return {}
    floor = decided.baseline.floor(name or "", readiness.learned_tolerance_percent) if is_learned else NO_FLOOR
    expected = PodFloor(
        min_tokens_per_second=floor.tokens_per_second, told=floor.explanation, measure_again_below=limit
    )
    return {FLOOR_ANNOTATION: expected.to_text()}


def _verdict(observed: Observed, replica: Replica) -> NodeVerdict | NodeClaim | None:
    """A node's links may be broken if its replica failed with peer-to-peer and works without it.

    Status records that the verdict was written, so that it is written once: after the host was repaired and its label
    removed, an old incident must not restore the label.
    """
    node, incident = replica.node, replica.incident
    if node is None or incident is None or not (node.managed and replica.incident_is_confirmed):
        return None
    noted = any(
        pod.get("uid") == replica.uid and pod.get("incidentVerdict") == "Noted"
        for pod in observed.live_status.get("pods", [])
    )
    return None if noted else from_incident(node, incident, observed.flash.key)


def _poll_gates(summary: ReplicaSummary) -> float:
    if summary.complete:
        return WATCH_SERVING_SECONDS
    starting = summary.worst is None or not summary.worst.verdict.is_failure
    return WATCH_GATE_SECONDS if starting else WATCH_FAILED_SECONDS


def _handover(decided: Decisions) -> float | None:
    """Seconds until the activator may leave the Service; None if nothing has to be done then."""
    if not decided.observed.may_go_to_zero:
        return None
    return handover_seconds(decided.observed, decided.replicas) or None


def _requeue_after(summary: ReplicaSummary) -> float | None:
    if summary.mtp_restore and not summary.mtp_restore.done and not summary.replicas:
        return WATCH_RESTORE_SECONDS
    if any(waits_for_setup(replica.pod) and not replica.setup_overdue for replica in summary.replicas):
        return SETUP_OVERDUE.total_seconds()
    return WATCH_TURN_SECONDS if summary.update.state in ("Waiting", "Updating") else None
