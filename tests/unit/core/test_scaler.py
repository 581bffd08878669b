"""Which autoscaler a deployment has, what it contains, and what the condition says of it."""

import json
from dataclasses import replace
from typing import Any

import pytest

from builders import (
    SETTINGS,
    a_flash,
    a_gate,
    a_live_deployment,
    a_load,
    a_node,
    a_pod,
    an_observed,
    condition,
)
from flash_contracts.names import API_VERSION, KIND
from flash_operator.api import vocabulary
from flash_operator.core.observed.scalers import HPA, SCALED_OBJECT, Scalers
from flash_operator.core.observed.snapshot import Observed, RawObject
from flash_operator.core.plan import Plan, desired_children, plan
from flash_operator.core.rollout.engine_update import attempt_of_spec
from flash_operator.core.scaling.decision import ScalerDecision, decide_scaler, may_have_scaler
from flash_operator.core.scaling.scaler import horizontal_pod_autoscaler, scaled_object

URL = "http://flash-metrics.system.svc:8080"
WITH_URL = replace(SETTINGS, demand_url=URL)
PROMETHEUS = {"source": "Prometheus", "prometheus": {"address": "http://prometheus:9090"}}
CR = {"apiVersion": API_VERSION, "kind": KIND, "name": "flash"}
DEPLOYMENT = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "flash"}
SERVES = {"type": "ScalingActive", "status": "True"}


def a_scaled(**scaling: Any) -> Any:
    return a_flash(scaling={"maxReplicas": 5, **scaling})


def seen(
    *found: RawObject, keda: Any = "Present", settings: Any = WITH_URL, flash: Any = None, **facts: Any
) -> Observed:
    """A deployment whose only replica serves, and what is known of autoscalers."""
    flash = flash or a_scaled()
    return an_observed(
        flash,
        pods=(a_pod("a", ready=True),),
        nodes=(a_node(),),
        gates={"a": a_gate()},
        loads={"a": a_load(1)},
        children=(a_live_deployment(flash),),
        scalers=Scalers(keda, found, **facts),
        settings=settings,
    )


def a_foreign(kind: str, target: RawObject, name: str = "theirs", owner: RawObject | None = None) -> RawObject:
    metadata = {"name": name, "namespace": "team", "uid": f"uid-of-{name}"}
    if owner:
        metadata["ownerReferences"] = [owner]  # type: ignore[assignment]
    return {"kind": kind, "metadata": metadata, "spec": {"scaleTargetRef": target}}


def live(made: RawObject, *conditions: tuple[str, str, str], **metadata: str) -> RawObject:
    """As the API server shows it, with the conditions of its controller: type, status and reason."""
    status = [{"type": name, "status": value, "reason": reason, "message": "why"} for name, value, reason in conditions]
    return {
        **made,
        "metadata": {**made["metadata"], "uid": "uid-of-scaler", **metadata},
        "status": {"conditions": status} if status else {},
    }


def our_scaled_object(flash: Any = None) -> RawObject:
    flash = flash or a_scaled()
    return scaled_object(flash, flash.spec.scaling, URL)


def our_hpa(flash: Any = None) -> RawObject:
    flash = flash or a_scaled()
    return horizontal_pod_autoscaler(flash, flash.spec.scaling)


READY = ("Ready", "True", "ScaledObjectReady")


def made(decision: ScalerDecision) -> str | None:
    return decision.apply["kind"] if decision.apply else None


@pytest.mark.parametrize(
    ("scaling", "keda", "kind", "reason"),
    [
        ({}, "Present", SCALED_OBJECT, None),
        ({}, "Absent", HPA, None),
        ({"by": "Keda"}, "Present", SCALED_OBJECT, None),
        ({"by": "Keda"}, "Absent", None, "KedaMissing"),
        ({"by": "Hpa"}, "Present", HPA, None),
        ({"by": "Hpa"}, "Absent", HPA, None),
        (PROMETHEUS, "Present", SCALED_OBJECT, None),
        (PROMETHEUS, "Absent", None, "KedaMissing"),
    ],
)
def test_which_autoscaler(scaling: dict[str, Any], keda: str, kind: str | None, reason: str | None) -> None:
    decision = decide_scaler(seen(keda=keda, flash=a_scaled(**scaling)))
    assert made(decision) == kind
    assert (decision.problem.reason if decision.problem else None) == reason


