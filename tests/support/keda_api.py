"""KEDA's API without KEDA: a CRD with what matters of its own one."""

from typing import Any

from crd_stub import ANYTHING, a_crd_stub

OLD = {"failureThreshold": {"type": "integer"}, "replicas": {"type": "integer"}}
"""Fields of a fallback before KEDA 2.17."""
NEW = {**OLD, "behavior": {"type": "string"}}
NUMBERS = ("minReplicaCount", "maxReplicaCount", "pollingInterval", "cooldownPeriod", "initialCooldownPeriod")


def a_keda_crd(fallback: dict[str, Any] = NEW) -> dict[str, Any]:
    """With a schema, so that the API server refuses fields that it does not know."""
    spec = {
        "type": "object",
        "properties": {
            "scaleTargetRef": ANYTHING,
            "triggers": {"type": "array", "items": ANYTHING},
            "advanced": ANYTHING,
            "fallback": {"type": "object", "properties": fallback},
            **{name: {"type": "integer"} for name in NUMBERS},
        },
    }
    schema = {"type": "object", "properties": {"spec": spec, "status": ANYTHING}}
    return a_crd_stub("ScaledObject", "keda.sh", "v1alpha1", schema=schema)
