"""Watches the children of deployments and the pods.

Not by kopf: tenants may create thousands of large objects with our labels. kopf keeps every object that it receives for
seconds, which is enough to fill the operator's memory. Here an event is dropped before the next one is read.

    the watch ends with          | then
    ---------------------------- | ---------------------------------------------------------------------
    its time, a lost connection  | it goes on from the last version that was seen
    410, garbage, an endless line| a whole list, and a watch from there
    403                          | an error in the log; lists at each resync take its place; tried again each minute
    any other answer             | after a back-off, or after Retry-After, from a whole list
"""

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass

import structlog

from flash_operator.core.observed.snapshot import RawObject
from flash_operator.runtime.cluster import ApiError, Cluster, GarbledError, UnreachableError
from flash_operator.runtime.resync import CHART_REMEDY, Resync
from flash_operator.runtime.store import CHILD_KINDS, OURS, Store
from flash_operator.runtime.workqueue import backoff

log = structlog.get_logger("flash.watches")

KINDS = ("Pod", *CHILD_KINDS)

FORBIDDEN_SECONDS = 60.0
FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 30.0
INTERNAL_ERROR = 500


@dataclass
class _Watch:
    """One kind, and how far it was seen."""

    kind: str
    version: str = ""
    """Empty if a whole list is needed first."""
    failures: int = 0
    """Attempts in a row that brought no event. The server sends a bookmark every minute."""
    forbidden: bool = False

    def pause(self) -> float:
        """Seconds until the next attempt."""
        return backoff(self.failures, FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS)


class ChildWatches:
    """One watch for each kind, for as long as this process leads."""

    def __init__(
        self,
        store: Store,
        cluster: Cluster,
        resync: Resync,
        on_event: Callable[[str, RawObject], None],
        namespace: str | None = None,
    ) -> None:
        """`on_event` is called with the type of each event and its object."""
        self._store = store
        self._cluster = cluster
        self._resync = resync
        self._on_event = on_event
        self._namespace = namespace

    async def run(self) -> None:
        """Begins where the first whole lists end."""
        await self._resync.loaded.wait()
        await asyncio.gather(*(self._follow(_Watch(kind, self._store.listed_version(kind))) for kind in KINDS))

    async def _follow(self, watch: _Watch) -> None:
        while True:
            pause = await self._attempt(watch)
            await asyncio.sleep(pause)

    async def _attempt(self, watch: _Watch) -> float:
        """One watch from its begin to its end. Returns the seconds until the next one."""
        try:
            if not watch.version:
                await self._resync.list(watch.kind)
                watch.version = self._store.listed_version(watch.kind)
            watch.failures += 1  # until an event shows that the watch works
            await self._take_events(watch)
        except ApiError as error:
            return self._after_refusal(watch, error)
        except UnreachableError as error:
            if isinstance(error, GarbledError):
                watch.version = ""
            return _logged(watch, error, watch.pause())
        return watch.pause()

    def _after_refusal(self, watch: _Watch, error: ApiError) -> float:
        watch.version = ""
        if error.forbidden:
            if not watch.forbidden:
                watch.forbidden = True
                effect = "changes are noticed only when everything is listed, every few minutes"
                log.error("not allowed to watch", kind=watch.kind, effect=effect, remedy=CHART_REMEDY, error=str(error))
            return FORBIDDEN_SECONDS
        pause = max(watch.pause(), error.retry_after)
        return pause if error.gone else _logged(watch, error, pause)

    async def _take_events(self, watch: _Watch) -> None:
        """Raises ApiError, UnreachableError."""
        async with aclosing(self._cluster.watch(watch.kind, self._namespace, watch.version, selector=OURS)) as events:
            async for event in events:
                kind, raw = _read(watch.kind, event)
                watch.version = str(raw["metadata"]["resourceVersion"])
                watch.failures = 0
                if watch.forbidden:
                    watch.forbidden = False
                    log.info("watching again", kind=watch.kind)
                if kind in ("ADDED", "MODIFIED", "DELETED"):
                    self._on_event(kind, raw)


def _logged(watch: _Watch, error: Exception, pause: float) -> float:
    log.warning("watch ended", kind=watch.kind, error=str(error), retry_seconds=round(pause, 1))
    return pause


def _read(watched: str, event: RawObject) -> tuple[str, RawObject]:
    """The type of an event, and its object. Raises ApiError, GarbledError."""
    kind, raw = event.get("type"), event.get("object")
    if kind == "ERROR" and isinstance(raw, dict):
        raise ApiError(int(raw.get("code") or INTERNAL_ERROR), f"watch of {watched}: {raw.get('message')}")
    metadata = raw.get("metadata") if isinstance(raw, dict) else None
    named = isinstance(metadata, dict) and "resourceVersion" in metadata and (kind == "BOOKMARK" or "name" in metadata)
    if not isinstance(raw, dict) or not named:
        raise GarbledError(f"watch of {watched}: not an event: {str(event)[:80]!r}")
    return str(kind), {**raw, "kind": watched}