def test_without_its_own_address_the_operator_makes_no_trigger_that_cannot_work() -> None:
    decision = decide_scaler(seen(settings=SETTINGS))
    assert decision.problem is not None
    assert (made(decision), decision.problem.reason) == (None, "DemandAddressMissing")
    assert made(decide_scaler(seen(settings=SETTINGS, flash=a_scaled(**PROMETHEUS)))) == SCALED_OBJECT


def test_what_cannot_be_listed_changes_nothing() -> None:
    ours = live(our_hpa())
    decision = decide_scaler(seen(ours, keda="Unknown", unreadable="HTTP 403: no"))
    assert (decision.apply, decision.delete) == (None, ())
    assert decision.problem is not None
    assert decision.problem.reason == "ScalersUnreadable"


@pytest.mark.parametrize("flash", [a_scaled(), a_flash()], ids=["with scaling", "without it now"])
def test_an_autoscaler_is_not_forgotten_while_none_can_be_listed(flash: Any) -> None:
    """Or nobody would delete it once `spec.scaling` is gone."""
    known = {"kind": HPA, "name": "flash", "uid": "uid-of-scaler"}
    observed = replace(seen(keda="Unknown", unreadable="late", flash=flash), live_status={"scaling": known})
    status = plan(observed).status
    assert status is not None
    assert status["scaling"] == known
    assert "ScalerRecreated" not in [event.reason for event in plan(observed).events]


def test_an_autoscaler_that_is_as_it_should_be_is_not_written_again() -> None:
    observed = seen(live(our_scaled_object(), READY))
    assert (plan(observed).scaler.apply, plan(observed).scaler.delete) == (None, ())


def test_an_edited_one_is_put_right_but_what_others_add_stays() -> None:
    edited = json.loads(json.dumps(live(our_scaled_object(), READY)))
    edited["metadata"]["annotations"]["autoscaling.keda.sh/paused-replicas"] = "2"
    assert decide_scaler(seen(edited)).apply is None
    edited["spec"]["maxReplicaCount"] = 50
    assert made(decide_scaler(seen(edited))) == SCALED_OBJECT


def test_without_scaling_ours_is_deleted_and_nobody_elses() -> None:
    foreign = a_foreign(HPA, CR)
    decision = decide_scaler(seen(live(our_scaled_object()), foreign, flash=a_flash()))
    assert [scaler["metadata"]["name"] for scaler in decision.delete] == ["flash"]
    assert plan(seen(live(our_scaled_object()), flash=a_flash())).is_irreversible


def test_another_kind_replaces_the_former_one() -> None:
    decision = decide_scaler(seen(live(our_hpa())))
    assert made(decision) == SCALED_OBJECT
    assert [scaler["kind"] for scaler in decision.delete] == [HPA]


def test_one_that_is_being_deleted_is_not_deleted_again_nor_applied() -> None:
    ending = live(our_scaled_object(), READY, deletionTimestamp="2026-11-24T11:59:00Z")
    assert decide_scaler(seen(ending, flash=a_flash())).delete == ()
    observed = seen(ending)
    assert decide_scaler(observed).apply is None
    assert condition(plan(observed).status, "ScalingActive")["reason"] == "ScalerPending"


