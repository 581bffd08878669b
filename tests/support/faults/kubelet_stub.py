"""A stub of scheduler, kubelets and gates on a real API server: it binds pods to nodes, and says that they run.

It starts no container. All pods have addresses in 127.0.0.0/8, where one server answers for all gates. A gate passes
once its pod has its flags.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import structlog
from aiohttp import web

from flash_contracts.names import DEPLOYMENT_LABEL, ENGINE_FLAGS_ANNOTATION
from flash_operator.core.resources.deployment import GATE_PORT
from flash_operator.runtime.api_connection import ApiConnection, ApiError, UnreachableError

log = structlog.get_logger("faults.kubelet")

ROUND_SECONDS = 0.2
PASSED = {
    "reason": "Passed",
    "passed": True,
    "ready": True,
    "measurement": {"decodeTokensPerSecond": 85.0, "acceptancePercent": 90.0},
}
STARTING = {"reason": "EngineStarting", "passed": False, "message": "the engine loads"}
MERGE = "application/merge-patch+json"
AT_ONCE = {"gracePeriodSeconds": 0}

RawObject = dict[str, Any]


class KubeletStub:
    """All nodes of a cluster, with one replica each."""

    def __init__(self, api: ApiConnection) -> None:
        self._api = api
        self._addresses = (f"127.9.{number // 250}.{number % 250 + 1}" for number in count())
        self.passed: set[str] = set()
        """Addresses of the gates that pass."""
        self.silent = False

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[None]:
        app = web.Application()
        app.router.add_get("/result", self._result)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "0.0.0.0", GATE_PORT).start()
        rounds = asyncio.create_task(self._run())
        try:
            yield
        finally:
            rounds.cancel()
            await asyncio.gather(rounds, return_exceptions=True)
            await runner.cleanup()

    async def _result(self, request: web.Request) -> web.Response:
        if self.silent:
            await asyncio.sleep(60)
        address = request.transport.get_extra_info("sockname")[0] if request.transport else ""
        return web.json_response(PASSED if address in self.passed else STARTING)

    async def _run(self) -> None:
        while True:
            try:
                await self._round()
            except (ApiError, UnreachableError) as error:
                log.debug("round", error=str(error))
            await asyncio.sleep(ROUND_SECONDS)

    async def _round(self) -> None:
        found = await self._api.request("GET", "/api/v1/nodes")
        nodes = [node["metadata"]["name"] for node in found["items"]]
        pods = (await self._api.request("GET", "/api/v1/pods"))["items"]
        used = {pod["spec"].get("nodeName") for pod in pods}
        free = [name for name in nodes if name not in used]
        for pod in pods:
            if DEPLOYMENT_LABEL in (pod["metadata"].get("labels") or {}):
                await self._step(pod, nodes, free)

    async def _step(self, pod: RawObject, nodes: list[str], free: list[str]) -> None:
        metadata, node = pod["metadata"], pod["spec"].get("nodeName")
        path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}"
        try:
            if metadata.get("deletionTimestamp") or (node and node not in nodes):
                await self._api.request("DELETE", path, body=AT_ONCE)
            elif not node:
                await self._bind(path, metadata["name"], free)
            else:
                await self._report(path, pod)
        except ApiError as error:
            if not (error.not_found or error.conflict):
                raise

    async def _bind(self, path: str, name: str, free: list[str]) -> None:
        if not free:
            return
        target = {"apiVersion": "v1", "kind": "Node", "name": free.pop(0)}
        body = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}, "target": target}
        await self._api.request("POST", f"{path}/binding", body=body)

    async def _report(self, path: str, pod: RawObject) -> None:
        address = pod["status"].get("podIP")
        conditions = {one["type"]: one["status"] for one in pod["status"].get("conditions", [])}
        if address is None:
            status = running_at(next(self._addresses), ready=False)
        elif conditions.get("Ready") != "True" and ENGINE_FLAGS_ANNOTATION in pod["metadata"].get("annotations", {}):
            self.passed.add(address)
            status = running_at(address, ready=True)
        else:
            return
        await self._api.request("PATCH", f"{path}/status", body={"status": status}, content_type=MERGE)


def running_at(address: str, *, ready: bool) -> RawObject:
    """As a kubelet reports a pod whose gate runs."""
    gate = {"name": "gate", "image": "", "imageID": "", "ready": ready, "restartCount": 0}
    return {
        "phase": "Running",
        "podIP": address,
        "podIPs": [{"ip": address}],
        "conditions": [{"type": "Ready", "status": str(ready)}],
        "initContainerStatuses": [{**gate, "state": {"running": {"startedAt": "2026-11-28T12:00:00Z"}}}],
    }
