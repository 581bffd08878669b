"""The condition ScalingActive: what KEDA and the HPA report of themselves, in one sentence with the remedy.

KEDA calls a ScaledObject Ready although nothing can scale it: its HPA may be without metrics. So both are read.
"""

from typing import Literal, NamedTuple

from flash_contracts.demand_report import DemandReport
from flash_operator.api.scaling_spec import ScalingSpec
from flash_operator.core.observed.kube import condition_of, is_terminating
from flash_operator.core.observed.raw import RawCondition
from flash_operator.core.observed.scalers import HPA
from flash_operator.core.observed.snapshot import RawObject
from flash_operator.core.scaling.decision import ScalerDecision

NOT_DECLARED = "field not declared in schema"
FORBIDDEN = "HTTP 403"


class ScalingState(NamedTuple):
    """Status, reason and message of the condition."""

    status: Literal["True", "False", "Unknown"]
    reason: str
    message: str


def scaling_condition(scaling: ScalingSpec, decision: ScalerDecision, demand: DemandReport) -> ScalingState:
    return (
        _problem(decision)
        or _refused(decision)
        or _pending(decision)
        or _stopped(demand)
        or _unknown_demand(demand)
        or _of_keda(decision)
        or _of_hpa(scaling, decision)
        or _active(scaling, decision)
    )


def _problem(decision: ScalerDecision) -> ScalingState | None:
    return ScalingState("False", *decision.problem) if decision.problem else None


def _refused(decision: ScalerDecision) -> ScalingState | None:
    if decision.refusal is None:
        return None
    if NOT_DECLARED in decision.refusal:
        message = f"this KEDA is too old: install KEDA 2.17 or later ({decision.refusal})"
        return ScalingState("False", "KedaTooOld", message)
    if FORBIDDEN in decision.refusal:
        message = (
            f"the operator's role does not allow it to create a {decision.kind}: upgrade the chart, or extend the role "
            f"({decision.refusal})"
        )
        return ScalingState("False", "ScalerForbidden", message)
    return ScalingState("False", "ScalerRefused", decision.refusal)


def _pending(decision: ScalerDecision) -> ScalingState | None:
    live = decision.live
    if live is None:
        return ScalingState("Unknown", "ScalerPending", f"the {decision.kind} is being created")
    if is_terminating(live):
        message = (
            f"the {decision.kind} was deleted, and will be created again once its finalizers are gone; KEDA removes "
            "its own"
        )
        return ScalingState("False", "ScalerPending", message)
    if not (live.get("status") or {}).get("conditions"):
        who = "the HPA controller" if decision.kind == HPA else "KEDA's operator"
        message = f"{who} has not processed the {decision.kind} yet: check that it runs and watches this namespace"
        return ScalingState("Unknown", "ScalerPending", message)
    return None


def _stopped(demand: DemandReport) -> ScalingState | None:
    if demand.wanted:
        return None
    return ScalingState("False", "ScaledToZero", "spec.replicas is 0: kubectl scale --replicas=1 starts it again")


def _unknown_demand(demand: DemandReport) -> ScalingState | None:
    if demand.target_replicas is not None:
        return None
    if not demand.ready:
        message = "no replica is ready and none is loading, so there is no demand to follow; replicas stay as they are"
        return ScalingState("False", "DemandUnknown", message)
    message = (
        f"none of the {demand.ready} ready replicas reports its requests, so replicas stay as they are: their gates "
        "do not answer, or are from an engine image before 0.2 (take the engine update)"
    )
    return ScalingState("False", "DemandUnknown", message)


def _of_keda(decision: ScalerDecision) -> ScalingState | None:
    live = decision.live
    if live is None or decision.kind == HPA:
        return None
    if _holds(live, "Paused", "True"):
        message = (
            "the ScaledObject is paused by an annotation (autoscaling.keda.sh/paused...): remove it to scale again"
        )
        return ScalingState("False", "ScalerPaused", message)
    if failed := _holds(live, "Ready", "False"):
        return ScalingState("False", "ScalerNotReady", f"KEDA: {_words(failed)}")
    if failed := _holds(live, "Fallback", "True"):
        message = f"KEDA cannot read the demand, and keeps the current replicas: {_words(failed)}"
        return ScalingState("False", "MetricsMissing", message)
    if failed := _holds(live, "HPAActive", "False"):
        return ScalingState("False", "HpaInactive", f"the HPA that KEDA made does not scale: {_words(failed)}")
    return None


def _of_hpa(scaling: ScalingSpec, decision: ScalerDecision) -> ScalingState | None:
    hpa = decision.live if decision.kind == HPA else decision.keda_hpa
    if hpa is None:
        return None
    if failed := _holds(hpa, "AbleToScale", "False"):
        return ScalingState("False", "UnableToScale", f"the HPA cannot set spec.replicas: {_words(failed)}")
    if failed := _holds(hpa, "ScalingActive", "False"):
        remedy = "" if decision.keda_hpa else "; a metrics adapter must serve the metric (docs/scaling.md)"
        return ScalingState("False", "MetricsMissing", f"the HPA cannot read the demand: {_words(failed)}{remedy}")
    limited = _holds(hpa, "ScalingLimited", "True")
    if limited and limited.get("reason") == "TooManyReplicas":
        message = f"the demand calls for more than scaling.maxReplicas, which is {scaling.max_replicas}"
        return ScalingState("True", "AtMaximum", message)
    return None


def _active(scaling: ScalingSpec, decision: ScalerDecision) -> ScalingState:
    who = "the HPA" if decision.kind == HPA else "KEDA"
    message = f"{who} sets spec.replicas from {scaling.min_replicas} to {scaling.max_replicas}"
    return ScalingState("True", "ScalerActive", message)


def _holds(raw: RawObject, name: str, status: str) -> RawCondition | None:
    condition = condition_of(raw, name)
    return condition if condition is not None and condition.get("status") == status else None


def _words(condition: RawCondition) -> str:
    return ": ".join(filter(None, (condition.get("reason", ""), condition.get("message", ""))))