@pytest.mark.parametrize(
    "foreign",
    [
        pytest.param(a_foreign(HPA, CR), id="an HPA on the deployment"),
        pytest.param(a_foreign(SCALED_OBJECT, CR), id="a ScaledObject on it"),
        pytest.param(a_foreign(HPA, DEPLOYMENT), id="an HPA on its Deployment"),
        pytest.param(a_foreign(SCALED_OBJECT, {"name": "flash"}), id="a ScaledObject on a Deployment by default"),
        pytest.param(a_foreign(SCALED_OBJECT, {"name": "other"}, name="flash"), id="one with the name of ours"),
    ],
)
def test_somebody_elses_autoscaler_is_named_and_not_fought(foreign: RawObject) -> None:
    planned = plan(
        seen(foreign, live(our_scaled_object(), READY)) if foreign["metadata"]["name"] != "flash" else seen(foreign)
    )
    shown = condition(planned.status, "ScalingActive")
    assert (shown["status"], shown["reason"]) == ("False", "ScalerConflict")
    assert foreign["metadata"]["name"] in shown["message"]
    assert planned.scaler.apply is None
    assert all(scaler["metadata"]["name"] == "flash" for scaler in planned.scaler.delete)
    assert foreign not in planned.scaler.delete


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(a_foreign(HPA, {**CR, "name": "other"}), id="of another deployment"),
        pytest.param(a_foreign(HPA, {**CR, "apiVersion": "example.com/v1"}), id="of another group"),
        pytest.param(a_foreign(SCALED_OBJECT, {"kind": "StatefulSet", "name": "flash"}), id="of another kind"),
        pytest.param(
            a_foreign(HPA, CR, "keda-hpa-flash", {"kind": SCALED_OBJECT, "uid": "uid-of-scaler"}), id="KEDA's for ours"
        ),
        pytest.param(
            a_foreign(HPA, CR, "keda-hpa-flash", {"kind": SCALED_OBJECT, "uid": "deleted"}),
            id="KEDA's for a former one",
        ),
    ],
)
def test_no_conflict(other: RawObject) -> None:
    assert decide_scaler(seen(other)).problem is None


@pytest.mark.parametrize(("target", "replicas"), [(DEPLOYMENT, 4), (CR, 1)], ids=["Deployment", "deployment"])
def test_the_replicas_of_a_deployment_that_somebody_scales_are_left_to_them(target: RawObject, replicas: int) -> None:
    observed = seen(a_foreign(HPA, target))
    live_deployment = observed.children["Deployment", "flash"]
    live_deployment["spec"] = {**live_deployment["spec"], "replicas": 4}
    (wanted,) = (child for child in desired_children(observed) if child["kind"] == "Deployment")
    assert wanted["spec"]["replicas"] == replicas


@pytest.mark.parametrize(("target", "reason"), [(DEPLOYMENT, "ScalerConflict"), (CR, None)])
def test_without_scaling_only_an_autoscaler_of_the_deployment_itself_is_a_conflict(
    target: RawObject, reason: str | None
) -> None:
    decision = decide_scaler(seen(a_foreign(HPA, target), flash=a_flash()))
    assert (decision.problem.reason if decision.problem else None) == reason
    assert decision.follows_deployment == (reason is not None)
    states = {
        shown["type"]: shown["reason"]
        for shown in (plan(seen(a_foreign(HPA, target), flash=a_flash())).status or {})["conditions"]
    }
    assert states.get("ScalingActive") == reason


@pytest.mark.parametrize(
    ("flash", "status", "replicas", "looks"),
    [
        (a_flash(), {}, 1, False),
        (a_flash(), {}, None, False),
        (a_flash(), {}, 4, True),
        (a_flash(), {"scaling": {"kind": HPA}}, 1, True),
        (a_scaled(), {}, 1, True),
    ],
    ids=["at rest", "no Deployment yet", "somebody scaled the Deployment", "it had one", "it is to have one"],
)
def test_autoscalers_are_looked_at_only_where_there_may_be_one(
    flash: Any, status: RawObject, replicas: int | None, looks: Any
) -> None:
    deployment = {"spec": {"replicas": replicas}} if replicas else None
    assert may_have_scaler(flash, status, deployment) == looks


def test_the_scaled_object() -> None:
    flash = a_scaled(minReplicas=2, scaleDownStabilizationSeconds=120)
    spec = our_scaled_object(flash)["spec"]
    budget = 15 * 60 + 18 * 149
    assert spec["scaleTargetRef"] == CR
    assert (spec["minReplicaCount"], spec["maxReplicaCount"]) == (2, 5)
    assert (spec["cooldownPeriod"], spec["initialCooldownPeriod"]) == (budget, budget)
    assert spec["fallback"] == {"failureThreshold": 3, "replicas": 2, "behavior": "currentReplicasIfHigher"}
    behavior = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    assert behavior["scaleDown"]["stabilizationWindowSeconds"] == 120
    assert behavior["scaleUp"]["stabilizationWindowSeconds"] == 60, "one reading may be too high"
    assert behavior["scaleDown"]["policies"] == [{"type": "Pods", "value": 1, "periodSeconds": 60}]
    (trigger,) = spec["triggers"]
    assert (trigger["type"], trigger["metricType"]) == ("metrics-api", "AverageValue")
    assert trigger["metadata"]["url"] == f"{URL}/demand/team/flash"
    assert (trigger["metadata"]["valueLocation"], trigger["metadata"]["targetValue"]) == ("targetReplicas", "1")
    assert "scalingModifiers" not in spec["advanced"]


