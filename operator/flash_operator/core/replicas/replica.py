"""One replica: a pod, the node it is bound to, the flags that follow, and what its gate says."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

from flash_contracts.engine_record import Incident
from flash_contracts.flags import FlagSet, derive
from flash_contracts.gate_result import DecodeFigures, GateResult
from flash_contracts.names import ENGINE_FLAGS_ANNOTATION, FLOOR_ANNOTATION, QUARANTINE_ANNOTATION
from flash_contracts.node_facts import NodeFacts
from flash_contracts.verdict_reason import Reason, is_failure, verdict_reason
from flash_operator.api.status import PodStatus
from flash_operator.core.observed.pod_failure import PodFailure, failure_of
from flash_operator.core.observed.snapshot import Observed, RawObject, is_ready


class ReplicaVerdict(NamedTuple):
    """What is to be said of a replica, in the words of whoever knows most."""

    reason: str
    """A Reason, or the scheduler's or the kubelet's own."""
    message: str

    @property
    def is_failure(self) -> bool:
        return is_failure(self.reason)

    @property
    def is_lasting(self) -> bool:
        known = verdict_reason(self.reason)
        return known is not None and known.is_lasting

    @property
    def is_of_a_start(self) -> bool:
        known = verdict_reason(self.reason)
        return known is not None and known.is_of_a_start


@dataclass(frozen=True)
class Replica:
    """A pod that is meant to serve; pods on their way out are no replicas any more."""

    pod: RawObject
    node: NodeFacts | None
    derived: FlagSet | None
    """The flags that its node calls for today, None while it is bound to no node."""
    gate: GateResult | None
    leaving: str | None = None
    """A pod of the same deployment that is on its way out."""
    known: PodStatus | None = None
    """What status said of it last time, where the gate did not answer now and the kubelet still calls it ready."""

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
        """What the endpoints go by: the kubelet's word, which is the gate's verdict as last probed."""
        return is_ready(self.pod)

    @property
    def stuck(self) -> bool:
        """Only a person can help: the scheduler or the kubelet has said why it goes no further."""
        return self._failure is not None

    @property
    def _failure(self) -> PodFailure | None:
        return None if self._awaits_its_place else failure_of(self.pod)

    @property
    def _awaits_its_place(self) -> bool:
        """The scheduler finds no GPUs for it before the one that drains has let go of its own."""
        return self.leaving is not None and self.node_name is None

    @cached_property
    def verdict(self) -> ReplicaVerdict:
        """Reason and message, from whoever knows most: scheduler and kubelet, then the gate."""
        if self._failure:
            return ReplicaVerdict(self._failure.reason, self._failure.message)
        if self._awaits_its_place:
            told = f"waits for the GPUs of {self.leaving}, which is on its way out"
            return ReplicaVerdict(Reason.ENGINE_STARTING, told)
        if self.gate:
            return ReplicaVerdict(self.gate.reason, self.gate.message)
        return ReplicaVerdict(Reason.ENGINE_STARTING, "the kubelet is starting the pod's containers")

    @cached_property
    def handed_over(self) -> FlagSet | None:
        """The flags in the pod's annotation, None where there are none yet or where they cannot be read."""
        text = self.pod["metadata"].get("annotations", {}).get(ENGINE_FLAGS_ANNOTATION)
        if not text:
            return None
        try:
            return FlagSet.parse_text(text)
        except ValueError:
            return None

    @property
    def needs_flags(self) -> bool:
        """Bound, and nothing was handed over yet. What was handed over is never changed: the engine runs with it."""
        annotations = self.pod["metadata"].get("annotations", {})
        return self.derived is not None and ENGINE_FLAGS_ANNOTATION not in annotations

    @cached_property
    def in_force(self) -> FlagSet | None:
        """What the engine really runs with, as its launcher wrote it down; else what was handed over."""
        if self.gate and self.gate.effective:
            return self.gate.effective.flags
        return self.handed_over

    @property
    def origin(self) -> str | None:
        """Where the flags in force come from: annotation, fallback or recovery."""
        return self.gate.effective.origin if self.gate and self.gate.effective else None

    @property
    def image_digest(self) -> str | None:
        """What the kubelet resolved the engine's tag to."""
        for container in self.pod.get("status", {}).get("containerStatuses", []):
            if container.get("name") == "engine" and container.get("imageID"):
                return str(container["imageID"])
        return None

    @property
    def floor_given(self) -> bool:
        """It was told what it is held to; that is never changed, for it was started under it."""
        return FLOOR_ANNOTATION in self.pod["metadata"].get("annotations", {})

    @property
    def wish(self) -> str | None:
        """Its gate's wish to be taken out of service, by name."""
        degraded = self.gate.serving.degraded if self.gate else None
        return degraded.since if degraded else None

    @property
    def granted(self) -> str | None:
        """The wish that was granted."""
        return self.pod["metadata"].get("annotations", {}).get(QUARANTINE_ANNOTATION) or None

    @property
    def commit(self) -> str | None:
        """Of a model from a hub: the one that is served, whatever the revision is by now."""
        if self.known:
            return self.known.delivery.commit if self.known.delivery else None
        return self.gate.delivery.commit if self.gate and self.gate.delivery else None

    @property
    def incident(self) -> Incident | None:
        """What its launcher recovered from."""
        return self.gate.engine.incident if self.gate else None

    @property
    def incident_is_proved(self) -> bool:
        """It gave right answers without peer-to-peer, however fast: so peer-to-peer it was."""
        return self.origin == "recovery" and bool(self.gate and self.gate.measurement)

    @property
    def flags_outdated(self) -> bool:
        """The node's labels call for other flags than the engine runs with."""
        if self.known:
            return self.known.flags_outdated == "Outdated"
        if self.origin == "recovery":
            # On purpose: with what the labels call for it hung, or read wrong data.
            return False
        return bool(self.derived and self.in_force and not self.derived.same_effect(self.in_force))


