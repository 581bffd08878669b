"""One replica: a pod, its node, the flags derived from that node's labels, and its gate's result."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

from flash_contracts.engine_record import EndedBy, Incident
from flash_contracts.flags import FlagSet, derive
from flash_contracts.gate_result import DecodeFigures, GateResult
from flash_contracts.names import ENGINE_FLAGS_ANNOTATION, FLOOR_ANNOTATION, QUARANTINE_ANNOTATION
from flash_contracts.node_facts import NodeFacts
from flash_contracts.orders import is_ordered_quarantine
from flash_contracts.verdict_reason import Reason, is_failure, verdict_reason
from flash_operator.api.status import PodStatus
from flash_operator.core.observed.kube import has_ended, is_overdue, is_ready, is_terminating, setup_is_overdue
from flash_operator.core.observed.pod_failure import PodFailure, exceeded_memory_limit, failure_of, why_memory_ran_out
from flash_operator.core.observed.snapshot import Observed, RawObject
from flash_operator.core.resources.engine_env import engine_env

DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"
FIRST_TO_STOP = -2_000_000_000
"""A deletion cost, which is an int32: the ReplicaSet controller stops the ready replica with the lowest one first."""

OUT_OF_SERVICE = "OutOfService"
"""Reason of a replica that works, and that a user took out of service."""


class ReplicaVerdict(NamedTuple):
    """The state of a replica, from the component that knows most about it."""

    reason: str
    """A Reason of the gate, or the scheduler's or kubelet's own."""
    message: str

    @property
    def is_failure(self) -> bool:
        return is_failure(self.reason)

    @property
    def is_lasting(self) -> bool:
        known = verdict_reason(self.reason)
        return known is not None and known.is_lasting

    @property
    def may_clear_on_restart(self) -> bool:
        known = verdict_reason(self.reason)
        return known is not None and known.may_clear_on_restart


@dataclass(frozen=True)
class Replica:
    """A pod that is meant to serve. One that is terminating or has ended is no longer a replica."""

    pod: RawObject
    node: NodeFacts | None
    derived: FlagSet | None
    """The flags that the node's labels call for now; None while the pod is bound to no node."""
    gate: GateResult | None
    terminating: str | None = None
    """Name of a terminating pod of the same deployment, if there is one."""
    terminating_overdue: bool = False
    """That pod should have ended long ago: its node does not answer, or a finalizer holds it."""
    setup_overdue: bool = False
    """The kubelet cannot mount its volumes, or cannot set up its network."""
    last_status: PodStatus | None = None
    """Its entry in the CR's status, set only if the gate did not answer although the kubelet still reports it ready."""

    @property
    def name(self) -> str:
        return str(self.pod["metadata"]["name"])

    @property
    def uid(self) -> str:
        return str(self.pod["metadata"]["uid"])

    @property
    def node_name(self) -> str | None:
        name: str | None = self.pod.get("spec", {}).get("nodeName")
        return name

    @property
    def ready(self) -> bool:
        """The pod's Ready condition, which decides whether it is an endpoint: the gate's verdict as last probed."""
        return is_ready(self.pod)

    @property
    def stuck(self) -> bool:
        """The scheduler or the kubelet reports why it cannot start, and only a person can help."""
        return self._failure is not None

    @property
    def _failure(self) -> PodFailure | None:
        if self._waits_for_gpus:
            return None
        return failure_of(self.pod) or (PodFailure("SetupOverdue", self._setup_message) if self.setup_overdue else None)

    @property
    def _waits_for_gpus(self) -> bool:
        """Unschedulable only until the terminating pod has drained and released its GPUs."""
        return self.terminating is not None and self.node_name is None and not self.terminating_overdue

    @cached_property
    def verdict(self) -> ReplicaVerdict:
        """Reason and message from the scheduler or the kubelet if the pod cannot start, else from the gate."""
        if self._failure and self.terminating_overdue and self.node_name is None:
            return ReplicaVerdict(self._failure.reason, f"{self._failure.message}; {self._overdue_message}")
        if self._failure:
            return ReplicaVerdict(self._failure.reason, self._failure.message)
        if self._waits_for_gpus:
            return ReplicaVerdict(
                Reason.ENGINE_STARTING, f"waiting for the GPUs of {self.terminating}, which is terminating"
            )
        if self._exceeded_memory_limit:
            return ReplicaVerdict(Reason.OUT_OF_MEMORY, why_memory_ran_out(self.pod))
        return self._gate_verdict

    @property
    def _gate_verdict(self) -> ReplicaVerdict:
        if self.gate is None:
            return ReplicaVerdict(Reason.ENGINE_STARTING, "the kubelet is starting the pod's containers")
        if self.gate.passed and self.ordered_out and not self.ready:
            return ReplicaVerdict(OUT_OF_SERVICE, self._ordered_out_message)
        return ReplicaVerdict(self.gate.reason, self.gate.message)

    @property
    def _exceeded_memory_limit(self) -> bool:
        """Whether the kubelet reports OOMKilled where the gate knows only that the container was killed."""
        if self.gate is None or self.gate.reason != Reason.ENGINE_EXITED or self.gate.engine.exit is None:
            return False
        return self.gate.engine.exit.end_reason is EndedBy.CONTAINER and exceeded_memory_limit(self.pod)

    @property
    def _overdue_message(self) -> str:
        return (
            f"{self.terminating} should have terminated long ago and may hold GPUs: look at its node and its "
            f"finalizers; if the node is gone for good, kubectl delete pod {self.terminating} --force"
        )

    @property
    def _ordered_out_message(self) -> str:
        return (
            f"a user took it out of service; to give it back, kubectl dsf release {self.name}, or remove its "
            f"annotation {QUARANTINE_ANNOTATION}"
        )

    @property
    def _setup_message(self) -> str:
        return (
            "the kubelet has not mounted the pod's volumes, or not set up its network, for more than 2 minutes: "
            f"kubectl describe pod {self.name} shows why. A ReadWriteOnce claim can be mounted on one node "
            "only: with replicas on several nodes, or rollout.surge, use a claim that is ReadWriteMany or ReadOnlyMany"
        )

    @cached_property
    def annotated_flags(self) -> FlagSet | None:
        """The flags in the pod's annotation; None if it is missing or cannot be read."""
        text = self.pod["metadata"].get("annotations", {}).get(ENGINE_FLAGS_ANNOTATION)
        if not text:
            return None
        try:
            return FlagSet.parse_text(text)
        except ValueError:
            return None

    @property
    def needs_flags(self) -> bool:
        """Bound to a node, without the annotation. An existing one is never changed: the engine runs with it."""
        annotations = self.pod["metadata"].get("annotations", {})
        return self.derived is not None and ENGINE_FLAGS_ANNOTATION not in annotations

    @cached_property
    def effective_flags(self) -> FlagSet | None:
        """What the engine runs with according to its launcher, or else the annotated flags."""
        if self.gate and self.gate.effective:
            return self.gate.effective.flags
        return self.annotated_flags

    @property
    def flags_origin(self) -> str | None:
        """Where the launcher took the effective flags from: annotation, fallback or recovery."""
        return self.gate.effective.origin if self.gate and self.gate.effective else None

    @property
    def image_digest(self) -> str | None:
        """The engine image as the kubelet resolved its tag."""
        for container in self.pod.get("status", {}).get("containerStatuses", []):
            if container.get("name") == "engine" and container.get("imageID"):
                return str(container["imageID"])
        return None

    @property
    def has_floor(self) -> bool:
        """The pod has a floor annotation. It is never changed: a replica is judged by the floor it started with."""
        return FLOOR_ANNOTATION in self.pod["metadata"].get("annotations", {})

    @property
    def goes_first(self) -> bool:
        """It is stopped before other ready replicas when the Deployment loses one."""
        return bool(self.pod["metadata"].get("annotations", {}).get(DELETION_COST) == str(FIRST_TO_STOP))

    @property
    def quarantine_request(self) -> str | None:
        """Identifier of its gate's request to be taken out of service."""
        degraded = self.gate.serving.degraded if self.gate else None
        return degraded.since if degraded else None

    @property
    def quarantine_grant(self) -> str | None:
        """Identifier of the request that the operator granted. A user's order is none."""
        return None if self.ordered_out else self._quarantine_annotation

    @property
    def ordered_out(self) -> bool:
        """A user took it out of service. Only a user gives it back."""
        return is_ordered_quarantine(self._quarantine_annotation)

    @property
    def _quarantine_annotation(self) -> str | None:
        return self.pod["metadata"].get("annotations", {}).get(QUARANTINE_ANNOTATION) or None

    @property
    def leaves_service(self) -> bool:
        """It gets no requests of users, or soon gets none, although its engine may work."""
        return self.is_quarantined or self.ordered_out

    @property
    def is_quarantined(self) -> bool:
        """Its present request was granted, so that it is about to leave the Service, or has left it."""
        return self.quarantine_request is not None and self.quarantine_request == self.quarantine_grant

    @property
    def commit(self) -> str | None:
        """For a model from a hub, the commit that is served, whatever the revision points at now."""
        if self.last_status:
            return self.last_status.delivery.commit if self.last_status.delivery else None
        return self.gate.delivery.commit if self.gate and self.gate.delivery else None

    @property
    def incident(self) -> Incident | None:
        """The hang or data corruption that its launcher recovered from."""
        return self.gate.engine.incident if self.gate else None

    @property
    def incident_is_confirmed(self) -> bool:
        """Peer-to-peer caused the incident: its gate has the proof, and this run is without peer-to-peer."""
        return self.flags_origin == "recovery" and bool(self.gate and self.gate.incident_proven)

    @property
    def flags_outdated(self) -> bool:
        """The node's labels call for other flags than the engine runs with."""
        if self.last_status:
            return self.last_status.flags_outdated == "Outdated"
        if self.flags_origin == "recovery":
            # Intended: with the flags that the labels call for, it hung or read corrupt data.
            return False
        return bool(self.derived and self.effective_flags and not self.derived.same_effect(self.effective_flags))


