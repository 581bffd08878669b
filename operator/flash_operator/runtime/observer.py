"""Reads the snapshot that a plan is based on. Always reads live objects.

A watch can miss a deletion (after a 410 kopf lists again and reports only what still exists), so nothing is decided
from events or an index.
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

from flash_contracts.names import DEPLOYMENT_LABEL, KIND, RESTORE_LABEL
from flash_contracts.node_facts import NodeFacts
from flash_operator.api.v1alpha1 import FlashDeployment
from flash_operator.core.observed.snapshot import GpuSupply, Observed, PlanSettings, RawObject
from flash_operator.core.plan import desired_children
from flash_operator.core.resources.image_volume import keeps_image_volumes, to_be_asked
from flash_operator.core.rollout.engine_update import may_update
from flash_operator.runtime.answers import Answers
from flash_operator.runtime.cluster import Cluster
from flash_operator.runtime.gates import Gates
from flash_operator.runtime.keys import FlashKey, is_of_class
from flash_operator.runtime.update_turn import UpdateTurn

CHILD_KINDS = ("Deployment", "ControllerRevision", "Service", "ConfigMap", "PodDisruptionBudget", "Job")


def utc_now() -> datetime:
    return datetime.now(UTC)


class Observer:
    """Reads everything that concerns one deployment."""

    def __init__(
        self,
        cluster: Cluster,
        gates: Gates,
        settings: PlanSettings,
        *,
        namespace: str | None = None,
        operator_class: str = "",
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        """`namespace` is the one that the operator watches; None for all."""
        self._cluster = cluster
        self._gates = gates
        self._settings = settings
        self._clock = clock
        self._watched = namespace
        self._operator_class = operator_class
        self._update_turn = UpdateTurn(cluster, namespace)
        self.answers = Answers()

    async def observe(self, key: FlashKey) -> Observed | None:
        """The snapshot, or None if the deployment is another operator's, deleted or terminating.

        The children of a deleted one are garbage-collected.
        """
        raw = await self._cluster.get(KIND, key.name, key.namespace)
        theirs = raw is not None and not is_of_class(raw, self._operator_class)
        if raw is None or theirs or "deletionTimestamp" in raw["metadata"]:
            self.answers.forget(key)
            return None
        flash = FlashDeployment.from_object(raw)
        labels = {DEPLOYMENT_LABEL: key.name}
        *children, pods = await asyncio.gather(
            *(self._cluster.list(kind, key.namespace, selector=labels) for kind in (*CHILD_KINDS, "Pod"))
        )
        nodes, gates, supply, restore_pods, update_holder = await asyncio.gather(
            self._nodes(pods),
            self._gates.results(pods),
            self._gpu_supply(flash, raw.get("status", {})),
            self._restore_pods(flash),
            self._update_holder(flash, raw.get("status", {})),
        )
        observed = Observed(
            flash=flash,
            live_status=raw.get("status", {}),
            settings=self._settings,
            now=self._clock(),
            children={(child["kind"], child["metadata"]["name"]): child for kind in children for child in kind},
            pods=tuple(pods),
            nodes=nodes,
            gates=gates,
            gpu_supply=supply,
            restore_pods=tuple(restore_pods),
            update_holder=update_holder,
            settled=self.answers.settled(key, (child for kind in children for child in kind)),
        )
        return replace(observed, image_volumes=await self._image_volumes(observed))

    async def _image_volumes(self, observed: Observed) -> bool | None:
        """Dry-runs the real Deployment so it meets the same admission. The apply reports rejections, not this."""
        if not to_be_asked(observed.flash, observed.children.get(("Deployment", observed.flash.name))):
            return None
        wanted = next((child for child in desired_children(observed) if child["kind"] == "Deployment"), None)
        answer = await self._cluster.dry_run(wanted) if wanted else None
        return keeps_image_volumes(answer) if answer else None

    async def _gpu_supply(self, flash: FlashDeployment, live_status: RawObject) -> GpuSupply | None:
        """Read only for a new spec or an engine update, which may cause a rollout that surges.

        Not with a single watched namespace, because pods that hold GPUs in other namespaces cannot be seen.
        """
        if self._watched is not None:
            return None
        same_spec = live_status.get("observedGeneration") in (None, flash.generation)
        if same_spec and not may_update(flash, live_status):
            return None
        nodes = [node for node in await self._cluster.list("Node") if NodeFacts.from_node(node).gpus]
        places = [{"spec.nodeName": node["metadata"]["name"]} for node in nodes]
        waiting = {"spec.nodeName": "", "status.phase": "Pending"}
        pods = await asyncio.gather(*(self._cluster.list("Pod", fields=fields) for fields in (*places, waiting)))
        return GpuSupply(nodes=tuple(nodes), pods=tuple(pod for found in pods for pod in found))

    async def _update_holder(self, flash: FlashDeployment, live_status: RawObject) -> str | None:
        """Asked only where it matters, because asking claims the turn."""
        if flash.spec.rollout.engine_updates != "Paced" or not may_update(flash, live_status):
            return None
        return await self._update_turn.holder(FlashKey(flash.namespace, flash.name))

    async def _restore_pods(self, flash: FlashDeployment) -> list[RawObject]:
        """Listed only if a restore Job is configured."""
        if flash.spec.model.restore_mtp is None:
            return []
        return await self._cluster.list("Pod", flash.namespace, selector={RESTORE_LABEL: flash.name})

    async def _nodes(self, pods: list[RawObject]) -> dict[str, RawObject]:
        names = sorted({pod["spec"]["nodeName"] for pod in pods if pod["spec"].get("nodeName")})
        found = await asyncio.gather(*(self._cluster.get("Node", name) for name in names))
        return {name: node for name, node in zip(names, found, strict=True) if node is not None}