def replicas_of(observed: Observed) -> tuple[Replica, ...]:
    """All replicas by name."""
    living = (pod for pod in observed.pods if not pod["metadata"].get("deletionTimestamp"))
    return tuple(sorted((_replica(observed, pod) for pod in living), key=lambda replica: replica.name))


def _replica(observed: Observed, pod: RawObject) -> Replica:
    raw_node = observed.nodes.get(pod.get("spec", {}).get("nodeName", ""))
    node = NodeFacts.from_node(raw_node) if raw_node else None
    engine_env = {variable.name: variable.value for variable in observed.flash.spec.engine.extra_env}
    replica = Replica(
        pod=pod,
        node=node,
        derived=derive(node, observed.flash.spec.interconnect, engine_env) if node else None,
        gate=observed.gates.get(pod["metadata"]["uid"]),
        leaving=next((p["metadata"]["name"] for p in observed.pods if p["metadata"].get("deletionTimestamp")), None),
    )
    return _remembered(replica, observed.live_status)


def _remembered(replica: Replica, live_status: RawObject) -> Replica:
    """A ready replica whose gate missed one question keeps the answer it gave last time.

    Readiness is the kubelet's word, and it probes the same gate: one lost packet of ours must not blank the table.
    """
    if not replica.ready or (replica.gate and replica.gate.reached):
        return replica
    for pod in live_status.get("pods", []):
        if pod.get("uid") == replica.uid and pod.get("reason") in (Reason.PASSED, Reason.DEGRADED):
            known = PodStatus.model_validate(pod)
            return replace(replica, known=known, gate=_gate_of(known))
    return replica


def _gate_of(known: PodStatus) -> GateResult:
    figures = None
    if known.decode_tokens_per_second is not None:
        figures = DecodeFigures(
            decode_tokens_per_second=known.decode_tokens_per_second,
            acceptance_percent=known.acceptance_percent,
            first_token_millis=known.first_token_millis,
        )
    return GateResult(
        reason=known.reason,
        passed=known.reason == Reason.PASSED,
        message=known.message,
        measurement=figures,
        reached=False,
    )
