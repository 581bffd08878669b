"""The condition ScalingActive: what KEDA and the HPA report of themselves, in one sentence with the remedy.

KEDA calls a ScaledObject Ready although nothing can scale it: its HPA may be without metrics. So both are read.
"""

from typing import Literal, NamedTuple

from flash_contracts.activation import PORTS
from flash_contracts.demand_report import DemandReport
from flash_operator.api.scaling_spec import ScalingSpec
from flash_operator.core.observed.activator import asks_for_zero
from flash_operator.core.observed.kube import condition_of, is_terminating
from flash_operator.core.observed.raw import RawCondition
from flash_operator.core.observed.scalers import HPA
from flash_operator.core.observed.snapshot import Observed, RawObject
from flash_operator.core.resources.service import endpoint
from flash_operator.core.scaling.decision import ScalerDecision
from flash_operator.core.scaling.scaler import WAKING_POLLING_SECONDS

NOT_DECLARED = "field not declared in schema"
FORBIDDEN = "HTTP 403"


class ScalingState(NamedTuple):
    """Status, reason and message of the condition."""

    status: Literal["True", "False", "Unknown"]
    reason: str
    message: str


def scaling_condition(
    observed: Observed, scaling: ScalingSpec, decision: ScalerDecision, demand: DemandReport
) -> ScalingState:
    return (
        _problem(decision)
        or _refused(decision)
        or _pending(decision)
        or _without_activator(observed)
        or _stopped(observed, demand)
        or _unknown_demand(observed, demand)
        or _of_keda(decision)
        or _at_zero(observed, demand)
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


def _without_activator(observed: Observed) -> ScalingState | None:
    """One replica is kept, or started, where nothing could start it when a request comes."""
    if not asks_for_zero(observed.flash):
        return None
    activator = observed.activator
    if activator is None:
        return ScalingState("False", "ActivatorMissing", _NO_ACTIVATOR)
    if activator.port is None:
        message = (
            f"all {PORTS} ports of the activator are taken by other deployments with minReplicas 0, {_ONE_IS_KEPT}"
        )
        return ScalingState("False", "ActivatorFull", message)
    if activator.waiting is not None and activator.waiting.lost:
        return ScalingState("False", "ActivatorSilent", _SILENT_ACTIVATOR)
    return None


_ONE_IS_KEPT = "so one replica is kept"
_NO_ACTIVATOR = (
    "minReplicas is 0, but no activator is installed that would hold the first request and wake the deployment, "
    f"{_ONE_IS_KEPT}: set activator.enabled in the chart, or minReplicas to 1"
)
_SILENT_ACTIVATOR = (
    f"no activator has answered the operator for minutes, {_ONE_IS_KEPT}: are the activator's pods ready, and does a "
    "NetworkPolicy let the operator reach their port 8080?"
)


def _is_asleep(observed: Observed, demand: DemandReport) -> bool:
    """At zero, and it can wake."""
    return not demand.wanted and observed.may_go_to_zero


def _at_zero(observed: Observed, demand: DemandReport) -> ScalingState | None:
    if not _is_asleep(observed, demand):
        return None
    if observed.activator is not None and not observed.activator.addresses:
        message = "no replica runs, and no activator is ready, so clients are refused: check the activator's pods"
        return ScalingState("False", "ActivatorNotReady", message)
    message = (
        f"no replica runs: a POST to {endpoint(observed.flash)} waits in the activator, which starts one within "
        f"{WAKING_POLLING_SECONDS + 1} s; a start takes minutes"
    )
    return ScalingState("True", "ScaledToZero", message)


def _stopped(observed: Observed, demand: DemandReport) -> ScalingState | None:
    if demand.wanted or observed.may_go_to_zero:
        return None
    return ScalingState("False", "ScaledToZero", "spec.replicas is 0: kubectl scale --replicas=1 starts it again")


def _unknown_demand(observed: Observed, demand: DemandReport) -> ScalingState | None:
    if demand.target_replicas is not None or _is_asleep(observed, demand):
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
    failed = _holds(hpa, "ScalingActive", "False")
    # The HPA of a deployment that was at zero a moment ago still says that it does nothing there.
    if failed and failed.get("reason") != "ScalingDisabled":
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
