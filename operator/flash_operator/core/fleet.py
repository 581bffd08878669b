"""All replicas of one deployment, counted. The conditions and the summary are read off this."""

from dataclasses import dataclass
from functools import cached_property

from flash_contracts.gate_result import GateResult
from flash_operator.core.delivery_status import steadied
from flash_operator.core.observed import Observed, RawObject
from flash_operator.core.pod_trouble import PodTrouble, deployment_trouble
from flash_operator.core.replica import Replica, replicas_of
from flash_operator.core.restoration import Restoration
from flash_operator.core.rollout import Rollout


@dataclass(frozen=True)
class Fleet:
    """What is wanted, what is there, and the one replica that best explains the difference."""

    wanted: int
    replicas: tuple[Replica, ...]
    deployment: RawObject | None
    speculation_wanted: bool
    rollout: Rollout | None = None
    refusal: str | None = None
    unapplied: bool = False
    """The Deployment is about to be written: what runs is of an older spec than the one that status speaks of."""
    lasting_trouble: PodTrouble | None = None
    """What the cluster lacks, however many pods there are."""
    restoration: Restoration | None = None
    """Of the checkpoint's MTP head, where one is asked for."""

    @classmethod
    def of(
        cls,
        observed: Observed,
        rollout: Rollout | None = None,
        restoration: Restoration | None = None,
        *,
        unapplied: bool = False,
        trouble: PodTrouble | None = None,
    ) -> "Fleet":
        flash = observed.flash
        return cls(
            wanted=flash.spec.replicas,
            replicas=tuple(steadied(replica, observed.live_status) for replica in replicas_of(observed)),
            deployment=observed.children.get(("Deployment", flash.name)),
            speculation_wanted=flash.spec.speculation.method != "Disabled",
            rollout=rollout,
            refusal=observed.refusal,
            unapplied=unapplied,
            lasting_trouble=trouble,
            restoration=restoration,
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
    def trouble(self) -> PodTrouble | None:
        """Why pods are missing or old: the API server refused a child, or the Deployment could not make its pods."""
        if self.refusal:
            return PodTrouble("ChildRefused", self.refusal)
        if self.lasting_trouble:
            return self.lasting_trouble
        return deployment_trouble(self.deployment) if len(self.replicas) < self.wanted else None

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