def test_the_scaled_object_for_prometheus_has_the_guard_and_reads_no_empty_answer_as_0() -> None:
    credentials = {"triggerAuthentication": "prometheus", "authMode": "Bearer"}
    flash = a_scaled(**{**PROMETHEUS, "prometheus": {"address": "https://p:9090", **credentials}})
    spec = our_scaled_object(flash)["spec"]
    modifiers = spec["advanced"]["scalingModifiers"]
    assert modifiers["formula"] == "loading > 0 ? max(demand - loading, wanted) : demand"
    assert (modifiers["target"], modifiers["metricType"]) == ("1", "AverageValue")
    assert [trigger["name"] for trigger in spec["triggers"]] == ["demand", "loading", "wanted"]
    for trigger in spec["triggers"]:
        metadata = trigger["metadata"]
        assert metadata["ignoreNullValues"] == "false"
        assert (metadata["serverAddress"], metadata["authModes"]) == ("https://p:9090", "bearer")
        assert 'deployment_namespace="team",deployment_name="flash"' in metadata["query"]
        assert trigger["authenticationRef"] == {"name": "prometheus"}


def test_the_hpa() -> None:
    made = our_hpa(a_scaled(by="Hpa"))
    (metric,) = made["spec"]["metrics"]
    assert metric["external"]["metric"] == {
        "name": "flash_operator_deployment_target_replicas",
        "selector": {"matchLabels": {"deployment_namespace": "team", "deployment_name": "flash"}},
    }
    assert metric["external"]["target"] == {"type": "AverageValue", "averageValue": "1"}
    assert made["spec"]["behavior"]["scaleUp"]["stabilizationWindowSeconds"] == 60
    assert made["metadata"]["ownerReferences"][0]["uid"] == "uid-of-flash"


@pytest.mark.parametrize("by", ["Keda", "Hpa"])
def test_how_fast_it_follows_the_demand_is_the_users_choice(by: str) -> None:
    windows = {"scaleUpStabilizationSeconds": 30, "scaleDownStabilizationSeconds": 300, "scaleDownPeriodSeconds": 120}
    flash = a_scaled(by=by, **windows)
    decision = decide_scaler(seen(flash=flash))
    assert decision.apply is not None
    spec = decision.apply["spec"]
    behavior = spec["behavior"] if by == "Hpa" else spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    assert behavior["scaleUp"]["stabilizationWindowSeconds"] == 30
    assert behavior["scaleDown"]["stabilizationWindowSeconds"] == 300
    assert behavior["scaleDown"]["policies"] == [{"type": "Pods", "value": 1, "periodSeconds": 120}]


def keda_hpa(*conditions: tuple[str, str, str]) -> RawObject:
    return live(a_foreign(HPA, CR, "keda-hpa-flash", {"kind": SCALED_OBJECT, "uid": "uid-of-scaler"}), *conditions)


