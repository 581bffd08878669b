"""Labels, names and owner references of all children."""

from flash_contracts.names import API_VERSION, DEPLOYMENT_LABEL, FIELD_MANAGER, KIND
from flash_operator.api.v1alpha1 import FlashDeployment
from flash_operator.core.observed.snapshot import RawObject


def selector(flash: FlashDeployment) -> dict[str, str]:
    """Selects the pods in Service, Deployment, disruption budget and scale. A Deployment's selector is immutable."""
    return {DEPLOYMENT_LABEL: flash.name}


def labels(flash: FlashDeployment) -> dict[str, str]:
    return {
        "app.kubernetes.io/name": "deepseek-flash",
        "app.kubernetes.io/instance": flash.name,
        "app.kubernetes.io/managed-by": FIELD_MANAGER,
        **selector(flash),
    }


def metadata(flash: FlashDeployment, name: str) -> RawObject:
    """Metadata of a child. The owner reference garbage-collects it, so the operator needs no finalizer."""
    owner = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "name": flash.name,
        "uid": flash.uid,
        "controller": True,
        # Without blockOwnerDeletion, which needs permissions on finalizers.
    }
    return {
        "name": name,
        "namespace": flash.namespace,
        "labels": labels(flash),
        "ownerReferences": [owner],
    }
