"""How many writes a deployment costs from its creation until it is ready (docs/performance.md)."""

import json
from collections import Counter
from typing import Any

import pytest

from builders import a_gate
from flash_contracts.gate_result import GateResult
from flash_contracts.names import DEPLOYMENT_LABEL
from flash_operator.core.observed.snapshot import RawObject
from flash_operator.runtime.store import OURS
from runtime_site import Site

pytestmark = pytest.mark.apiserver

DIGEST = "registry.example/flash/engine@sha256:" + "a" * 64


def patch_status(site: Site, kind: str, name: str, status: dict[str, Any]) -> RawObject:
    """What a kubelet or a controller would report; there are none."""
    patch = ("--subresource=status", "--type=merge", "-p", json.dumps({"status": status}))
    site.server.kubectl("patch", kind, name, "-n", site.namespace, *patch)
    return site.get(kind, name)


def a_bound_pod(site: Site) -> RawObject:
    site.server.kubectl("-n", site.namespace, "create", "serviceaccount", "default", check=False)
    template = site.get("deployment", "flash")["spec"]["template"]
    labels = {**template["metadata"]["labels"], **OURS, DEPLOYMENT_LABEL: "flash"}
    metadata = {"name": "flash-a", "namespace": site.namespace, "labels": labels}
    metadata["annotations"] = template["metadata"]["annotations"]
    container = {"name": "engine", "image": "x"}
    spec = {"nodeName": f"node-{site.namespace}", "containers": [container], "automountServiceAccountToken": False}
    site.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
    return site.get("pod", "flash-a")


@pytest.mark.parametrize("floor", ["Fixed", "Learned"])
async def test_the_writes_from_creation_to_ready(site: Site, floor: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four children, the flags of its node, what was measured, a status with the node and one with the verdict."""
    key = site.apply_flash(readiness={"floor": floor})
    store, written, gate = await site.stored(), Counter[str](), a_gate("EngineStarting")
    now = 1000.0
    reconciler = site.reconciler_of(store, clock=lambda: now)
    write = site.cluster._write  # noqa: SLF001 - every write goes through it

    async def counted(method: str, path: str, *rest: Any) -> RawObject:
        parts = path.split("/")
        written[parts[-1] if parts[-1] in ("status", "events") else parts[-2]] += 1
        return await write(method, path, *rest)

    async def results(_key: object, pods: tuple[RawObject, ...]) -> dict[str, GateResult]:
        return {pod["metadata"]["uid"]: gate for pod in pods}

    monkeypatch.setattr(site.cluster, "_write", counted)
    monkeypatch.setattr(site.gates, "results", results)
    await reconciler.reconcile(key)

    node = f"node-{site.namespace}"
    labels = {"deepseekflash.dev/gpu-link": "phb"}
    site.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node, "labels": labels}})
    store.put(site.get("node", node))
    store.put(a_bound_pod(site))
    now += 60
    await reconciler.reconcile(key)
    started = {"containerStatuses": [{"name": "engine", "image": "x", "imageID": DIGEST, "ready": True}]}
    ready = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}], **started}
    store.put(patch_status(site, "pod", "flash-a", {**ready, "podIP": "10.0.0.1"}))
    counts = dict.fromkeys(("replicas", "readyReplicas", "updatedReplicas", "availableReplicas"), 1)
    store.put(patch_status(site, "deployment", "flash", {**counts, "observedGeneration": 1}))
    gate = a_gate()
    now += 60
    for _ in range(3):
        await reconciler.reconcile(key)
        now += 60
    site.server.kubectl("delete", "node", node)

    assert site.get("dsf", "flash")["status"]["conditions"][0]["status"] == "True"
    assert written == {
        "configmaps": 2,
        "controllerrevisions": 1,
        "services": 1,
        "deployments": 1,
        "pods": 1,
        "status": 2,
        "events": 2,
    }