STATES: dict[str, tuple[Observed, str, str]] = {
    "it works": (seen(live(our_scaled_object(), READY)), "True", "ScalerActive"),
    "being made": (seen(), "Unknown", "ScalerPending"),
    "nobody has looked at it": (seen(live(our_scaled_object())), "Unknown", "ScalerPending"),
    "paused": (seen(live(our_scaled_object(), READY, ("Paused", "True", "x"))), "False", "ScalerPaused"),
    "KEDA refuses it": (seen(live(our_scaled_object(), ("Ready", "False", "x"))), "False", "ScalerNotReady"),
    "in fallback": (seen(live(our_scaled_object(), READY, ("Fallback", "True", "x"))), "False", "MetricsMissing"),
    "KEDA's HPA is idle": (seen(live(our_scaled_object(), READY, ("HPAActive", "False", "x"))), "False", "HpaInactive"),
    "KEDA's HPA may not scale": (
        seen(live(our_scaled_object(), READY), keda_hpa(("AbleToScale", "False", "FailedGetScale"))),
        "False",
        "UnableToScale",
    ),
    "KEDA's HPA is at its limit": (
        seen(live(our_scaled_object(), READY), keda_hpa(("ScalingLimited", "True", "TooManyReplicas"))),
        "True",
        "AtMaximum",
    ),
    "at its least": (
        seen(live(our_scaled_object(), READY), keda_hpa(("ScalingLimited", "True", "TooFewReplicas"))),
        "True",
        "ScalerActive",
    ),
    "an HPA without an adapter": (
        seen(live(our_hpa(), ("ScalingActive", "False", "FailedGetExternalMetric")), keda="Absent"),
        "False",
        "MetricsMissing",
    ),
    "an HPA that works": (seen(live(our_hpa(), ("ScalingActive", "True", "x")), keda="Absent"), "True", "ScalerActive"),
    "KEDA is missing": (seen(keda="Absent", flash=a_scaled(by="Keda")), "False", "KedaMissing"),
    "KEDA is too old": (
        seen(refusal="HTTP 500: .spec.fallback.behavior: field not declared in schema"),
        "False",
        "KedaTooOld",
    ),
    "the role is too old": (seen(refusal="HTTP 403: scaledobjects is forbidden"), "False", "ScalerForbidden"),
    "an admission policy": (seen(refusal="HTTP 422: not here"), "False", "ScalerRefused"),
    "scaled to zero by hand": (
        seen(live(our_scaled_object(), READY), flash=a_flash(replicas=0, scaling={"maxReplicas": 5})),
        "False",
        "ScaledToZero",
    ),
    "the gates tell nothing": (replace(seen(live(our_scaled_object(), READY)), loads={}), "False", "DemandUnknown"),
}


@pytest.mark.parametrize(("observed", "status", "reason"), STATES.values(), ids=STATES)
def test_the_condition(observed: Observed, status: str, reason: str) -> None:
    shown = condition(plan(observed).status, "ScalingActive")
    assert (shown["status"], shown["reason"]) == (status, reason)
    assert reason in vocabulary.CONDITION_REASONS
    assert shown["message"]


def test_a_refused_autoscaler_is_no_reason_to_be_unready() -> None:
    shown = plan(seen(refusal="HTTP 422: not here")).status
    assert condition(shown, "Ready")["status"] == "True"


def test_without_scaling_there_is_no_such_condition() -> None:
    status = plan(an_observed(a_flash())).status
    assert status is not None
    assert "ScalingActive" not in {shown["type"] for shown in status["conditions"]}
    assert "scaling" not in status


def after(observed: Observed, *found: RawObject) -> Plan:
    """The plan after the first one's status was written, when these autoscalers are there."""
    assert observed.scalers is not None
    status = plan(observed).status
    assert status is not None
    return plan(replace(observed, live_status=status, scalers=replace(observed.scalers, found=found)))


def test_one_that_was_deleted_by_hand_is_made_again_and_that_is_said_once() -> None:
    observed = seen(live(our_scaled_object(), READY))
    missing = after(observed)
    assert made(missing.scaler) == SCALED_OBJECT
    assert [event.reason for event in missing.events] == ["ScalerRecreated"]
    assert missing.status_interval == 0.0
    assert missing.status is not None
    again = plan(replace(seen(), live_status=missing.status))
    assert [event.reason for event in again.events] == []


def test_a_conflict_is_an_event() -> None:
    observed = seen(live(our_scaled_object(), READY))
    assert "ScalerConflict" in [event.reason for event in after(observed, a_foreign(HPA, CR)).events]


def test_a_steady_autoscaler_needs_no_write() -> None:
    observed = seen(live(our_scaled_object(), READY))
    settled = after(observed, live(our_scaled_object(), READY))
    assert (settled.status, settled.scaler.apply, settled.events) == (None, None, ())
    assert settled.requeue_after == 30.0


def test_scaling_starts_no_other_engines() -> None:
    """A deployment that gets `spec.scaling` keeps its pods."""
    templates = [
        next(child for child in desired_children(an_observed(flash)) if child["kind"] == "Deployment")["spec"][
            "template"
        ]
        for flash in (a_flash(), a_scaled())
    ]
    assert templates[0] == templates[1]
    assert attempt_of_spec(a_flash()) == attempt_of_spec(a_scaled()), "nor is a rejected template tried again"
