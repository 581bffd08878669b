"""Builds the PodDisruptionBudget: one voluntary disruption at a time; the next waits until the new replica passed.

A budget of one disruption protects nothing where the Deployment asks for one replica: the API server lets that one be
evicted with it as without it. So there is none until the Deployment asks for two. An existing one stays, ready for
the next scale-up.

A replica that cannot start at all, because no node has two free GPUs for it, is no reason to refuse a disruption: with
three replicas for two nodes, no node could ever be drained.
"""

from flash_operator.api.v1alpha1 import FlashDeployment
from flash_operator.core.observed.snapshot import RawObject
from flash_operator.core.resources.identity import metadata, selector


def protects(deployment: RawObject | None, flash: FlashDeployment) -> bool:
    """Whether a budget can keep a replica; `deployment` is the Deployment as it will be, if there will be one."""
    wanted: int = deployment["spec"]["replicas"] if deployment else flash.spec.replicas
    return wanted > 1


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
