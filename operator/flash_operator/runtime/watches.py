"""Uses kopf as an informer: it lists, watches and reconnects; each handler stores the object and enqueues a key.

kopf's change-detecting handlers, indexes, timers, daemons and peering are not used: they write annotations and
finalizers on objects, and keep objects that were deleted unnoticed (docs/decisions/).
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import kopf
import structlog

from flash_contracts.names import GROUP, KIND, PLURAL, VERSION
from flash_contracts.node_facts import NodeFacts
from flash_operator.core.observed.kube import has_ended
from flash_operator.core.observed.snapshot import RawObject
from flash_operator.runtime.cluster import path_of
from flash_operator.runtime.keys import Key, NodeKey, is_of_class, key_of, parent_key
from flash_operator.runtime.own_writes import OwnWrites
from flash_operator.runtime.store import Store
from flash_operator.runtime.workqueue import WorkQueue

log = structlog.get_logger("flash.watches")

PAGE = 100
"""Objects in one answer to kopf."""

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


class NoDiffBase(kopf.DiffBaseStorage):
    """Disables kopf's "essence" of every object on every event, which it builds to detect changes."""

    def build(self, *, body: kopf.Body, extra_fields: Any = None) -> kopf.BodyEssence:
        return kopf.BodyEssence()

    def fetch(self, *, body: kopf.Body) -> kopf.BodyEssence | None:
        return None

    def store(self, *, body: kopf.Body, patch: kopf.Patch, essence: kopf.BodyEssence) -> None:
        raise RuntimeError("a change-detecting handler was registered; the operator must have none")


WATCHED = (
    (GROUP, VERSION, PLURAL, KIND),
    ("", "v1", "nodes", "Node"),
)
"""Group, version, plural and kind of what kopf watches. `child_watches` does the rest."""


class Watches:
    """The registry for `kopf.operator`. Its events update the store."""

    def __init__(
        self,
        store: Store,
        queue: WorkQueue[Key],
        relist: Callable[[str], None] = lambda _: None,
        operator_class: str = "",
        own_writes: OwnWrites | None = None,
    ) -> None:
        """`relist` is called with a kind whose watch has begun anew. Events of `own_writes` are no news."""
        self._store = store
        self._queue = queue
        self._relist = relist
        self._operator_class = operator_class
        self._own_writes = own_writes or OwnWrites()
        self.registry = kopf.OperatorRegistry()
        handlers = {KIND: self.on_flash, "Node": self.on_node}
        for group, version, plural, kind in WATCHED:
            kopf.on.event(group, version, plural, registry=self.registry)(handlers[kind])
        kopf.on.login(registry=self.registry)(_login)

    def on_lifecycle(self, start: Callable[[], None], stop: Callable[[], Any]) -> None:
        """Registers functions to run at kopf's startup and cleanup."""

        async def startup(**_: Any) -> None:
            start()

        async def cleanup(**_: Any) -> None:
            await stop()

        kopf.on.startup(registry=self.registry)(startup)
        kopf.on.cleanup(registry=self.registry)(cleanup)

    async def on_flash(self, event: kopf.RawEvent, **_: Any) -> None:
        raw, is_new = self._stored(event)
        key = key_of(raw)
        if not is_of_class(raw, self._operator_class):
            self._queue.forget(key)
        elif event["type"] == "DELETED":
            self._queue.forget(key)
            self._queue.add(key)
        elif is_new:
            self._enqueue(key, raw)

    def on_child(self, event: str, raw: RawObject) -> None:
        """Enqueues the deployment of a child or pod, and the node if the pod may have released its GPUs.

        Somebody may have changed the label that names the deployment: then both, the former one and the new one.
        """
        former, key = self._store.owner_of(raw), parent_key(raw)
        is_new = self._is_new(event, raw)
        if key is not None and event == "DELETED":
            self._queue.add(key)
        elif key is not None and is_new:
            self._enqueue(key, raw)
        if former is not None and former != key and is_new:
            self._queue.add(former)
        node = (raw.get("spec") or {}).get("nodeName") if raw["kind"] == "Pod" else None
        if node and (event == "DELETED" or has_ended(raw)):
            self._queue.add(NodeKey(node))

    async def on_node(self, event: kopf.RawEvent, **_: Any) -> None:
        """Ignores updates without new facts, because a kubelet updates its node every few seconds.

        Enqueues the deployments that have pods on the node, or pods that wait for one.
        """
        facts = NodeFacts.from_node(_object(event))
        known = self._store.get("Node", facts.name)
        self._stored(event)
        if event["type"] != "DELETED":
            if known is not None and NodeFacts.from_node(known) == facts:
                return
            for warning in facts.warnings:
                # Status reports it only for nodes with replicas.
                log.warning("label not understood", node=facts.name, label=warning)
        if facts.gpus:
            self._queue.add(NodeKey(facts.name))
        for pod in self._store.all("Pod"):
            key = parent_key(pod)
            if key is not None and pod["spec"].get("nodeName") in (None, "", facts.name):
                self._queue.add(key)

    def _enqueue(self, key: Key, raw: RawObject) -> None:
        """Unless the event of this object turns out to be that of our own write."""
        self._own_writes.judge(path_of(raw), raw, lambda: self._queue.add(key))

    def _stored(self, event: kopf.RawEvent) -> tuple[RawObject, bool]:
        """The event's object, and whether it tells the store anything new. Our own writes were stored when answered."""
        raw = _object(event)
        if event["type"] is None:
            self._relist(raw["kind"])
        return raw, self._is_new(event["type"], raw)

    def _is_new(self, event: str | None, raw: RawObject) -> bool:
        if event == "DELETED":
            self._store.remove(raw)
            return True
        return self._store.put(raw)


def _object(event: kopf.RawEvent) -> RawObject:
    return cast("RawObject", event["object"])


async def _login(**kwargs: Any) -> kopf.ConnectionInfo | None:
    return _service_account() or kopf.login_with_kubeconfig(**kwargs)


def _service_account() -> kopf.ConnectionInfo | None:
    """The pod's service account, at the API server address from its environment.

    kopf's own login resolves kubernetes.default.svc, so the operator could not start while cluster DNS is down.
    """
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("KUBERNETES_SERVICE_PORT")
    token = SERVICE_ACCOUNT / "token"
    if not host or not port or not token.exists():
        return None
    address = f"[{host}]" if ":" in host else host
    return kopf.ConnectionInfo(
        server=f"https://{address}:{port}",
        ca_path=str(SERVICE_ACCOUNT / "ca.crt"),
        token=token.read_text().strip(),
    )


def kopf_settings() -> kopf.OperatorSettings:
    """kopf as an informer: stateless, without events or finalizers, and with timeouts."""
    settings = kopf.OperatorSettings()
    settings.scanning.disabled = True
    settings.posting.enabled = False
    settings.peering.standalone = True
    settings.persistence.finalizer = f"{GROUP}/finalizer"
    settings.persistence.diffbase_storage = NoDiffBase()
    settings.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix=GROUP)
    # In pages, and each object is forgotten soon after its event.
    settings.watching.chunk_size = PAGE
    settings.queueing.idle_timeout = 0.5
    # Bounded, so that a silently dead connection is detected within minutes.
    settings.watching.server_timeout = 300
    settings.watching.client_timeout = 330
    settings.watching.connect_timeout = 10
    settings.networking.request_timeout = 30
    settings.networking.connect_timeout = 10
    # Less than the pod's grace period of 30 s.
    settings.process.ultimate_exiting_timeout = 25
    return settings
