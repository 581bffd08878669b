"""Gathers the snapshot that a plan is made from: always read anew, never remembered.

A watch can lose a deletion for ever (after a 410 kopf relists and tells only of what is still there), so nothing is
decided from events or from an index.
"""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime

from flash_operator.api.names import DEPLOYMENT_LABEL, KIND
from flash_operator.api.v1alpha1 import FlashDeployment
from flash_operator.core.observed import Observed, PlanSettings, RawObject
from flash_operator.runtime.cluster import Cluster
from flash_operator.runtime.gates import Gates
from flash_operator.runtime.keys import FlashKey

CHILD_KINDS = ("Deployment", "Service", "ConfigMap", "PodDisruptionBudget")


def utc_now() -> datetime:
    return datetime.now(UTC)


class Observer:
    """Looks at everything that concerns one deployment."""

    def __init__(
        self, cluster: Cluster, gates: Gates, settings: PlanSettings, clock: Callable[[], datetime] = utc_now
    ) -> None:
        self._cluster = cluster
        self._gates = gates
        self._settings = settings
        self._clock = clock

    async def observe(self, key: FlashKey) -> Observed | None:
        """The snapshot, or None for a deployment that is gone or on its way out (its children go with it)."""
        raw = await self._cluster.get(KIND, key.name, key.namespace)
        if raw is None or "deletionTimestamp" in raw["metadata"]:
            return None
        flash = FlashDeployment.from_object(raw)
        labels = {DEPLOYMENT_LABEL: key.name}
        *children, pods = await asyncio.gather(
            *(self._cluster.list(kind, key.namespace, selector=labels) for kind in (*CHILD_KINDS, "Pod"))
        )
        nodes, gates = await asyncio.gather(self._nodes(pods), self._gates.results(pods))
        return Observed(
            flash=flash,
            live_status=raw.get("status", {}),
            settings=self._settings,
            now=self._clock(),
            children={(child["kind"], child["metadata"]["name"]): child for kind in children for child in kind},
            pods=tuple(pods),
            nodes=nodes,
            gates=gates,
        )

    async def _nodes(self, pods: list[RawObject]) -> dict[str, RawObject]:
        names = sorted({pod["spec"]["nodeName"] for pod in pods if pod["spec"].get("nodeName")})
        found = await asyncio.gather(*(self._cluster.get("Node", name) for name in names))
        return {name: node for name, node in zip(names, found, strict=True) if node is not None}
