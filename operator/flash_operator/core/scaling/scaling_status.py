"""Demand and autoscaler in the CR's status."""

from flash_contracts.demand_report import DemandReport
from flash_operator.api.status import DemandStatus, ScalingStatus
from flash_operator.core.observed.snapshot import RawObject
from flash_operator.core.scaling.decision import ScalerDecision

STEP_PERCENT = 10
"""Coarse, so that a steady load is no reason to write a status."""


def demand_status(demand: DemandReport) -> DemandStatus:
    known = demand.demand_replicas
    return DemandStatus(
        loading_replicas=demand.loading,
        unknown_replicas=demand.unknown,
        demand_percent=None if known is None else round(100 * known / STEP_PERCENT) * STEP_PERCENT,
    )


def scaling_status(decision: ScalerDecision, name: str, before: RawObject | None) -> ScalingStatus | None:
    """None if there is no autoscaler of ours, and none is being created. `before` is what status says."""
    if decision.is_unsure:
        # Ours must be found again once autoscalers can be listed.
        return ScalingStatus.model_validate(before) if before else None
    if decision.kind is None or (decision.live is None and decision.apply is None):
        return None
    uid = decision.live["metadata"].get("uid") if decision.live else None
    return ScalingStatus.model_validate({"kind": decision.kind, "name": name, "uid": uid})


def was_deleted(before: RawObject, after: RawObject) -> bool:
    """Whether the autoscaler of `status.scaling` is missing although the operator did not delete it."""
    return bool(before.get("uid")) and before.get("kind") == after.get("kind") and not after.get("uid")
