"""The plan: everything that one reconcile will do, as a value.

    observed                                     | apply | annotate         | status | requeue
    -------------------------------------------- | ----- | ---------------- | ------ | -------
    a new CR                                     | all   | -                | yes    | soon
    a pod was bound to a node                    | -     | the node's flags | -      | soon
    an engine is starting or being judged        | -     | -                | if new | soon
    all replicas passed, nothing changed         | -     | -                | -      | later: one may get slow
    a replica passed for the first time          | its   | -                | yes    | later
                                                 | history                 |        |
    new replicas are slower than those before    | the    | -                | yes    | soon
                                                 | former |                  |        |
                                                 | template                  |        |
    a replica got slow while it serves           | -     | quarantine       | yes    | later
    a child was edited by hand                   | it    | -                | -      | as above
    a node's labels changed under a running pod  | -     | -                | yes    | never
    an engine recovered without peer-to-peer     | -     | -                | yes    | as above; and a verdict
    a new CR whose image cannot be mounted       | all   | -                | yes    | soon: it is fetched
    the MTP head is to be restored               | a Job | -                | yes    | later; no Deployment, or
                                                 |       |                  |        | the one before, until done

"Never" still means the resync of every key (`runtime.resync`): a watch can lose an event.
"""

from dataclasses import dataclass
from functools import cached_property

from flash_contracts.names import ENGINE_FLAGS_ANNOTATION, FLOOR_ANNOTATION, QUARANTINE_ANNOTATION
from flash_operator.api.status import RolloutStatus
from flash_operator.core.mtp_restore.job import restore_name
from flash_operator.core.mtp_restore.planner import MtpRestore, mtp_restore_of, unwanted_job
from flash_operator.core.observed.snapshot import Observed, RawObject
from flash_operator.core.p2p_test.node_verdict import NodeVerdict, from_incident
from flash_operator.core.replicas.baseline import Baseline, baseline_config_map, baseline_key, baseline_name
from flash_operator.core.replicas.quarantine import quarantine_changes
from flash_operator.core.replicas.replica import Replica, replicas_of
from flash_operator.core.resources.deployment import deployment, pod_template
from flash_operator.core.resources.disruption_budget import disruption_budget
from flash_operator.core.resources.drift import needs_apply, with_hash
from flash_operator.core.resources.gate_config import gate_config
from flash_operator.core.resources.image_volume import DROPPED, is_dropped, settled
from flash_operator.core.resources.service import service
from flash_operator.core.rollout.rollout import (
    LastKnownGood,
    Rollout,
    decide,
    held,
    last_known_good_config_map,
    last_known_good_name,
)
from flash_operator.core.rollout.surge import surges
from flash_operator.core.status.events import EventSpec, status_events
from flash_operator.core.status.replica_summary import ReplicaSummary
from flash_operator.core.status.status import status_of

WATCH_GATE_SECONDS = 2.0
"""While a replica is on its way, its gate's phase is worth knowing; pods do not change when only the phase does."""

WATCH_SERVING_SECONDS = 30.0
"""A replica that gets slow tells its gate alone, and stays in service until it is granted to leave. Reads only."""

WATCH_FAILED_SECONDS = 10.0
"""A replica that failed measures again by itself every `retrySeconds`; it changes no faster than that."""


WATCH_RESTORE_SECONDS = 30.0
"""Job and pods tell by their watches."""


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
    annotations: dict[str, str | None]
    """None removes one."""


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
    events: tuple[EventSpec, ...] = ()
    requeue_after: float | None = None
    """Seconds until the next look, None where only a watch event or the resync is worth one."""


@dataclass(frozen=True)
class _Decisions:
    """What several parts of a plan rest on, each worked out once."""

    observed: Observed

    @cached_property
    def replicas(self) -> tuple[Replica, ...]:
        return replicas_of(self.observed)

    @cached_property
    def mtp_restore(self) -> MtpRestore | None:
        return mtp_restore_of(self.observed)

    @property
    def held(self) -> bool:
        """The checkpoint that the spec leads to is not there yet."""
        return self.mtp_restore is not None and not self.mtp_restore.done

    @property
    def live_deployment(self) -> RawObject | None:
        return self.observed.children.get(("Deployment", self.observed.flash.name))

    @cached_property
    def rollout(self) -> Rollout:
        """Which template is in force."""
        flash, live = self.observed.flash, self.observed.live_status.get("rollout")
        last_known_good = LastKnownGood.read(self.observed.children.get(("ConfigMap", last_known_good_name(flash))))
        if self.live_deployment and self.held:
            return held(flash, self.live_deployment, last_known_good)
        wanted = pod_template(flash, self.observed.settings)
        return decide(
            flash, wanted, self.replicas, last_known_good, RolloutStatus.model_validate(live) if live else None
        )

    @cached_property
    def baseline(self) -> Baseline:
        flash = self.observed.flash
        known = Baseline.read(self.observed.children.get(("ConfigMap", baseline_name(flash))))
        return known.with_passes(flash, self.replicas)


