"""The operator's workers, queue and store with an API server in memory, which answers writes and tells of them.

For what takes a thousand writes, or an order of answers and events that a real API server cannot be made to have.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import aiohttp
from pydantic_core import from_json, to_json

from flash_contracts.names import API_VERSION, KIND
from flash_operator.core.observed.snapshot import PlanSettings, RawObject
from flash_operator.runtime.api_connection import ApiConnection, ApiError
from flash_operator.runtime.cluster import RESOURCES, Cluster
from flash_operator.runtime.gates import Gates
from flash_operator.runtime.keys import Key
from flash_operator.runtime.metrics import Metrics
from flash_operator.runtime.node_reconciler import NodeReconciler
from flash_operator.runtime.observer import Observer
from flash_operator.runtime.reconciler import Reconciler
from flash_operator.runtime.resync import Resync
from flash_operator.runtime.settings import OperatorSettings
from flash_operator.runtime.store import Store
from flash_operator.runtime.watches import Watches
from flash_operator.runtime.workers import Workers
from flash_operator.runtime.workqueue import WorkQueue

NAMESPACE = "many"
SETTINGS = PlanSettings(engine_image="registry.example/engine:1", quantiser_image="registry.example/quantiser:1")
ANSWER_SECONDS = 0.005
PLURALS = {resource.plural for resource in RESOURCES.values()}


class ApiInMemory:
    """Takes the place of a connection to an API server. An apply or merge replaces the fields that it names."""

    def __init__(self, *, early: bool = False) -> None:
        """`early`: events come before the answers to the writes that caused them."""
        self.early = early
        self.on_event: Callable[[RawObject], None] = lambda _: None
        self.seconds = 0.0
        """CPU that was spent here."""
        self._objects: dict[str, RawObject] = {}
        self._version = 1

    async def request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: RawObject | Sequence[RawObject] | None = None,
        *_: Any,
        **__: Any,
    ) -> RawObject:
        await asyncio.sleep(ANSWER_SECONDS)
        with self._counted():
            if method == "GET":
                return self._read(path)
            before = self._version
            answer = self._written(path, query or {}, _copied(body))
            event, is_news = _copied(answer), self._version != before
        if is_news and self.early:
            self.on_event(event)
            await asyncio.sleep(ANSWER_SECONDS)
        elif is_news:
            asyncio.get_running_loop().call_later(ANSWER_SECONDS, self.on_event, event)
        return _copied(answer)

    def lines(self, path: str, query: Mapping[str, str], seconds: float) -> AsyncGenerator[RawObject, None]:
        raise NotImplementedError(f"{path} {query} {seconds}: `on_event` gets the events")

    @contextmanager
    def _counted(self) -> Iterator[None]:
        began = time.process_time()
        yield
        self.seconds += time.process_time() - began

    def _read(self, path: str) -> RawObject:
        if path.rpartition("/")[2] in PLURALS:
            found = [raw for place, raw in self._objects.items() if place.startswith(f"{path}/")]
            return {"apiVersion": "v1", "items": found, "metadata": {"resourceVersion": str(self._version)}}
        if path not in self._objects:
            raise ApiError(404, f"no {path}")
        return self._objects[path]

    def _written(self, path: str, query: Mapping[str, str], body: RawObject) -> RawObject:
        """The stored object, with a new version if it has changed."""
        place = path.removesuffix("/status")
        before = self._objects.get(place, {"metadata": {}})
        named = body["metadata"] if path == place else {}
        metadata = {**before["metadata"], **named, "resourceVersion": before["metadata"].get("resourceVersion")}
        changed = body if path == place else {"status": body["status"]}
        after = {**before, **changed, "metadata": metadata}
        if query.get("dryRun") or after == before:
            return after
        self._version += 1
        generation = metadata.get("generation", 0) + (after.get("spec") != before.get("spec"))
        metadata |= {"resourceVersion": str(self._version), "generation": generation}
        metadata.setdefault("uid", f"uid-{self._version}")
        self._objects[place] = after
        return after


class OperatorInMemory:
    """An operator without kopf and HTTP."""

    def __init__(self, api: ApiInMemory, session: aiohttp.ClientSession) -> None:
        self.queue: WorkQueue[Key] = WorkQueue()
        self.cluster = Cluster(cast("ApiConnection", api))
        store, metrics, settings = Store(), Metrics(), OperatorSettings.parse(["--p2p-tests=off"])
        self.cluster.answered = store.put
        observer = Observer(store, self.cluster, Gates(session, on_change=self.queue.add), SETTINGS)
        self.reconciler = Reconciler(self.cluster, observer, "in memory")
        nodes = NodeReconciler(self.cluster, settings.p2p_test, "in memory", namespace=None)
        self._resync = Resync(store, self.queue, self.cluster, metrics)
        self._workers = Workers(self.queue, self.reconciler, nodes, self._resync, metrics)
        self._count = settings.workers
        # Named, so that a checkout of before it had them can be measured.
        own: dict[str, Any] = {"own_writes": self.cluster.own_writes} if hasattr(self.cluster, "own_writes") else {}
        self._watches = Watches(store, self.queue, **own)
        self._telling: set[asyncio.Task[None]] = set()
        api.on_event = self.on_event

    async def start(self) -> None:
        self._workers.start(self._count, 3600.0)
        await self._resync.loaded.wait()

    async def stop(self) -> None:
        await self._workers.stop()

    def on_event(self, raw: RawObject) -> None:
        if raw["kind"] == KIND:
            telling = asyncio.create_task(self._watches.on_flash({"type": "MODIFIED", "object": cast("Any", raw)}))
            self._telling.add(telling)
            telling.add_done_callback(self._telling.discard)
        elif raw["kind"] != "Event":
            self._watches.on_child("MODIFIED", raw)


def a_new_deployment(number: int, **spec: Any) -> RawObject:
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": f"flash-{number}", "namespace": NAMESPACE},
        "spec": {"model": {"source": "pvc://models/v4"}, **spec},
    }


def _copied(raw: Any) -> RawObject:
    return cast("RawObject", from_json(to_json(raw)))
