"""A namespace on the real API server, and reconciles in it."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

from builders import SETTINGS, a_flash_object
from cluster_fixtures import ControlPlane
from flash_operator.core.observed.snapshot import Observed, PlanSettings
from flash_operator.runtime.activators import Activators
from flash_operator.runtime.cluster import Cluster
from flash_operator.runtime.gates import Gates
from flash_operator.runtime.keys import FlashKey
from flash_operator.runtime.metrics import Metrics
from flash_operator.runtime.observer import Observer
from flash_operator.runtime.reconciler import Reconciler
from flash_operator.runtime.resync import Resync
from flash_operator.runtime.scalers import ScalerCatalogue
from flash_operator.runtime.store import Store
from flash_operator.runtime.workqueue import WorkQueue


class LiveObserver(Observer):
    """Always asks the API server, because in these tests no watch keeps the store up to date."""

    async def observe(self, key: FlashKey, *, live: bool = True) -> Observed | None:
        del live
        return await super().observe(key, live=True)


class Site:
    """A namespace of its own on the API server, and a reconciler for it."""

    def __init__(
        self, server: ControlPlane, cluster: Cluster, gates: Gates, namespace: str, watched: str | None = None
    ) -> None:
        """`watched` is the namespace that the operator watches; None for all."""
        self._watched = watched
        self.server = server
        self.cluster = cluster
        self.namespace = namespace
        self.gates = gates
        self._reconciler = self._of(SETTINGS)
        self._known: set[FlashKey] = set()

    def _of(self, settings: PlanSettings, operator_class: str = "", activators: Activators | None = None) -> Reconciler:
        scalers = ScalerCatalogue(self.cluster, lambda _: True, self._watched, clock=count(step=60).__next__)
        self._observer = LiveObserver(
            Store(),
            self.cluster,
            self.gates,
            settings,
            namespace=self._watched,
            operator_class=operator_class,
            scalers=scalers,
            activators=activators,
        )
        self.cluster.answered = self._observer.slices.put
        return Reconciler(self.cluster, self._observer, "test", clock=count(step=60).__next__)

    async def stored(self) -> Store:
        """What an operator that has just started keeps in memory."""
        store = Store()
        await Resync(store, WorkQueue(), self.cluster, Metrics(), self.namespace).load()
        return store

    def reconciler_of(self, store: Store, clock: Callable[[], float] = time.monotonic) -> Reconciler:
        """One that reads from this store, which no watch keeps up to date."""
        self.cluster.answered = store.put
        return Reconciler(self.cluster, Observer(store, self.cluster, self.gates, SETTINGS), "test", clock)

    @contextmanager
    def operator(
        self, settings: PlanSettings, operator_class: str = "", activators: Activators | None = None
    ) -> Iterator[None]:
        """Reconciles by an operator with these settings, as after an upgrade, of another class, or with activators."""
        former = self._observer, self._reconciler
        self._reconciler = self._of(settings, operator_class, activators)
        yield
        self._observer, self._reconciler = former

    def apply(self, raw: dict[str, Any]) -> None:
        self.server.kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps(raw))

    def apply_flash(self, name: str = "flash", **spec: Any) -> FlashKey:
        raw = a_flash_object(name, **spec)
        raw["metadata"] = {"name": name, "namespace": self.namespace}
        self.apply(raw)
        return FlashKey(self.namespace, name)

    async def reconcile(self, key: FlashKey) -> int:
        """Reconcile, and count the writes. A new deployment is looked at again after a second, as it asks to be."""
        before = self.cluster.writes
        await self._reconciler.reconcile(key)
        if key not in self._known:
            self._known.add(key)
            await self._reconciler.reconcile(key)
        await self._observer.reviews.ask_next()
        return self.cluster.writes - before

    async def look_at_crd(self) -> None:
        """What the operator does every few minutes."""
        await self._observer.reviews.look_at_crd()

    def get(self, *args: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.server.kubectl("get", *args, "-n", self.namespace, "-o", "json").stdout)
        return found
