"""The activator's EndpointSlices in the Services of deployments, and which of its ports each deployment has.

They are listed at most every few seconds for all deployments that may be at zero, and not watched, because only
the operator writes them. The slice itself stores the port, so the port survives the operator. Every few minutes all
slices are listed: those left by a former installation are deleted.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable

import structlog

from flash_operator.core.observed.raw import RawObject, without_managed_fields
from flash_operator.core.scaling.activation import SLICE, SLICE_LABELS, choose_port, port_of, slice_names
from flash_operator.runtime.cluster import ApiError, Cluster, UnreachableError
from flash_operator.runtime.keys import FlashKey, parent_key
from flash_operator.runtime.resync import CHART_REMEDY
from flash_operator.runtime.shared_listing import SharedListing

log = structlog.get_logger("flash.activators")

FRESH_SECONDS = 20.0
"""A list of that age is not asked for again."""
RETRY_SECONDS = 60.0
"""After a list that failed."""


class ActivatorSlices:
    """Our slices in the watched namespaces."""

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
        self._listing = SharedListing(self._list, clock)
        self._known: defaultdict[FlashKey, dict[str, RawObject]] = defaultdict(dict)
        """By deployment and name."""
        self._reserved: dict[FlashKey, int] = {}
        self._failure = ""
        """What was logged last."""

    async def run(self, seconds: float, on_found: Callable[[FlashKey], None]) -> None:
        """Lists them about every `seconds`, for ever, and calls `on_found` with each deployment that has one."""
        while True:
            listed = await self._listing.renew()
            for key in list(self._known):
                on_found(key)
            await asyncio.sleep(seconds if listed else RETRY_SECONDS)

    async def of(self, key: FlashKey, *, most_age: float = FRESH_SECONDS) -> list[RawObject]:
        """The deployment's slices. Those of the last list, if they cannot be listed now, or if it is younger.

        `most_age` is in seconds; infinite for whatever is known.
        """
        await self._listing.refresh(most_age)
        return [self._known[key][name] for name in sorted(self._known.get(key, ()))]

    def put(self, raw: RawObject) -> None:
        """A slice was written."""
        key = parent_key(raw) if raw.get("kind") == SLICE else None
        if key is not None:
            self._known[key][raw["metadata"]["name"]] = without_managed_fields(raw)

    def port(self, key: FlashKey, uid: str) -> int | None:
        """The deployment's own port on the activator; None if all are taken."""
        mine = self._reserved.get(key) or self._port_in_slice(key)
        others = {self._port_in_slice(other) for other in self._known if other != key}
        others |= {port for other, port in self._reserved.items() if other != key}
        # Slices of a storage that was restored from a backup may claim one port twice.
        if mine is None or (mine in others and key not in self._reserved):
            mine = choose_port(uid, {port for port in others if port is not None})
        if mine is not None:
            self._reserved[key] = mine
        return mine

    def forget(self, key: FlashKey) -> None:
        """The deployment is gone."""
        self.release(key)
        self._known.pop(key, None)

    def release(self, key: FlashKey) -> None:
        """The deployment does not ask for zero any more. Its port is free once its slice is deleted."""
        self._reserved.pop(key, None)

    def _port_in_slice(self, key: FlashKey) -> int | None:
        return next((port for one in self._known.get(key, {}).values() if (port := port_of(one)) is not None), None)

    async def _list(self) -> bool:
        try:
            listing = await self._cluster.listing(SLICE, self._watched, selector=SLICE_LABELS, keep=self._is_wanted)
        except (ApiError, UnreachableError) as error:
            if str(error) != self._failure:
                self._failure = str(error)
                log.warning("EndpointSlices cannot be listed", error=str(error), remedy=CHART_REMEDY)
            return False
        self._failure = ""
        self._known.clear()
        for raw in listing.items:
            self.put(raw)
        return True

    def _is_wanted(self, raw: RawObject) -> bool:
        """Checks the name too, so that a deployment has two at most, even if other objects have our label."""
        key = parent_key(raw)
        return key is not None and raw["metadata"]["name"] in slice_names(key.name) and self._knows(key)
