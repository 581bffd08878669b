"""Builds the autoscaler of a deployment: a ScaledObject for KEDA, or a HorizontalPodAutoscaler.

Both aim at the deployment's own scale subresource, and follow one number: the target of `demand`. With source Operator
KEDA asks the operator for it. With source Prometheus it reads the parts and puts them together by the same rule, and
the HPA reads it as an external metric.
"""

import json
from typing import Any

from flash_contracts.names import API_VERSION, KIND
from flash_operator.api.scaling_spec import ScalingSpec
from flash_operator.api.v1alpha1 import FlashDeployment
from flash_operator.core.observed.scalers import HPA, SCALED_OBJECT
from flash_operator.core.observed.snapshot import RawObject
from flash_operator.core.resources.drift import with_hash
from flash_operator.core.resources.gate_config import startup_seconds
from flash_operator.core.resources.identity import metadata

WANTED_METRIC = "flash_operator_deployment_wanted_replicas"
LOADING_METRIC = "flash_operator_deployment_loading_replicas"
READY_METRIC = "flash_operator_deployment_ready_replicas"
DEMAND_METRIC = "flash_operator_deployment_demand_replicas"
TARGET_METRIC = "flash_operator_deployment_target_replicas"

NAMESPACE_LABEL = "deployment_namespace"
NAME_LABEL = "deployment_name"
"""Not `namespace`: Prometheus has its own label of that name for what it scrapes."""

POLLING_SECONDS = 15
WAKING_POLLING_SECONDS = 5
"""The same where a deployment may be at zero: that long a request waits until KEDA notices it."""
FAILED_READINGS = 3
"""Readings that must fail in a row until KEDA falls back to the current replicas."""

GUARD = "loading > 0 ? max(demand - loading, wanted) : demand"
"""While a replica loads: never fewer than are wanted, and more only for demand beyond those that load."""


def scaled_object(flash: FlashDeployment, scaling: ScalingSpec, demand_url: str, *, to_zero: bool = False) -> RawObject:
    """`demand_url` is the operator's address as KEDA reaches it. `to_zero`: something wakes the deployment again."""
    from_operator = scaling.source == "Operator"
    modifiers = {"formula": GUARD, "target": "1", "activationTarget": "0", "metricType": "AverageValue"}
    triggers = [_operator_trigger(flash, demand_url)] if from_operator else _prometheus_triggers(flash, scaling)
    cooldown = idle_seconds(flash)
    return with_hash(
        {
            "apiVersion": "keda.sh/v1alpha1",
            "kind": SCALED_OBJECT,
            "metadata": metadata(flash, flash.name),
            "spec": {
                "scaleTargetRef": _target(flash),
                "minReplicaCount": 0 if to_zero else least(scaling),
                "maxReplicaCount": scaling.max_replicas,
                "pollingInterval": WAKING_POLLING_SECONDS if to_zero else POLLING_SECONDS,
                # Also for a ScaledObject that somebody edits to scale to zero.
                "cooldownPeriod": cooldown,
                "initialCooldownPeriod": cooldown,
                **_fallback(scaling, to_zero=to_zero),
                "advanced": {
                    "horizontalPodAutoscalerConfig": {"behavior": _behavior(scaling)},
                    **({} if from_operator else {"scalingModifiers": modifiers}),
                },
                "triggers": triggers,
            },
        }
    )


def horizontal_pod_autoscaler(flash: FlashDeployment, scaling: ScalingSpec) -> RawObject:
    selector = {"matchLabels": {NAMESPACE_LABEL: flash.namespace, NAME_LABEL: flash.name}}
    metric = {
        "type": "External",
        "external": {
            "metric": {"name": TARGET_METRIC, "selector": selector},
            "target": {"type": "AverageValue", "averageValue": "1"},
        },
    }
    return with_hash(
        {
            "apiVersion": "autoscaling/v2",
            "kind": HPA,
            "metadata": metadata(flash, flash.name),
            "spec": {
                "scaleTargetRef": _target(flash),
                "minReplicas": least(scaling),
                "maxReplicas": scaling.max_replicas,
                "metrics": [metric],
                "behavior": _behavior(scaling),
            },
        }
    )


