"""Where pods of a deployment may run: what the engines and the Job that restores an MTP head have in common."""

from flash_operator.api.v1alpha1 import FlashDeployment
from flash_operator.core.observed.snapshot import RawObject


def placement_fields(flash: FlashDeployment) -> RawObject:
    """Fields of a pod's spec. What is not set is left out, so that it is not part of a template."""
    placement = flash.spec.placement
    fields: RawObject = {
        "nodeSelector": dict(placement.node_selector),
        "tolerations": list(placement.tolerations),
        "priorityClassName": placement.priority_class_name,
    }
    return {name: value for name, value in fields.items() if value}
