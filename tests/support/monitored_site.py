"""Everything that Prometheus scrapes, on this host and without a cluster.

Real: the operator's registry, its health server, its client of the API server and its reader of gates; the gate with
its server; the activator's registry. Stubs: the engine (`engine_stub`), under load, and the API server
(`scripted_api_stub`). The deployments' status is what the operator plans from what it has read of the gate.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from aiohttp.test_utils import BaseTestServer, TestServer

from builders import a_flash, a_flash_object, a_gate, a_live_deployment, a_node, a_pod, an_observed
from engine_stub.engine import EngineStub
from engine_stub.scripts import paced
from flash_contracts.gate_result import GateResult
from flash_engine.gate.engine_client import EngineClient
from flash_engine.gate.gate import Gate
from flash_engine.gate.gate_metrics import GateMetrics
from flash_engine.gate.server import make_app
from flash_operator.activator.admission import Admission, Limits
from flash_operator.activator.deployments import Deployments
from flash_operator.activator.metrics import ActivatorMetrics
from flash_operator.core.observed.snapshot import RawObject
from flash_operator.core.plan import plan
from flash_operator.runtime.cluster import Cluster
from flash_operator.runtime.demand_board import DemandBoard, DemandCollector
from flash_operator.runtime.deployment_collector import DeploymentCollector, NodeCollector
from flash_operator.runtime.gates import Gates
from flash_operator.runtime.health import Health
from flash_operator.runtime.keys import FlashKey, NodeKey
from flash_operator.runtime.metrics import Metrics
from flash_operator.runtime.store import Store
from gate_harness import GateHarness
from ports import a_free_port

KEY = FlashKey("team", "flash")
POD_LABELS = {"deployment_namespace": "team", "deployment_name": "flash", "pod": "flash-a", "node": "node-1"}
"""What the chart's PodMonitors add."""
TOKENS = 64


@dataclass
class MonitoredOperator:
    """The operator's parts that have metrics, over memory that `know` fills."""

    metrics: Metrics
    gates: Gates
    store: Store
    board: DemandBoard

    @classmethod
    def made(cls, session: aiohttp.ClientSession, gate_port: int) -> "MonitoredOperator":
        metrics, store = Metrics(), Store()
        gates = Gates(session, gate_port, on_look=metrics.looked)
        board = DemandBoard(gates.loads)
        metrics.registry.register(DemandCollector(board))
        metrics.registry.register(DeploymentCollector(board, store, Counter(), gates.silent))
        metrics.registry.register(NodeCollector(store, lambda: True))
        metrics.leader.set(1)
        metrics.resynced()
        return cls(metrics, gates, store, board)

    async def look(self) -> GateResult:
        """What the gate of the replica answers."""
        running = [{"name": "gate", "state": {"running": {}}}]
        pods = [a_pod(ready=True, podIP="127.0.0.1", initContainerStatuses=running)]
        found: dict[str, GateResult] = {}
        while not found:
            found = await self.gates.results(KEY, pods)
            await asyncio.sleep(0.02)
        return found["uid-of-flash-a"]

    def know(self, name: str, gate: GateResult, *, ready: bool) -> None:
        """A deployment of one replica with this result, with the status that the operator plans."""
        flash = a_flash(name)
        node = a_node(gpu_link="phb", gpu_p2p="verified")
        node["status"]["conditions"] = [{"type": "Ready", "status": "True"}]
        observed = an_observed(
            flash,
            pods=(a_pod(ready=ready),),
            nodes=(node,),
            gates={"flash-a": gate},
            children=(a_live_deployment(flash),),
            loads=self.gates.loads(KEY),
        )
        planned = plan(observed)
        assert planned.demand_basis is not None
        self.store.put(node)
        self.store.put(_stored(name, planned.status or {}))
        self.board.put(FlashKey("team", name), planned.demand_basis)


def _stored(name: str, status: RawObject) -> RawObject:
    raw = a_flash_object(name)
    raw["metadata"] |= {"resourceVersion": "1", "creationTimestamp": "2026-11-24T11:00:00Z"}
    return {**raw, "status": status}


@asynccontextmanager
async def a_monitored_site(folder: Path, cluster: Cluster) -> AsyncIterator[list[dict[str, Any]]]:
    """Prometheus' jobs for it. Everything is busy until the end."""
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession())
        engine = await stack.enter_async_context(TestServer(EngineStub(paced(tokens_per_second=400)).app()))
        harness, gate_metrics = _a_gate(session, engine, folder), GateMetrics()
        gate = await stack.enter_async_context(TestServer(make_app(harness.gate, gate_metrics, folder)))
        await harness.observe()
        # The first look at an engine that serves: from now on its requests are known.
        gate_metrics.show(await harness.observe())
        operator = MonitoredOperator.made(session, gate.port or 0)
        cluster.count_with(operator.metrics.requested)
        operator.know("flash", await operator.look(), ready=True)
        operator.know("broken", a_gate("DraftDead"), ready=False)
        health, port = Health(operator.metrics, 300, lambda: None), a_free_port()
        await health.start(port)
        stack.push_async_callback(health.stop)
        stack.push_async_callback(operator.gates.close)
        activator = await stack.enter_async_context(TestServer(_an_activator()))
        working = asyncio.create_task(_work(operator, cluster, session, engine))
        stack.push_async_callback(_end, working)
        yield [
            _job("operator", port, {}),
            _job("engine", engine.port, POD_LABELS),
            _job("gate", gate.port, POD_LABELS),
            _job("activator", activator.port, {}),
        ]


def _job(name: str, port: int | None, labels: dict[str, str]) -> dict[str, Any]:
    return {"job_name": name, "static_configs": [{"targets": [f"127.0.0.1:{port}"], "labels": labels}]}


def _a_gate(session: aiohttp.ClientSession, engine: BaseTestServer, folder: Path) -> GateHarness:
    config = folder / "gate.json"
    gate = Gate(EngineClient(session, str(engine.make_url(""))), config, folder, lambda _state: None)
    harness = GateHarness(gate, EngineStub(), folder, config)
    harness.configure()
    harness.record()
    return harness


def _an_activator() -> web.Application:
    metrics = ActivatorMetrics(Deployments(), Admission(Limits(1, 1, 1024, 1024)))

    async def show(_: web.Request) -> web.Response:
        return web.Response(body=metrics.text(), content_type="text/plain")

    app = web.Application()
    app.router.add_get("/metrics", show)
    return app


async def _work(
    operator: MonitoredOperator, cluster: Cluster, session: aiohttp.ClientSession, engine: BaseTestServer
) -> None:
    """Users' requests, reconciles, requests to the API server and looks at the gate, one round after another."""
    body = {"model": "m", "prompt": "tell", "max_tokens": TOKENS, "stream": True}
    while True:
        async with session.post(engine.make_url("/v1/completions"), json=body) as answer:
            await answer.read()
        await cluster.list("Pod")
        await cluster.get("Pod", "gone", "team")
        await operator.look()
        operator.metrics.reconciled(KEY, "success", 0.004)
        operator.metrics.reconciled(NodeKey("node-1"), "success", 0.002)


async def _end(task: "asyncio.Task[None]") -> None:
    """Raises what the task has ended with, if it was not at work until now."""
    if not task.done():
        task.cancel()
    results = await asyncio.gather(task, return_exceptions=True)
    for result in results:
        if isinstance(result, Exception):
            raise result