def replicas_of(observed: Observed) -> tuple[Replica, ...]:
    """All replicas, sorted by name."""
    pods = (pod for pod in observed.pods if not (is_terminating(pod) or has_ended(pod)))
    return tuple(sorted((_replica(observed, pod) for pod in pods), key=lambda replica: replica.name))


def _replica(observed: Observed, pod: RawObject) -> Replica:
    raw_node = observed.nodes.get(pod.get("spec", {}).get("nodeName", ""))
    node = NodeFacts.from_node(raw_node).with_claim_of(observed.flash.key) if raw_node else None
    terminating = next((other for other in observed.pods if is_terminating(other)), None)
    replica = Replica(
        pod=pod,
        node=node,
        derived=derive(node, observed.flash.spec.interconnect, engine_env(observed.flash.spec)) if node else None,
        gate=observed.gates.get(pod["metadata"]["uid"]),
        terminating=terminating["metadata"]["name"] if terminating else None,
        terminating_overdue=terminating is not None and is_overdue(terminating, observed.now),
        setup_overdue=setup_is_overdue(pod, observed.now),
    )
    return _with_last_status(replica, observed.live_status)


def _with_last_status(replica: Replica, live_status: RawObject) -> Replica:
    """A ready replica whose gate failed to answer once keeps its last result.

    The kubelet probes the same gate and still reports it ready, so one lost packet of ours must not blank the figures.
    """
    if not replica.ready or (replica.gate and replica.gate.reached):
        return replica
    for pod in live_status.get("pods", []):
        if pod.get("uid") == replica.uid and pod.get("reason") in (Reason.PASSED, Reason.DEGRADED):
            last_status = PodStatus.model_validate(pod)
            return replace(replica, last_status=last_status, gate=_gate_result_of(last_status))
    return replica


def _gate_result_of(last_status: PodStatus) -> GateResult:
    figures = None
    if last_status.decode_tokens_per_second is not None:
        figures = DecodeFigures(
            decode_tokens_per_second=last_status.decode_tokens_per_second,
            acceptance_percent=last_status.acceptance_percent,
            first_token_millis=last_status.first_token_millis,
        )
    return GateResult(
        reason=last_status.reason,
        passed=last_status.reason == Reason.PASSED,
        message=last_status.message,
        measurement=figures,
        reached=False,
    )