def _fallback(scaling: ScalingSpec, *, to_zero: bool) -> RawObject:
    """What KEDA does while it cannot read the demand: it keeps the replicas.

    At zero it counts a fallback as demand, whatever its behaviour, and would start every deployment that sleeps while
    the operator is away for some readings. Without a fallback it neither starts nor stops one (seen with KEDA 2.21).
    """
    if to_zero:
        return {}
    replicas = least(scaling)
    known = {"failureThreshold": FAILED_READINGS, "replicas": replicas, "behavior": "currentReplicasIfHigher"}
    return {"fallback": known}


def least(scaling: ScalingSpec) -> int:
    """The fewest replicas that run, if the deployment is not at zero."""
    return max(scaling.min_replicas, 1)


def idle_seconds(flash: FlashDeployment) -> int:
    """How long there must have been no request until the last replica is stopped."""
    scaling = flash.spec.scaling
    asked = scaling.idle.after_seconds if scaling and scaling.idle else None
    return asked or startup_seconds(flash.spec)


def _target(flash: FlashDeployment) -> RawObject:
    return {"apiVersion": API_VERSION, "kind": KIND, "name": flash.name}


def _behavior(scaling: ScalingSpec) -> RawObject:
    """Up in one step, because a replica takes minutes to load. Down slowly, for the same reason.

    Up only after a while: gates are read one after the other, so a user whose next request goes to another replica may
    be counted twice, and any single reading may be a replica too high (docs/measurements/scaling.md).
    """
    return {
        "scaleUp": {
            "stabilizationWindowSeconds": scaling.scale_up_stabilization_seconds,
            "policies": [{"type": "Pods", "value": 4, "periodSeconds": 60}],
        },
        "scaleDown": {
            "stabilizationWindowSeconds": scaling.scale_down_stabilization_seconds,
            "policies": [{"type": "Pods", "value": 1, "periodSeconds": scaling.scale_down_period_seconds}],
        },
    }


def _operator_trigger(flash: FlashDeployment, demand_url: str) -> RawObject:
    """The operator answers with an error while the demand is unknown, which KEDA never reads as a number."""
    return {
        "type": "metrics-api",
        "name": "target",
        "metricType": "AverageValue",
        "metadata": {
            "url": f"{demand_url.rstrip('/')}/demand/{flash.namespace}/{flash.name}",
            "valueLocation": "targetReplicas",
            "targetValue": "1",
            "activationTargetValue": "0",
        },
    }


def _prometheus_triggers(flash: FlashDeployment, scaling: ScalingSpec) -> list[RawObject]:
    metrics = {"demand": DEMAND_METRIC, "loading": LOADING_METRIC, "wanted": WANTED_METRIC}
    return [_prometheus_trigger(flash, scaling, name, metric) for name, metric in metrics.items()]


def _prometheus_trigger(flash: FlashDeployment, scaling: ScalingSpec, name: str, metric: str) -> RawObject:
    source = scaling.prometheus
    labels = ",".join(f"{key}={json.dumps(value)}" for key, value in _labels(flash).items())
    trigger: dict[str, Any] = {
        "type": "prometheus",
        "name": name,
        "metricType": "AverageValue",
        "metadata": {
            "serverAddress": source.address if source else "",
            # Two operators may be scraped; only the one that leads has the metric.
            "query": f"max({metric}{{{labels}}})",
            "threshold": "1",
            # Without it, KEDA reads an empty answer as 0.
            "ignoreNullValues": "false",
            **({"authModes": source.auth_mode.lower()} if source and source.auth_mode else {}),
        },
    }
    if source and source.trigger_authentication:
        trigger["authenticationRef"] = {"name": source.trigger_authentication}
    return trigger


def _labels(flash: FlashDeployment) -> dict[str, str]:
    return {NAMESPACE_LABEL: flash.namespace, NAME_LABEL: flash.name}
