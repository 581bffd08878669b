"""Gathers the snapshot that a plan is based on: from memory, or from the API server where it must be certain."""

import asyncio
import math
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import lru_cache

from pydantic import ValidationError
from pydantic_core import to_json

from flash_contracts.names import DEPLOYMENT_LABEL, KIND, RESTORE_LABEL
from flash_contracts.node_facts import NodeFacts
from flash_operator.api.v1alpha1 import FlashDeployment
from flash_operator.core.observed.activator import ActivatorView, Waiting, asks_for_zero
from flash_operator.core.observed.remembered import Remembered
from flash_operator.core.observed.scalers import Scalers
from flash_operator.core.observed.snapshot import GpuSupply, Observed, PlanSettings, RawObject
from flash_operator.core.plan import desired_children
from flash_operator.core.resources.image_volume import keeps_image_volumes, to_be_asked
from flash_operator.core.rollout.engine_update import may_update
from flash_operator.core.scaling.decision import may_have_scaler
from flash_operator.runtime.activator_slices import FRESH_SECONDS as FRESH_SLICES_SECONDS
from flash_operator.runtime.activator_slices import ActivatorSlices
from flash_operator.runtime.activators import Activators
from flash_operator.runtime.answers import Answers
from flash_operator.runtime.cluster import Cluster
from flash_operator.runtime.gates import Gates
from flash_operator.runtime.keys import FlashKey, is_of_class
from flash_operator.runtime.ready_times import ReadyTimes
from flash_operator.runtime.scalers import FRESH_SECONDS, LIVE_SECONDS, ScalerCatalogue
from flash_operator.runtime.spec_reviews import SpecReviews
from flash_operator.runtime.store import CHILD_KINDS, Store
from flash_operator.runtime.update_turn import UpdateTurn

MOST_REMEMBERED = 64
"""Deployments whose results are remembered: those of the last seconds, because a new one is looked at twice in one."""
MOST_REMEMBERED_BYTES = 8 << 10
"""Only for specs of at most this size, because a tenant's may have a MiB."""
MOST_BYTES_OF_CHILDREN = 64 << 10
"""Likewise: a template in force, and what is known of the last good one, come from objects that tenants may edit."""


def utc_now() -> datetime:
    return datetime.now(UTC)


class UnreadableSpecError(RuntimeError):
    """This operator cannot understand a deployment's spec. The message names the fields."""

    def __init__(self, raw: RawObject, problem: str) -> None:
        super().__init__(problem)
        self.raw = raw


