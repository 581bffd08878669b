"""All replicas of one deployment together: the input of its conditions and of the figures in status."""

from dataclasses import dataclass
from functools import cached_property

from flash_contracts.gate_result import GateResult
from flash_operator.api.status import UpdateStatus
from flash_operator.core.mtp_restore.planner import MtpRestore
from flash_operator.core.observed.pod_failure import PodFailure, deployment_failure
from flash_operator.core.observed.snapshot import Observed, RawObject
from flash_operator.core.replicas.replica import Replica, replicas_of
from flash_operator.core.rollout.rollout import Rollout
from flash_operator.core.scaling.outcome import ScalingOutcome
from flash_operator.core.status.download_status import with_steady_figures

UP_TO_DATE = UpdateStatus()


@dataclass(frozen=True)
class ReplicaSummary:
    """How many replicas are wanted, which exist, and the one that best explains the difference."""

    wanted: int
    replicas: tuple[Replica, ...]
    deployment: RawObject | None
    speculation_wanted: bool
    rollout: Rollout | None = None
    update: UpdateStatus = UP_TO_DATE
    name_taken: str | None = None
    refusal: str | None = None
    unapplied: bool = False
    """This reconcile changes the Deployment, so the pods are still those of an older spec than the one in status."""
    lasting_failure: PodFailure | None = None
    """Something that the cluster lacks, regardless of the number of pods."""
    mtp_restore: MtpRestore | None = None
    """The restore of the checkpoint's MTP head, if the spec asks for one."""
    scaling: ScalingOutcome | None = None
    """Demand and autoscaler."""
    held: bool = False
    """The operator leaves the Deployment unchanged, whatever the spec asks for."""

    @classmethod
    def of(
        cls,
        observed: Observed,
        rollout: Rollout | None = None,
        mtp_restore: MtpRestore | None = None,
        *,
        update: UpdateStatus = UP_TO_DATE,
        unapplied: bool = False,
        failure: PodFailure | None = None,
        scaling: ScalingOutcome | None = None,
        held: bool = False,
    ) -> "ReplicaSummary":
        flash = observed.flash
        return cls(
            wanted=flash.spec.replicas,
            replicas=tuple(with_steady_figures(replica, observed.live_status) for replica in replicas_of(observed)),
            deployment=observed.children.get(("Deployment", flash.name)),
            speculation_wanted=flash.spec.speculation.method != "Disabled",
            rollout=rollout,
            update=update,
            name_taken=observed.name_taken,
            refusal=observed.refusal,
            unapplied=unapplied,
            lasting_failure=failure,
            mtp_restore=mtp_restore,
            scaling=scaling,
            held=held,
        )

    @property
    def ready(self) -> int:
        return sum(replica.ready for replica in self.replicas)

    @property
    def complete(self) -> bool:
        """Every wanted replica is ready, there are no others, and all run the newest template."""
        return self.wanted > 0 and self.ready == len(self.replicas) == self.wanted and not self.rolling

    @property
    def rolling(self) -> bool:
        """The Deployment controller has not yet replaced all pods with pods of the newest template."""
        if self.unapplied and self.replicas:
            return True
        if self.deployment is None:
            return False
        status = self.deployment.get("status", {})
        seen = status.get("observedGeneration", 0) >= self.deployment["metadata"].get("generation", 0)
        return not seen or status.get("updatedReplicas", 0) < min(self.wanted, len(self.replicas))

    @property
    def failure(self) -> PodFailure | None:
        """Why pods are missing or old: the API server rejected a child, or the Deployment could not create its pods."""
        if self.name_taken:
            return PodFailure("NameTaken", self.name_taken)
        if self.refusal:
            return PodFailure("ChildRefused", self.refusal)
        if self.lasting_failure:
            return self.lasting_failure
        return deployment_failure(self.deployment) if len(self.replicas) < self.wanted else None

    @cached_property
    def worst(self) -> Replica | None:
        """The unready replica to report: a stuck one before a failed one before a starting one."""
        unready = [replica for replica in self.replicas if not replica.ready]
        return min(unready, key=_urgency, default=None)

    @property
    def measured(self) -> tuple[GateResult, ...]:
        """The results with figures of the replicas that passed."""
        gates = (replica.gate for replica in self.replicas)
        return tuple(gate for gate in gates if gate and gate.passed and gate.measurement)


def _urgency(replica: Replica) -> tuple[int, str]:
    rank = 0 if replica.stuck else 1 if replica.verdict.is_failure else 2
    return rank, replica.name
