"""Builds the PodDisruptionBudget: one voluntary disruption at a time; the next waits until the new replica passed."""

from flash_operator.api.v1alpha1 import FlashDeployment
from flash_operator.core.observed.snapshot import RawObject
from flash_operator.core.resources.identity import metadata, selector


def disruption_budget(flash: FlashDeployment) -> RawObject:
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": metadata(flash, flash.name),
        "spec": {
            "maxUnavailable": 1,
            "selector": {"matchLabels": selector(flash)},
            # A replica that is not ready must not block the drain of its node.
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        },
    }