class Observer:
    """Gathers everything that concerns one deployment."""

    def __init__(
        self,
        store: Store,
        cluster: Cluster,
        gates: Gates,
        settings: PlanSettings,
        *,
        namespace: str | None = None,
        operator_class: str = "",
        clock: Callable[[], datetime] = utc_now,
        scalers: ScalerCatalogue | None = None,
        activators: Activators | None = None,
    ) -> None:
        """`namespace` is the one that the operator watches; None for all. `activators`: None where there are none."""
        self._store = store
        self._cluster = cluster
        self.gates = gates
        self._settings = settings
        self._clock = clock
        self._watched = namespace
        self.scalers = scalers or ScalerCatalogue(cluster, store.knows, namespace)
        self._activators = activators
        self.slices = ActivatorSlices(cluster, store.knows, namespace)
        self._operator_class = operator_class
        self._update_turn = UpdateTurn(cluster, namespace, operator_class)
        self._ready_times = ReadyTimes()
        self.answers = Answers()
        self.reviews = SpecReviews(cluster, self._stored)
        self._remembered = lru_cache(MOST_REMEMBERED)(lambda _key: Remembered())

    async def observe(self, key: FlashKey, *, live: bool = False) -> Observed | None:
        """The snapshot, or None if the deployment is another operator's, deleted, terminating, or too large to keep.

        The children of a deleted one are garbage-collected. `live` reads everything from the API server first. Raises
        UnreadableSpecError.
        """
        if live:
            await self._refresh(key)
        raw = self._stored(key)
        if raw is None or self._store.lacks_children(key):
            self.forget(key)
            return None
        self.reviews.notice(raw)
        remembered = self._remembered_of(key, raw)
        flash, status = _readable(raw, remembered), raw.get("status", {})
        slices = await self._slices_of(key, flash, live=live)
        children = [*(child for kind in CHILD_KINDS for child in self._store.of(key, kind)), *slices]
        pods = self._pods(key, DEPLOYMENT_LABEL)
        gates, supply, update_holder = await asyncio.gather(
            self.gates.results(key, pods), self._gpu_supply(flash, status), self._update_holder(flash, status)
        )
        deployment = self._store.get("Deployment", key.name, key.namespace)
        has_scaler = may_have_scaler(flash, status, deployment)
        observed = Observed(
            flash=flash,
            live_status=status,
            settings=self._settings,
            now=self._clock(),
            children={(child["kind"], child["metadata"]["name"]): child for child in children},
            pods=pods,
            nodes=self._nodes(pods),
            gates=gates,
            loads=self.gates.loads(key),
            scalers=await self._scalers_of(key, live=live) if has_scaler else None,
            activator=await self._activator_of(key, flash),
            ready_seconds=self._ready_seconds(key, flash, pods),
            gpu_supply=supply,
            restore_pods=self._pods(key, RESTORE_LABEL),
            update_holder=update_holder,
            settled=self.answers.settled(key, children),
            objection=self.reviews.known(key),
            remembered=remembered,
        )
        return replace(observed, image_volumes=await self._image_volumes(observed))

    def _remembered_of(self, key: FlashKey, raw: RawObject) -> Remembered:
        is_small = len(to_json(raw["spec"])) <= MOST_REMEMBERED_BYTES
        are_small = self._store.bytes_of_children(key) <= MOST_BYTES_OF_CHILDREN
        return self._remembered(key) if is_small and are_small else Remembered()

    def _stored(self, key: FlashKey) -> RawObject | None:
        """The deployment in memory; None if it is gone, or another operator's."""
        raw = self._store.get(KIND, key.name, key.namespace)
        return raw if raw is not None and self._is_ours(raw) else None

    def _is_ours(self, raw: RawObject) -> bool:
        return is_of_class(raw, self._operator_class) and "deletionTimestamp" not in raw["metadata"]

    async def _scalers_of(self, key: FlashKey, *, live: bool) -> Scalers:
        return await self.scalers.of(key, most_age=LIVE_SECONDS if live else FRESH_SECONDS)

    async def _slices_of(self, key: FlashKey, flash: FlashDeployment, *, live: bool) -> list[RawObject]:
        """Of a deployment that does not ask for zero, what is left of the time when it did."""
        if not asks_for_zero(flash):
            self.slices.release(key)
            left = await self.slices.of(key, most_age=math.inf)
            return await self.slices.of(key, most_age=0.0) if left and live else left
        return await self.slices.of(key, most_age=LIVE_SECONDS if live else FRESH_SLICES_SECONDS)

    async def _activator_of(self, key: FlashKey, flash: FlashDeployment) -> ActivatorView | None:
        if self._activators is None or not asks_for_zero(flash):
            return None
        self._activators.note(key, flash.spec.replicas)
        addresses = await self._activators.addresses()
        return ActivatorView(addresses, self.slices.port(key, flash.uid), self._activators.waiting(key))

    def _ready_seconds(self, key: FlashKey, flash: FlashDeployment, pods: tuple[RawObject, ...]) -> dict[str, float]:
        if self._activators is None or not asks_for_zero(flash):
            self._ready_times.forget(key)
            return {}
        return self._ready_times.seconds(key, pods)

    def waiting(self, key: FlashKey) -> Waiting | None:
        """What waits in the activators; None if nothing can, or it is unknown."""
        return self._activators.waiting(key) if self._activators else None

    def forget(self, key: FlashKey) -> None:
        """The deployment is gone, or another operator's."""
        self.slices.forget(key)
        if self._activators:
            self._activators.forget(key)
        self._ready_times.forget(key)
        self.answers.forget(key)
        self.reviews.forget(key)
        self.scalers.forget(key)
        self.gates.forget(key)

    async def _refresh(self, key: FlashKey) -> None:
        """Reads the deployment, what belongs to it, and its nodes from the API server into the store."""
        # First, because the store keeps nothing of a deployment that it does not know.
        await self._refresh_object(KIND, key.name, key.namespace)
        await asyncio.gather(
            *(self._refresh_owned(key, kind, DEPLOYMENT_LABEL) for kind in (*CHILD_KINDS, "Pod")),
            self._refresh_owned(key, "Pod", RESTORE_LABEL),
        )
        names = {pod["spec"]["nodeName"] for pod in self._store.of(key, "Pod") if pod["spec"].get("nodeName")}
        await asyncio.gather(*(self._refresh_object("Node", name) for name in sorted(names)))

    async def _refresh_object(self, kind: str, name: str, namespace: str = "") -> None:
        found = await self._cluster.get(kind, name, namespace)
        if found is None:
            self._store.discard(kind, name, namespace)
        else:
            self._store.put(found)

    async def _refresh_owned(self, key: FlashKey, kind: str, label: str) -> None:
        selector = {label: key.name}
        listing = await self._cluster.listing(kind, key.namespace, selector=selector, keep=self._store.is_wanted)
        self._store.replace_selected(key, kind, selector, listing)

    def _pods(self, key: FlashKey, label: str) -> tuple[RawObject, ...]:
        """The deployment's replicas, or the pods of its Job that restores an MTP head."""
        pods = self._store.of(key, "Pod")
        return tuple(pod for pod in pods if pod["metadata"]["labels"].get(label) == key.name)

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

    def _nodes(self, pods: tuple[RawObject, ...]) -> dict[str, RawObject]:
        names = {pod["spec"]["nodeName"] for pod in pods if pod["spec"].get("nodeName")}
        found = ((name, self._store.get("Node", name)) for name in names)
        return {name: node for name, node in found if node is not None}


def _readable(raw: RawObject, remembered: Remembered) -> FlashDeployment:
    metadata = raw["metadata"]
    # Annotations carry orders of a user, and do not change the generation.
    inputs = metadata["uid"], metadata.get("generation"), metadata.get("annotations"), raw["spec"]
    try:
        return remembered.result("deployment", inputs, lambda: FlashDeployment.from_object(raw))
    except ValidationError as error:
        found = (f"spec.{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors(include_url=False))
        raise UnreadableSpecError(raw, "; ".join(found)) from error
