"""The gate's HTTP server: readiness for the kubelet, the result for the operator, and Prometheus metrics."""

import asyncio
from pathlib import Path

from aiohttp import web
from prometheus_client import generate_latest

from flash_contracts.engine_pod import EffectiveFlags
from flash_engine.gate.gate import Gate
from flash_engine.gate.gate_metrics import GateMetrics
from flash_engine.gate.gate_state import GateState
from flash_engine.gate.result import result_of

GATE = web.AppKey("gate", Gate)
METRICS = web.AppKey("metrics", GateMetrics)
RUN_DIR = web.AppKey("run_dir", Path)


def make_app(gate: Gate, metrics: GateMetrics, run_dir: Path) -> web.Application:
    app = web.Application()
    app[GATE], app[METRICS], app[RUN_DIR] = gate, metrics, run_dir
    app.add_routes(
        [
            web.get("/readyz", readyz),
            web.get("/healthz", healthz),
            web.get("/livez", livez),
            web.get("/result", result),
            web.get("/metrics", show_metrics),
        ]
    )
    return app


async def readyz(request: web.Request) -> web.Response:
    """200 if the pod may receive users' requests. The body has the reason, which `kubectl describe` shows."""
    state = request.app[GATE].state
    return web.Response(status=200 if state.ready else 503, text=f"{_readiness(state)}\n")


def _readiness(state: GateState) -> str:
    if state.draining:
        return "Draining: the pod is shutting down"
    if state.ordered_out:
        return f"OutOfService: a user took it out of service; {_verdict(state)}"
    return _verdict(state)


async def livez(request: web.Request) -> web.Response:
    """The engine's liveness, by its progress and never by its latency: 503 if only a restart can help."""
    state = request.app[GATE].state
    if not state.restart:
        return web.Response(text="ok\n")
    return web.Response(status=503, text=f"{_verdict(state)}\n")


async def healthz(_request: web.Request) -> web.Response:
    """The gate's own liveness, not the engine's."""
    return web.Response(text="ok\n")


def _verdict(state: GateState) -> str:
    return f"{state.verdict.reason}: {state.verdict.message}"


async def result(request: web.Request) -> web.Response:
    gate = request.app[GATE]
    effective = EffectiveFlags.read(request.app[RUN_DIR] / EffectiveFlags.FILE)
    at = asyncio.get_running_loop().time()
    return web.json_response(result_of(gate.state, gate.config, effective, at).to_json())


async def show_metrics(request: web.Request) -> web.Response:
    body = generate_latest(request.app[METRICS].registry)
    return web.Response(body=body, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})
