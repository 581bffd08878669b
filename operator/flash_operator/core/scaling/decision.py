"""Decides which autoscaler a deployment has.

    spec.scaling | somebody else scales it | KEDA's API | the autoscaler
    ------------ | ----------------------- | ---------- | -------------------------------------------------------------
    none         | any                     | any        | none: one of ours is deleted. The replicas of a Deployment
                 |                         |            | that somebody else scales are left to them
    any          | yes                     | any        | none, and status says who does
    by Keda      | no                      | absent     | none, and status says so
    by Keda      | no                      | present    | a ScaledObject
    by Auto      | no                      | present    | a ScaledObject
    by Auto      | no                      | absent     | an HPA
    by Hpa       | no                      | any        | an HPA
    minReplicas 0| no                      | as by Keda | a ScaledObject, which keeps one replica without an activator
    any          | any                     | unknown    | as it is: autoscalers could not be listed

One that was deleted is created again. A live one that was edited is corrected, except for fields and annotations that
we do not set, such as KEDA's for pausing.
"""

from dataclasses import dataclass
from typing import NamedTuple

from flash_contracts.names import KIND
from flash_operator.api.scaling_spec import ScalingSpec
from flash_operator.api.v1alpha1 import FlashDeployment
from flash_operator.core.observed.kube import is_owned_by, is_terminating
from flash_operator.core.observed.scalers import HPA, SCALED_OBJECT, Scalers, described, scales_deployment
from flash_operator.core.observed.snapshot import Observed, RawObject
from flash_operator.core.resources.drift import needs_apply
from flash_operator.core.scaling.scaler import horizontal_pod_autoscaler, scaled_object


class Problem(NamedTuple):
    """Why there is no autoscaler: a reason for the condition ScalingActive, and what to do."""

    reason: str
    message: str


@dataclass(frozen=True)
class ScalerDecision:
    """What to do with the deployment's autoscaler, and what it is."""

    kind: str | None = None
    """None if there is to be none."""
    live: RawObject | None = None
    """The live one of this kind."""
    keda_hpa: RawObject | None = None
    """The HPA that KEDA made for it."""
    apply: RawObject | None = None
    delete: tuple[RawObject, ...] = ()
    problem: Problem | None = None
    refusal: str | None = None
    """The API server's answer to the last apply."""
    follows_deployment: bool = False
    """Another owner's autoscaler scales the Deployment itself, and keeps its replicas."""

    @property
    def is_unsure(self) -> bool:
        """Autoscalers could not be listed, so ours may be there or not."""
        return self.problem is not None and self.problem.reason == UNREADABLE


UNREADABLE = "ScalersUnreadable"

NONE = ScalerDecision()


def decide_scaler(observed: Observed) -> ScalerDecision:
    flash, scalers = observed.flash, observed.scalers
    if scalers is None:
        return NONE
    if scalers.unreadable:
        return ScalerDecision(
            problem=Problem(UNREADABLE, f"the operator cannot list autoscalers: {scalers.unreadable}")
        )
    ours = tuple(scaler for scaler in scalers.ours(flash) if not is_terminating(scaler))
    foreign = scalers.foreign(flash)
    if flash.spec.scaling is None:
        return _without_scaling(observed, ours, foreign)
    if foreign:
        on_deployment = any(scales_deployment(scaler, flash) for scaler in foreign)
        return ScalerDecision(delete=ours, problem=_conflict(foreign), follows_deployment=on_deployment)
    kind, problem = _kind(flash.spec.scaling, observed, scalers)
    taken = scalers.of_name(kind, flash)
    if taken is not None and not is_owned_by(taken, flash.uid):
        return ScalerDecision(delete=ours, problem=_conflict((taken,)))
    live = next((scaler for scaler in scalers.ours(flash) if scaler["kind"] == kind), None)
    desired = _desired(observed, flash.spec.scaling, kind)
    wanted = problem is None and needs_apply(desired, live)
    return ScalerDecision(
        kind=kind,
        live=live,
        keda_hpa=scalers.hpa_of(live) if live and kind == SCALED_OBJECT else None,
        apply=desired if wanted and not (live and is_terminating(live)) else None,
        delete=tuple(scaler for scaler in ours if scaler["kind"] != kind),
        problem=problem,
        refusal=scalers.refusal if wanted else None,
    )


def may_have_scaler(flash: FlashDeployment, live_status: RawObject, deployment: RawObject | None) -> bool:
    """Whether to look for autoscalers: the spec asks for one, there was one, or another scales the Deployment."""
    if flash.spec.scaling is not None or "scaling" in live_status:
        return True
    if (live_status.get("update") or {}).get("state") == "Updating":
        # An update of flags must know who decides about the Deployment's replicas.
        return True
    return deployment is not None and deployment["spec"].get("replicas", 1) != flash.spec.replicas


def _without_scaling(observed: Observed, ours: tuple[RawObject, ...], foreign: tuple[RawObject, ...]) -> ScalerDecision:
    """An autoscaler of the user's on the deployment is welcome. One on its Deployment would be fought for ever."""
    of_deployment = tuple(scaler for scaler in foreign if scales_deployment(scaler, observed.flash))
    if not of_deployment:
        return ScalerDecision(delete=ours)
    problem = Problem(
        "ScalerConflict",
        f"{described(of_deployment)} sets replicas that follow spec.replicas, so the operator leaves them to it: "
        f"aim it at the {KIND}, or delete it",
    )
    return ScalerDecision(delete=ours, problem=problem, follows_deployment=True)


def _kind(scaling: ScalingSpec, observed: Observed, scalers: Scalers) -> tuple[str, Problem | None]:
    needs_keda = scaling.by == "Keda" or scaling.source == "Prometheus" or scaling.min_replicas == 0
    if scaling.by == "Hpa" or (scalers.keda == "Absent" and not needs_keda):
        return HPA, None
    if scalers.keda == "Absent":
        return SCALED_OBJECT, Problem("KedaMissing", _NO_KEDA)
    if scaling.source == "Operator" and not observed.settings.demand_url:
        return SCALED_OBJECT, Problem("DemandAddressMissing", _NO_ADDRESS)
    return SCALED_OBJECT, None


_NO_KEDA = (
    "the cluster does not serve keda.sh/v1alpha1: install KEDA, or set scaling.by to Hpa, minReplicas to at least 1, "
    "and remove source and prometheus; until then nothing changes spec.replicas"
)
_NO_ADDRESS = (
    "KEDA cannot ask this operator for the demand, because the operator does not know the address of its Service: "
    "start it with --demand-url, which the chart does unless metrics.service.enabled is false"
)


def _conflict(foreign: tuple[RawObject, ...]) -> Problem:
    return Problem(
        "ScalerConflict",
        f"{described(foreign)} already scales this deployment, or has the name of its autoscaler, so the operator "
        "creates none: delete it, or remove spec.scaling",
    )


def _desired(observed: Observed, scaling: ScalingSpec, kind: str) -> RawObject:
    if kind == HPA:
        return horizontal_pod_autoscaler(observed.flash, scaling)
    return scaled_object(observed.flash, scaling, observed.settings.demand_url, to_zero=observed.may_go_to_zero)
