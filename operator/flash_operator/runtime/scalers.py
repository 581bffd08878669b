"""Reads the autoscalers of the cluster, and makes and deletes ours.

They are listed when a deployment with `spec.scaling` is reconciled, at most every few seconds for all deployments
together. A watch would cost more: every HPA of the cluster reports its status four times a minute.

Anyone may create HPAs, so memory is bounded: only those are kept that have the name of a known deployment or scale it,
up to a number of bytes for each deployment.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import structlog
from pydantic_core import to_json

from flash_operator.core.observed.kube import uid_of
from flash_operator.core.observed.raw import RawObject, without_managed_fields
from flash_operator.core.observed.scalers import SCALED_OBJECT, SCALER_KINDS, Scalers, target_of
from flash_operator.core.plan import ObjectRef
from flash_operator.core.scaling.decision import ScalerDecision
from flash_operator.runtime.cluster import ApiError, Cluster, UnreachableError
from flash_operator.runtime.keys import FlashKey
from flash_operator.runtime.shared_listing import SharedListing

log = structlog.get_logger("flash.scalers")

FRESH_SECONDS = 20.0
"""An answer of that age is not asked for again."""
LIVE_SECONDS = 1.0
"""The same for a plan that does what cannot be undone."""

MOST_BYTES_OF_DEPLOYMENT = 256 << 10
"""Autoscalers that concern one deployment, as JSON. Two of the usual size take a twentieth of it."""

_Place = tuple[str, str]
"""Kind and name."""


@dataclass
class _Listed:
    """The last lists."""

    keda: Literal["Present", "Absent", "Unknown"] = "Unknown"
    unreadable: str | None = None
    objects: defaultdict[str, dict[_Place, RawObject]] = field(default_factory=lambda: defaultdict(dict))
    """By namespace."""

    def put(self, raw: RawObject) -> None:
        metadata = raw["metadata"]
        self.objects[metadata["namespace"]][raw["kind"], metadata["name"]] = without_managed_fields(raw)


class ScalerCatalogue:
    """All autoscalers of the watched namespaces."""

    def __init__(
        self,
        cluster: Cluster,
        knows: Callable[[FlashKey], bool],
        namespace: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`knows` says whether a deployment exists. `namespace` is the one that the operator watches; None for all."""
        self._cluster = cluster
        self._knows = knows
        self._watched = namespace
        self._listed = _Listed()
        self._listing = SharedListing(self._list, clock)
        self._refusals: dict[FlashKey, str] = {}

    async def of(self, key: FlashKey, *, most_age: float = FRESH_SECONDS) -> Scalers:
        """What concerns one deployment. What cannot be listed is said in the answer, and never an exception."""
        await self._listing.refresh(most_age)
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
        return await self._apply(key, decision.apply, decision.live) or bool(changed)

    def forget(self, key: FlashKey) -> None:
        """The deployment is gone."""
        self._refusals.pop(key, None)

    async def _apply(self, key: FlashKey, desired: RawObject, live: RawObject | None) -> bool:
        """The API server refuses to write into an object that is not the one that was listed."""
        try:
            self._listed.put(await self._cluster.create_or_update(desired, live))
        except ApiError as error:
            log.warning("refused", key=str(key), child=desired["kind"], error=str(error))
            if error.conflict and await self._is_another(key, desired, live):
                return True
            before = self._refusals.get(key)
            if not error.overloaded:
                self._refusals[key] = str(error)
            return before != self._refusals.get(key)
        self._refusals.pop(key, None)
        return True

    async def _is_another(self, key: FlashKey, desired: RawObject, live: RawObject | None) -> bool:
        """Whether somebody has created, replaced or deleted the object of this name since the last list."""
        await self.of(key, most_age=0.0)
        place = desired["kind"], desired["metadata"]["name"]
        return uid_of(self._listed.objects[key.namespace].get(place)) != uid_of(live)

    async def _delete(self, scaler: RawObject) -> bool:
        metadata = scaler["metadata"]
        ref = ObjectRef(scaler["kind"], metadata["namespace"], metadata["name"], metadata.get("uid"))
        await self._cluster.delete(ref)
        # KEDA's finalizer may keep it for a while.
        self._listing.outdate()
        log.info("deleted", kind=ref.kind, namespace=ref.namespace, name=ref.name)
        return True

    async def _list(self) -> bool:
        listed = _Listed()
        for kind in SCALER_KINDS:
            try:
                listing = await self._cluster.listing(kind, self._watched, keep=self._keeper())
            except ApiError as error:
                if kind == SCALED_OBJECT and error.not_found:
                    listed.keda = "Absent"
                    continue
                listed.unreadable = str(error)
            except UnreachableError as error:
                listed.unreadable = str(error)
            else:
                listed.keda = "Present" if kind == SCALED_OBJECT else listed.keda
                for raw in listing.items:
                    listed.put(raw)
        self._listed = listed
        return listed.unreadable is None

    def _keeper(self) -> Callable[[RawObject], bool]:
        """Decides which objects of one list are kept, in the order in which they arrive."""
        taken: Counter[FlashKey] = Counter()

        def keep(raw: RawObject) -> bool:
            metadata = raw["metadata"]
            names = (target_of(raw)[2], metadata["name"])
            key = next((key for name in names if self._knows(key := FlashKey(metadata["namespace"], name))), None)
            if key is None:
                return False
            taken[key] += len(to_json(raw))
            if taken[key] > MOST_BYTES_OF_DEPLOYMENT:
                log.warning("too many or too large autoscalers", key=str(key), kind=raw["kind"], name=metadata["name"])
            return taken[key] <= MOST_BYTES_OF_DEPLOYMENT

        return keep
