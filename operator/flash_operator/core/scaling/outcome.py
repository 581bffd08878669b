"""Demand and autoscaler of one deployment, each decided once for plan, status and metrics."""

from dataclasses import dataclass

from flash_contracts.demand_report import DemandReport
from flash_operator.api.v1alpha1 import FlashDeployment
from flash_operator.core.observed.snapshot import Observed
from flash_operator.core.replicas.replica import Replica
from flash_operator.core.scaling.condition import ScalingState, scaling_condition
from flash_operator.core.scaling.decision import ScalerDecision, decide_scaler
from flash_operator.core.scaling.demand import DemandBasis, demand_basis

GATE_SECONDS = 5.0
"""While an autoscaler follows the demand, gates are asked as often as they read their engines' gauges."""

SCALER_SECONDS = 30.0
"""How often autoscalers are read. They are not watched, because each changes its status four times a minute."""


def gate_interval(flash: FlashDeployment) -> float | None:
    return GATE_SECONDS if flash.spec.scaling else None


def scaler_interval(flash: FlashDeployment) -> float | None:
    return SCALER_SECONDS if flash.spec.scaling else None


@dataclass(frozen=True)
class ScalingOutcome:
    """What `core.scaling` has decided."""

    basis: DemandBasis
    demand: DemandReport
    decision: ScalerDecision
    state: ScalingState | None
    """The condition ScalingActive; None without `spec.scaling`, unless somebody scales the Deployment itself."""

    @classmethod
    def of(cls, observed: Observed, replicas: tuple[Replica, ...]) -> "ScalingOutcome":
        basis, decision = demand_basis(observed, replicas), decide_scaler(observed)
        demand = basis.demand(observed.loads, observed.activator.waiting if observed.activator else None)
        return cls(basis, demand, decision, _state(observed, decision, demand))


def _state(observed: Observed, decision: ScalerDecision, demand: DemandReport) -> ScalingState | None:
    scaling = observed.flash.spec.scaling
    if scaling is None:
        return ScalingState("False", *decision.problem) if decision.follows_deployment and decision.problem else None
    return scaling_condition(observed, scaling, decision, demand) if observed.scalers else None
