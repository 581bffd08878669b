"""Replaces what is kept in memory by whole lists: at the start, periodically, and after a watch has begun anew.

Watches can lose a deletion, lists cannot: after a 410 kopf lists again and reports only what still exists.
"""

import asyncio
import random
import time

import structlog

from flash_contracts.names import KIND
from flash_contracts.node_facts import NodeFacts
from flash_operator.core.observed.snapshot import RawObject
from flash_operator.runtime.cluster import ApiError, Cluster, UnreachableError
from flash_operator.runtime.keys import Key, NodeKey, is_of_class, key_of, parent_key
from flash_operator.runtime.metrics import Metrics
from flash_operator.runtime.store import KINDS, OURS, Store
from flash_operator.runtime.workqueue import WorkQueue

log = structlog.get_logger("flash.resync")

RETRY_SECONDS = 5.0
RELIST_SECONDS = 60.0
"""A kind is listed again at most this often. kopf lists every kind once when it starts."""
CLUSTER_SCOPED = ("Node",)

CHART_REMEDY = "upgrade the chart together with the image, or give the operator's role the verb"


class Resync:
    """Loads the store, and enqueues every key."""

    def __init__(
        self,
        store: Store,
        queue: WorkQueue[Key],
        cluster: Cluster,
        metrics: Metrics,
        namespace: str | None = None,
        operator_class: str = "",
    ) -> None:
        """`namespace` is the one that the operator watches; None for all."""
        self._store = store
        self._queue = queue
        self._cluster = cluster
        self._metrics = metrics
        self._namespace = namespace
        self._operator_class = operator_class
        self._listed_at: dict[str, float] = {}
        self._wanted: asyncio.Queue[str] = asyncio.Queue()
        self._one_at_a_time = asyncio.Lock()
        """The store takes a list that is older than the one before it for that of a restored backup."""
        self.loaded = asyncio.Event()
        """Set once everything was listed. Before that, what is missing in the store may exist."""

    async def run(self, seconds: float) -> None:
        """Lists everything about every `seconds`, and single kinds in between when `relist` asks for them."""
        while True:
            again = seconds * random.uniform(0.8, 1.2)  # noqa: S311 - jitter
            try:
                await self.load()
            except (ApiError, UnreachableError) as error:
                again = min(again, RETRY_SECONDS)
                log.warning("resync failed", error=str(error), retry_seconds=round(again, 1))
            await self._relist_for(again)

    async def load(self) -> None:
        """Lists everything, and enqueues every key. Raises ApiError, UnreachableError."""
        for kind in KINDS:
            await self.list(kind)
        self.loaded.set()
        for raw in self._store.all(KIND):
            if is_of_class(raw, self._operator_class):
                self._queue.add_patient(key_of(raw))
        for raw in self._store.all("Node"):
            if NodeFacts.from_node(raw).gpus:
                self._queue.add_patient(NodeKey(raw["metadata"]["name"]))
        self._metrics.resynced()

    def relist(self, kind: str) -> None:
        """A watch has begun anew, so it may have missed deletions."""
        listed = self._listed_at.get(kind)
        if listed is not None and time.monotonic() - listed > RELIST_SECONDS:
            self._listed_at[kind] = time.monotonic()
            self._wanted.put_nowait(kind)

    async def _relist_for(self, seconds: float) -> None:
        """Lists the kinds that are asked for, for so many seconds."""
        deadline = asyncio.get_running_loop().time() + seconds
        while True:
            try:
                async with asyncio.timeout_at(deadline):
                    kind = await self._wanted.get()
            except TimeoutError:
                return
            try:
                await self.list(kind)
            except (ApiError, UnreachableError) as error:
                log.warning("relist failed", kind=kind, error=str(error))

    async def list(self, kind: str) -> None:
        """Replaces what is kept of this kind. Raises ApiError, UnreachableError."""
        async with self._one_at_a_time:
            self._listed_at[kind] = time.monotonic()
            namespace = None if kind in CLUSTER_SCOPED else self._namespace
            selector = None if kind in (KIND, *CLUSTER_SCOPED) else OURS
            try:
                listing = await self._cluster.listing(kind, namespace, selector=selector, keep=self._store.is_wanted)
            except ApiError as error:
                if error.forbidden:
                    effect = "nothing is reconciled until everything can be listed"
                    log.error("not allowed to list", kind=kind, effect=effect, remedy=CHART_REMEDY)  # noqa: TRY400
                raise
            vanished = self._store.replace(kind, listing)
        for raw in vanished:
            self._enqueue_for(kind, raw)

    def _enqueue_for(self, kind: str, vanished: RawObject) -> None:
        log.info("deletion missed by the watch", kind=kind, name=vanished["metadata"]["name"])
        metadata = vanished["metadata"]
        node = metadata["name"] if kind == "Node" else vanished.get("spec", {}).get("nodeName")
        if node:
            self._queue.add(NodeKey(node))
        key = key_of(vanished) if kind == KIND else parent_key(vanished)
        if key is not None:
            self._queue.add(key)
