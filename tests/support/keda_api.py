"""KEDA's API without KEDA: a CRD with what matters of its own one."""

from typing import Any

ANYTHING = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
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
    version = {"name": "v1alpha1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "scaledobjects.keda.sh"},
        "spec": {
            "group": "keda.sh",
            "scope": "Namespaced",
            "names": {"kind": "ScaledObject", "plural": "scaledobjects", "singular": "scaledobject"},
            "versions": [version],
        },
    }
