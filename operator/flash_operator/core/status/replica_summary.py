"""All replicas of one deployment, counted. The conditions and the summary are read off this."""

from dataclasses import dataclass
from functools import cached_property

from flash_contracts.gate_result import GateResult
from flash_operator.core.mtp_restore.planner import MtpRestore
from flash_operator.core.observed.pod_failure import PodFailure, deployment_failure
from flash_operator.core.observed.snapshot import Observed, RawObject
from flash_operator.core.replicas.replica import Replica, replicas_of
from flash_operator.core.rollout.rollout import Rollout
from flash_operator.core.status.download_status import steadied


@dataclass(frozen=True)
class ReplicaSummary:
    """What is wanted, what is there, and the one replica that best explains the difference."""

    wanted: int
    replicas: tuple[Replica, ...]
    deployment: RawObject | None
    speculation_wanted: bool
    rollout: Rollout | None = None
    refusal: str | None = None
    unapplied: bool = False
    """The Deployment is about to be written: what runs is of an older spec than the one that status speaks of."""
    lasting_failure: PodFailure | None = None
    """What the cluster lacks, however many pods there are."""
    mtp_restore: MtpRestore | None = None
    """Of the checkpoint's MTP head, where one is asked for."""

    @classmethod
    def of(
        cls,
        observed: Observed,
        rollout: Rollout | None = None,
        mtp_restore: MtpRestore | None = None,
        *,
        unapplied: bool = False,
        failure: PodFailure | None = None,
    ) -> "ReplicaSummary":
        flash = observed.flash
        return cls(
            wanted=flash.spec.replicas,
            replicas=tuple(steadied(replica, observed.live_status) for replica in replicas_of(observed)),
            deployment=observed.children.get(("Deployment", flash.name)),
            speculation_wanted=flash.spec.speculation.method != "Disabled",
            rollout=rollout,
            refusal=observed.refusal,
            unapplied=unapplied,
            lasting_failure=failure,
            mtp_restore=mtp_restore,
        )

    @property
    def ready(self) -> int:
        return sum(replica.ready for replica in self.replicas)

    @property
    def complete(self) -> bool:
        """Every replica that is wanted is ready, none is left over, and all are of the newest template."""
        return self.wanted > 0 and self.ready == len(self.replicas) == self.wanted and not self.rolling

    @property
    def rolling(self) -> bool:
        """The Deployment controller has not yet replaced all pods by pods of the newest template."""
        if self.unapplied and self.replicas:
            return True
        if self.deployment is None:
            return False
        status = self.deployment.get("status", {})
        seen = status.get("observedGeneration", 0) >= self.deployment["metadata"].get("generation", 0)
        return not seen or status.get("updatedReplicas", 0) < min(self.wanted, len(self.replicas))

    @property
    def failure(self) -> PodFailure | None:
        """Why pods are missing or old: the API server refused a child, or the Deployment could not make its pods."""
        if self.refusal:
            return PodFailure("ChildRefused", self.refusal)
        if self.lasting_failure:
            return self.lasting_failure
        return deployment_failure(self.deployment) if len(self.replicas) < self.wanted else None

    @cached_property
    def worst(self) -> Replica | None:
        """The replica to show first: one that is stuck, then one that failed, then one that is starting."""
        lagging = [replica for replica in self.replicas if not replica.ready]
        return min(lagging, key=_urgency, default=None)

    @property
    def measured(self) -> tuple[GateResult, ...]:
        """Results with figures, of replicas that passed."""
        gates = (replica.gate for replica in self.replicas)
        return tuple(gate for gate in gates if gate and gate.passed and gate.measurement)


def _urgency(replica: Replica) -> tuple[int, str]:
    rank = 0 if replica.stuck else 1 if replica.verdict.is_failure else 2
    return rank, replica.name
