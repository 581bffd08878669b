"""Reads the autoscalers of the cluster, and makes and deletes ours.

They are listed when a deployment with `spec.scaling` is looked at, at most every few seconds for all deployments
together. A watch would cost more: every HPA of the cluster reports its status four times a minute.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import structlog

from flash_operator.core.observed.scalers import SCALED_OBJECT, SCALER_KINDS, Scalers
from flash_operator.core.observed.snapshot import RawObject
from flash_operator.core.plan import ObjectRef
from flash_operator.core.scaling.decision import ScalerDecision
from flash_operator.runtime.cluster import ApiError, Cluster, UnreachableError
from flash_operator.runtime.keys import FlashKey

log = structlog.get_logger("flash.scalers")

FRESH_SECONDS = 20.0
"""An answer of that age is not asked for again."""
LIVE_SECONDS = 1.0
"""The same for a plan that does what cannot be undone."""

_Place = tuple[str, str]
"""Kind and name."""


@dataclass
class _Listed:
    """The last lists."""

    at: float = float("-inf")
    keda: Literal["Present", "Absent", "Unknown"] = "Unknown"
    unreadable: str | None = None
    objects: defaultdict[str, dict[_Place, RawObject]] = field(default_factory=lambda: defaultdict(dict))
    """By namespace."""

    def put(self, raw: RawObject) -> None:
        metadata = {key: value for key, value in raw["metadata"].items() if key != "managedFields"}
        self.objects[metadata["namespace"]][raw["kind"], metadata["name"]] = {**raw, "metadata": metadata}


class ScalerCatalogue:
    """All autoscalers of the watched namespaces."""

    def __init__(
        self, cluster: Cluster, namespace: str | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`namespace` is the one that the operator watches; None for all."""
        self._cluster = cluster
        self._watched = namespace
        self._clock = clock
        self._listed = _Listed()
        self._lock = asyncio.Lock()
        self._refusals: dict[FlashKey, str] = {}

    async def of(self, key: FlashKey, *, most_age: float = FRESH_SECONDS) -> Scalers:
        """What concerns one deployment. What cannot be listed is said in the answer, and never an exception."""
        async with self._lock:
            if self._clock() - self._listed.at >= most_age:
                self._listed = await self._list()
        listed = self._listed
        found = listed.objects.get(key.namespace, {})
        objects = tuple(found[place] for place in sorted(found))
        return Scalers(listed.keda, objects, listed.unreadable, self._refusals.get(key))

    async def carry_out(self, key: FlashKey, decision: ScalerDecision) -> bool:
        """Deletes and applies. Returns whether anything has changed, or was refused for another reason than before.

        The refusal of an autoscaler is reported, and stops nothing else. Raises UnreachableError.
        """
        changed = [await self._delete(scaler) for scaler in decision.delete]
        if decision.apply is None:
            self._refusals.pop(key, None)
            return bool(changed)
        return await self._apply(key, decision) or bool(changed)

    def forget(self, key: FlashKey) -> None:
        """The deployment is gone."""
        self._refusals.pop(key, None)

    async def _apply(self, key: FlashKey, decision: ScalerDecision) -> bool:
        desired = decision.apply or {}
        if decision.live is None and await self._is_taken(key, desired):
            return True
        try:
            self._listed.put(await self._cluster.apply(desired))
        except ApiError as error:
            log.warning("refused", key=str(key), child=desired["kind"], error=str(error))
            before = self._refusals.get(key)
            if not error.overloaded:
                self._refusals[key] = str(error)
            return before != self._refusals.get(key)
        self._refusals.pop(key, None)
        return True

    async def _is_taken(self, key: FlashKey, desired: RawObject) -> bool:
        """Somebody has made an object of this name since the last list: an apply would take it over."""
        await self.of(key, most_age=0.0)
        return (desired["kind"], desired["metadata"]["name"]) in self._listed.objects.get(key.namespace, {})

    async def _delete(self, scaler: RawObject) -> bool:
        metadata = scaler["metadata"]
        ref = ObjectRef(scaler["kind"], metadata["namespace"], metadata["name"], metadata.get("uid"))
        await self._cluster.delete(ref)
        # KEDA's finalizer may keep it for a while.
        self._listed.at = float("-inf")
        log.info("deleted", kind=ref.kind, namespace=ref.namespace, name=ref.name)
        return True

    async def _list(self) -> _Listed:
        listed = _Listed(at=self._clock())
        for kind in SCALER_KINDS:
            try:
                objects = await self._cluster.list(kind, self._watched)
            except ApiError as error:
                if kind == SCALED_OBJECT and error.not_found:
                    listed.keda = "Absent"
                    continue
                listed.unreadable = str(error)
            except UnreachableError as error:
                listed.unreadable = str(error)
            else:
                listed.keda = "Present" if kind == SCALED_OBJECT else listed.keda
                for raw in objects:
                    listed.put(raw)
        return listed
