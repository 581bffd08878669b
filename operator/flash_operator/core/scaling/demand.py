"""Demand: how many replicas the requests of users call for. Computed here, and nowhere else.

    demand = users' requests, running and waiting, on the ready replicas / (targetPercent x sequences of a replica)

Left out are the gates' own requests, and replicas that load or are quarantined. Autoscalers do not follow the demand
itself but the target:

    ready replicas           | loading | target
    ------------------------ | ------- | --------------------------------------------------------------------
    all known                | none    | the demand
    all known                | some    | at least as many as are wanted: those that load come without more load
    some unknown             | any     | the same: what is known can only call for more
    none known, or none ready| some    | as many as are wanted
    none known, or none ready| none    | unknown

A deployment that may go to zero (`minReplicas: 0`) has requests that wait in the activator too. They count like those
on a replica, and at zero they are all that there is:

    at zero                                    | target
    ------------------------------------------ | ------------------------------------------------
    a request waits, or waited a moment ago    | the demand, at least 1
    none                                       | 0
    no activator has answered for minutes      | 1: nothing could wake the deployment; nor is the last replica stopped
    no activator was asked yet                 | unknown

"Unknown" is never 0. A request count that is older than `known_load.LAST_KNOWN_SECONDS` is unknown.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from flash_contracts.demand_report import DemandReport
from flash_operator.api.scaling_spec import ScalingSpec
from flash_operator.core.observed.activator import Waiting
from flash_operator.core.observed.known_load import KnownLoad
from flash_operator.core.observed.kube import moment_of
from flash_operator.core.observed.pod_failure import deployment_failure
from flash_operator.core.observed.snapshot import Observed
from flash_operator.core.replicas.replica import Replica
from flash_operator.core.resources.engine_args import max_sequences

NODE_TIME = timedelta(minutes=15)
"""How long a pod that fits on no node counts as loading: cluster-autoscaler gives a new node as long to come."""

DEFAULT_TARGET_PERCENT: int = ScalingSpec.model_fields["target_percent"].default


@dataclass(frozen=True)
class DemandBasis:
    """What demand is computed from, besides the requests. It changes only with events."""

    namespace: str
    name: str
    wanted: int
    loading: int
    ready: tuple[str, ...]
    """Pod uids of the replicas that serve."""
    sequences: int
    """Requests that one replica decodes at the same time."""
    target_percent: int
    to_zero: bool = False
    """An autoscaler may stop the last replica, and an activator holds what comes then."""

    def demand(self, loads: Mapping[str, KnownLoad], waiting: Waiting | None = None) -> DemandReport:
        """`loads` by pod uid; `waiting` is what the activators hold, None if that is unknown."""
        counts = [loads[uid].requests if uid in loads else None for uid in self.ready]
        known = [count for count in counts if count is not None]
        per_replica = self.sequences * self.target_percent / 100
        held = waiting.requests if self.to_zero and waiting else 0
        only_held = self.to_zero and waiting is not None and not self.ready and (self.loading > 0 or not self.wanted)
        demand = (sum(known) + held) / per_replica if known or only_held else None
        return DemandReport(
            namespace=self.namespace,
            name=self.name,
            wanted=self.wanted,
            loading=self.loading,
            ready=len(self.ready),
            unknown=len(counts) - len(known),
            requests=sum(known),
            demand_replicas=_rounded(demand),
            target_replicas=_rounded(self._target(demand, waiting, all_known=len(known) == len(counts))),
            held=held,
        )

    def _target(self, demand: float | None, waiting: Waiting | None, *, all_known: bool) -> float | None:
        if self.to_zero and self.wanted == 0:
            return _at_zero(demand or 0.0, waiting)
        if demand is None:
            return float(self.wanted) if self.loading else None
        if self.loading:
            return max(demand - self.loading, float(self.wanted))
        target = demand if all_known else max(demand, float(self.wanted))
        unheld = self.to_zero and (waiting is None or waiting.lost)
        return max(target, 1.0) if unheld else target


def _at_zero(demand: float, waiting: Waiting | None) -> float | None:
    if waiting is None:
        return None
    return max(demand, 1.0) if waiting.wakes else 0.0


def demand_basis(observed: Observed, replicas: tuple[Replica, ...]) -> DemandBasis:
    flash = observed.flash
    scaling = flash.spec.scaling
    return DemandBasis(
        namespace=flash.namespace,
        name=flash.name,
        wanted=flash.spec.replicas,
        loading=sum(is_loading(replica, observed) for replica in replicas) + _missing(observed, len(replicas)),
        ready=tuple(replica.uid for replica in replicas if serves(replica)),
        sequences=max_sequences(flash.spec.engine),
        target_percent=scaling.target_percent if scaling else DEFAULT_TARGET_PERCENT,
        to_zero=observed.may_go_to_zero,
    )


def serves(replica: Replica) -> bool:
    """A replica whose quarantine was granted or ordered is about to leave the Service."""
    return replica.ready and not replica.leaves_service


def is_loading(replica: Replica, observed: Observed) -> bool:
    """It is expected to serve: no verdict is against it, and nothing keeps it from starting."""
    if replica.ready or replica.leaves_service:
        return False
    if replica.stuck:
        return replica.verdict.reason == "Unschedulable" and _is_young(replica, observed)
    return not replica.verdict.is_failure


def _is_young(replica: Replica, observed: Observed) -> bool:
    """A node for it may be on its way."""
    try:
        return observed.now < moment_of(replica.pod["metadata"]["creationTimestamp"]) + NODE_TIME
    except (KeyError, TypeError, ValueError):
        return False


def _missing(observed: Observed, existing: int) -> int:
    """Pods that the Deployment is about to create; none if it cannot."""
    deployment = observed.children.get(("Deployment", observed.flash.name))
    if deployment_failure(deployment) or observed.refusal or observed.name_taken:
        return 0
    return max(0, observed.flash.spec.replicas - existing)


def _rounded(replicas: float | None) -> float | None:
    """To thousandths, which is as fine as Kubernetes' quantities are."""
    return None if replicas is None else round(replicas, 3)
