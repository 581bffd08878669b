"""Uses kopf as an informer: it lists, watches and reconnects, and each handler only enqueues a key.

kopf's change-detecting handlers, indexes, timers, daemons and peering are not used: they write annotations and
finalizers on objects, and decide from remembered state (docs/decisions/).
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import kopf
import structlog

from flash_contracts.names import FIELD_MANAGER, GROUP, MANAGED_BY_LABEL, PLURAL, VERSION
from flash_contracts.node_facts import NodeFacts
from flash_operator.core.observed.snapshot import RawObject
from flash_operator.runtime.keys import FlashKey, Key, NodeKey, is_of_class, key_of, parent_key
from flash_operator.runtime.workqueue import WorkQueue

log = structlog.get_logger("flash.watches")

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
OURS = f"{MANAGED_BY_LABEL}={FIELD_MANAGER}"


class NoDiffBase(kopf.DiffBaseStorage):
    """Disables kopf's "essence" of every object on every event, which it builds to detect changes."""

    def build(self, *, body: kopf.Body, extra_fields: Any = None) -> kopf.BodyEssence:
        return kopf.BodyEssence()

    def fetch(self, *, body: kopf.Body) -> kopf.BodyEssence | None:
        return None

    def store(self, *, body: kopf.Body, patch: kopf.Patch, essence: kopf.BodyEssence) -> None:
        raise RuntimeError("a change-detecting handler was registered; the operator must have none")


class Watches:
    """The registry for `kopf.operator`, and a memory of nodes and keys that filters irrelevant events."""

    def __init__(self, queue: WorkQueue[Key], operator_class: str = "") -> None:
        self._queue = queue
        self._operator_class = operator_class
        self._known: set[FlashKey] = set()
        self._nodes: dict[str, NodeFacts] = {}
        self.registry = kopf.OperatorRegistry()
        kopf.on.event(GROUP, VERSION, PLURAL, registry=self.registry)(self.on_flash)
        kopf.on.event("", "v1", "pods", registry=self.registry)(self.on_pod)
        kopf.on.event("apps", "v1", "deployments", registry=self.registry)(self.on_child)
        kopf.on.event("batch", "v1", "jobs", registry=self.registry)(self.on_child)
        kopf.on.event("", "v1", "nodes", registry=self.registry)(self.on_node)
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
        key = key_of(_object(event))
        if event["type"] == "DELETED" or not is_of_class(_object(event), self._operator_class):
            self._known.discard(key)
            self._queue.forget(key)
            return
        self._known.add(key)
        self._queue.add(key)

    async def on_pod(self, event: kopf.RawEvent, **_: Any) -> None:
        """Enqueues the deployment, and the node if the pod may have released its GPUs."""
        await self.on_child(event)
        pod = _object(event)
        node = pod.get("spec", {}).get("nodeName")
        over = event["type"] == "DELETED" or pod.get("status", {}).get("phase") in ("Succeeded", "Failed")
        if node and over:
            self._queue.add(NodeKey(node))

    async def on_child(self, event: kopf.RawEvent, **_: Any) -> None:
        key = parent_key(_object(event))
        if key is not None:
            self._queue.add(key)

    async def on_node(self, event: kopf.RawEvent, **_: Any) -> None:
        """Ignores updates without new facts, because a kubelet updates its node every few seconds.

        Enqueues every deployment, because any of them may have a pending pod that fits the node.
        """
        facts = NodeFacts.from_node(_object(event))
        if event["type"] == "DELETED":
            self._nodes.pop(facts.name, None)
        elif self._nodes.get(facts.name) == facts:
            return
        else:
            self._nodes[facts.name] = facts
            for warning in facts.warnings:
                # Status reports it only for nodes with replicas.
                log.warning("label not understood", node=facts.name, label=warning)
        if facts.gpus:
            self._queue.add(NodeKey(facts.name))
        for key in self._known:
            self._queue.add(key)


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
    settings.watching.label_selectors["pods"] = OURS
    settings.watching.label_selectors["apps", "v1", "deployments"] = OURS
    settings.watching.label_selectors["batch", "v1", "jobs"] = OURS
    # Bounded, so that a silently dead connection is detected within minutes.
    settings.watching.server_timeout = 300
    settings.watching.client_timeout = 330
    settings.watching.connect_timeout = 10
    settings.networking.request_timeout = 30
    settings.networking.connect_timeout = 10
    # Less than the pod's grace period of 30 s.
    settings.process.ultimate_exiting_timeout = 25
    return settings
