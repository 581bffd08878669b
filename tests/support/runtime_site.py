"""A namespace on the real API server, and reconciles in it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from builders import SETTINGS, a_flash_object
from cluster_fixtures import ControlPlane
from flash_operator.core.observed.snapshot import PlanSettings
from flash_operator.runtime.cluster import Cluster
from flash_operator.runtime.gates import Gates
from flash_operator.runtime.keys import FlashKey
from flash_operator.runtime.observer import Observer
from flash_operator.runtime.reconciler import Reconciler


class Site:
    """A namespace of its own on the API server, and a reconciler for it."""

    def __init__(self, server: ControlPlane, cluster: Cluster, gates: Gates, namespace: str) -> None:
        self.server = server
        self.cluster = cluster
        self.namespace = namespace
        self._gates = gates
        self._reconciler = self._of(SETTINGS)

    def _of(self, settings: PlanSettings, operator_class: str = "") -> Reconciler:
        observer = Observer(self.cluster, self._gates, settings, operator_class=operator_class)
        return Reconciler(self.cluster, observer, "test")

    @contextmanager
    def operator(self, settings: PlanSettings, operator_class: str = "") -> Iterator[None]:
        """Reconciles by an operator with these settings, as after an upgrade, or of another class."""
        former, self._reconciler = self._reconciler, self._of(settings, operator_class)
        yield
        self._reconciler = former

    def apply(self, raw: dict[str, Any]) -> None:
        self.server.kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps(raw))

    def apply_flash(self, name: str = "flash", **spec: Any) -> FlashKey:
        raw = a_flash_object(name, **spec)
        raw["metadata"] = {"name": name, "namespace": self.namespace}
        self.apply(raw)
        return FlashKey(self.namespace, name)

    async def reconcile(self, key: FlashKey) -> int:
        """Reconcile, and count the writes."""
        before = self.cluster.writes
        await self._reconciler.reconcile(key)
        return self.cluster.writes - before

    def get(self, *args: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.server.kubectl("get", *args, "-n", self.namespace, "-o", "json").stdout)
        return found
