"""Names, labels and ownership that all children share."""

from flash_contracts.names import API_VERSION, DEPLOYMENT_LABEL, FIELD_MANAGER, KIND
from flash_operator.api.v1alpha1 import FlashDeployment
from flash_operator.core.observed.snapshot import RawObject


def selector(flash: FlashDeployment) -> dict[str, str]:
    """The labels by which Service, Deployment, budget and scale find the pods. A selector is for life: keep it."""
    return {DEPLOYMENT_LABEL: flash.name}


def labels(flash: FlashDeployment) -> dict[str, str]:
    return {
        "app.kubernetes.io/name": "deepseek-flash",
        "app.kubernetes.io/instance": flash.name,
        "app.kubernetes.io/managed-by": FIELD_MANAGER,
        **selector(flash),
    }


def metadata(flash: FlashDeployment, name: str) -> RawObject:
    """Metadata of a child: garbage-collected with its owner, so that the operator needs no finalizer."""
    owner = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "name": flash.name,
        "uid": flash.uid,
        "controller": True,
        # blockOwnerDeletion is left out: it would need rights on finalizers, and nothing here must outlive its owner.
    }
    return {
        "name": name,
        "namespace": flash.namespace,
        "labels": labels(flash),
        "ownerReferences": [owner],
    }
