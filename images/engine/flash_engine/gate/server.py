"""What the gate shows over HTTP: readiness for the kubelet, the result for the operator, metrics for everybody."""

from pathlib import Path

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from flash_engine.gate.gate import Gate, State, result_document
from flash_engine.records import EFFECTIVE_FILE, read_document

GATE = web.AppKey("gate", Gate)

RUN_DIR = web.AppKey("run_dir", Path)


class GateMetrics:
    """The gate's gauges, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._ready = Gauge("flash_gate_ready", "1 where the verdict is Passed", registry=self.registry)
        self._decode = Gauge(
            "flash_gate_decode_tokens_per_second", "Measured decode speed of one stream", registry=self.registry
        )
        self._acceptance = Gauge(
            "flash_gate_acceptance_ratio", "Measured share of accepted draft tokens", registry=self.registry
        )
        self._first_token = Gauge(
            "flash_gate_first_token_seconds", "Measured time to the first token", registry=self.registry
        )
        self._verdict = Gauge("flash_gate_verdict", "1 for the present verdict", ["reason"], registry=self.registry)
        self._checks = Counter("flash_gate_checks", "Trials of the engine", registry=self.registry)
        self._counted = 0

    def show(self, state: State) -> None:
        self._ready.set(state.verdict.passed)
        self._verdict.clear()
        self._verdict.labels(state.verdict.reason).set(1)
        self._checks.inc(state.attempts - self._counted)
        self._counted = state.attempts
        figures = state.evidence.measurement
        if figures:
            self._decode.set(figures.decode_tokens_per_second)
            self._first_token.set(figures.first_token_millis / 1000)
            self._acceptance.set((figures.acceptance_percent or 0) / 100)


METRICS = web.AppKey("metrics", GateMetrics)


def make_app(gate: Gate, metrics: GateMetrics, run_dir: Path) -> web.Application:
    app = web.Application()
    app[GATE], app[METRICS], app[RUN_DIR] = gate, metrics, run_dir
    app.add_routes(
        [
            web.get("/readyz", readyz),
            web.get("/healthz", healthz),
            web.get("/result", result),
            web.get("/metrics", show_metrics),
        ]
    )
    return app


async def readyz(request: web.Request) -> web.Response:
    """200 only where the latched verdict is Passed. The body says why, for `kubectl describe` shows it."""
    verdict = request.app[GATE].state.verdict
    return web.Response(status=200 if verdict.passed else 503, text=f"{verdict.reason}: {verdict.message}\n")


async def healthz(_request: web.Request) -> web.Response:
    """The gate's own life; nothing of the engine's."""
    return web.Response(text="ok\n")


async def result(request: web.Request) -> web.Response:
    gate = request.app[GATE]
    effective = read_document(request.app[RUN_DIR] / EFFECTIVE_FILE)
    return web.json_response(result_document(gate.state, gate.config, effective))


async def show_metrics(request: web.Request) -> web.Response:
    body = generate_latest(request.app[METRICS].registry)
    return web.Response(body=body, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})
