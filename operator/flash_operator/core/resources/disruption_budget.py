"""Builds the PodDisruptionBudget: one voluntary disruption at a time; the next waits until the new replica passed.

A replica that cannot start at all, because no node has two free GPUs for it, is no reason to refuse a disruption: with
three replicas for two nodes, no node could ever be drained.
"""

from flash_operator.api.v1alpha1 import FlashDeployment
from flash_operator.core.observed.snapshot import RawObject
from flash_operator.core.resources.identity import metadata, selector


def disruption_budget(flash: FlashDeployment, stuck: int = 0) -> RawObject:
    """`stuck` replicas cannot start without somebody's help."""
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": metadata(flash, flash.name),
        "spec": {
            "maxUnavailable": 1 + stuck,
            "selector": {"matchLabels": selector(flash)},
            # A replica that is not ready must not block the drain of its node.
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        },
    }