def plan(observed: Observed) -> Plan:
    """What brings the cluster from `observed` to what its CR asks for."""
    observed = settled(observed)
    decided = _Decisions(observed)
    desired = _children(decided)
    dropped = any(is_dropped(child, _live(observed, child)) for child in desired)
    apply = tuple(child for child in desired if _is_due(observed, child))
    unapplied = any(child["kind"] == "Deployment" for child in apply)
    mtp_restore = decided.mtp_restore
    failure = DROPPED if dropped else None
    summary = ReplicaSummary.of(observed, decided.rollout, mtp_restore, unapplied=unapplied, failure=failure)
    status = status_of(observed, summary)
    changed = status != observed.live_status
    return Plan(
        apply=(*apply, mtp_restore.create) if mtp_restore and mtp_restore.create else apply,
        delete=_deletions(observed, mtp_restore),
        annotate=_annotations(observed, summary, decided.baseline),
        verdicts=tuple(filter(None, (_verdict(observed, replica) for replica in summary.replicas))),
        status=status if changed else None,
        events=status_events(observed.live_status, status) if changed else (),
        requeue_after=_requeue_after(summary),
    )


def desired_children(observed: Observed) -> tuple[RawObject, ...]:
    """All children, whole, but for the Job."""
    return _children(_Decisions(settled(observed)))


def _children(decided: _Decisions) -> tuple[RawObject, ...]:
    """The gate's configuration comes first: no pod may wait for it."""
    flash, last_known_good = decided.observed.flash, decided.rollout.last_known_good
    # The gates of a held deployment go on by the one it was judged by: a new one may ask for the head that it lacks.
    gates_go_on = decided.held and decided.live_deployment is not None
    children = (
        *(() if gates_go_on else (gate_config(flash),)),
        service(flash),
        disruption_budget(flash),
        *_deployment(decided),
        # An empty history tells nobody anything.
        *((baseline_config_map(flash, decided.baseline),) if decided.baseline.classes else ()),
        *((last_known_good_config_map(flash, last_known_good),) if last_known_good else ()),
    )
    return tuple(with_hash(child) for child in children)


def _deployment(decided: _Decisions) -> tuple[RawObject, ...]:
    """None before there is a checkpoint to load."""
    if decided.held and decided.live_deployment is None:
        return ()
    template = decided.rollout.template
    return (deployment(decided.observed.flash, template, surge=surges(decided.observed, template)),)


def _deletions(observed: Observed, mtp_restore: MtpRestore | None) -> tuple[ObjectRef, ...]:
    if not (unwanted_job(observed, mtp_restore) or (mtp_restore and mtp_restore.delete)):
        return ()
    return (ObjectRef("batch/v1", "Job", observed.flash.namespace, restore_name(observed.flash)),)


def _is_due(observed: Observed, child: RawObject) -> bool:
    """What the server dropped from it once it drops again."""
    live = _live(observed, child)
    return needs_apply(child, live) and not is_dropped(child, live)


def _live(observed: Observed, desired: RawObject) -> RawObject | None:
    return observed.children.get((desired["kind"], desired["metadata"]["name"]))


def _annotations(observed: Observed, summary: ReplicaSummary, baseline: Baseline) -> tuple[PodAnnotation, ...]:
    """What each pod is to be handed over, in one write a pod."""
    quarantine = quarantine_changes(summary.replicas, observed.flash.spec.readiness.serving)
    made = []
    for replica in summary.replicas:
        annotations: dict[str, str | None] = _flags(replica) | _floor(observed, replica, baseline)
        if replica.uid in quarantine:
            annotations[QUARANTINE_ANNOTATION] = quarantine[replica.uid]
        if annotations:
            namespace = replica.pod["metadata"]["namespace"]
            made.append(PodAnnotation(namespace, replica.name, replica.uid, annotations))
    return tuple(made)


def _flags(replica: Replica) -> dict[str, str | None]:
    if not replica.needs_flags or replica.derived is None:
        return {}
    return {ENGINE_FLAGS_ANNOTATION: replica.derived.to_text()}


def _floor(observed: Observed, replica: Replica, baseline: Baseline) -> dict[str, str | None]:
    """Once the image is known, for its digest is part of what a replica is like."""
    readiness, name = observed.flash.spec.readiness, baseline_key(observed.flash, replica)
    if readiness.floor != "Learned" or name is None or replica.floor_given:
        return {}
    return {FLOOR_ANNOTATION: baseline.floor(name, readiness.learned_tolerance_percent).to_annotation()}


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


def _requeue_after(summary: ReplicaSummary) -> float | None:
    if summary.mtp_restore and not summary.mtp_restore.done and not summary.replicas:
        return WATCH_RESTORE_SECONDS
    if summary.wanted == 0 and not summary.replicas:
        return None
    if summary.complete:
        return WATCH_SERVING_SECONDS
    starting = summary.worst is None or not summary.worst.verdict.is_failure
    return WATCH_GATE_SECONDS if starting else WATCH_FAILED_SECONDS
