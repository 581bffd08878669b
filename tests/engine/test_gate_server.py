"""What kubelet, operator and Prometheus see of the gate."""

from pathlib import Path

from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from flash_engine.gate.gate_metrics import GateMetrics
from flash_engine.gate.server import make_app
from flash_engine.records import EFFECTIVE_FILE, Effective, write_document
from flash_operator.core.gate_result import GateResult
from gate_bench import Bench


async def a_client(bench: Bench, tmp_path: Path, metrics: GateMetrics) -> TestClient[web.Request, web.Application]:
    return TestClient(TestServer(make_app(bench.gate, metrics, tmp_path)))


async def test_readiness_is_the_verdict(bench: Bench, tmp_path: Path) -> None:
    async with await a_client(bench, tmp_path, GateMetrics()) as client:
        before = await client.get("/readyz")
        await bench.look()
        after = await client.get("/readyz")
        assert (before.status, after.status) == (503, 200)
        assert (await after.text()).startswith("Passed: decode ")


async def test_the_operator_reads_the_result_as_the_gate_means_it(bench: Bench, tmp_path: Path) -> None:
    """Both sides of the contract, in one test: neither can change it alone."""
    flags = {"version": 1, "row": "T8", "args": [], "env": []}
    write_document(tmp_path / EFFECTIVE_FILE, Effective("fallback", "no operator", 30000, flags).to_json())
    async with await a_client(bench, tmp_path, GateMetrics()) as client:
        state = await bench.look()
        result = GateResult.parse(await (await client.get("/result")).json())

    assert (result.reason, result.passed, result.reached) == ("Passed", True, True)
    assert result.message == state.verdict.message
    assert result.measurement is not None
    assert result.measurement.acceptance_percent == 100
    assert result.effective is not None
    assert (result.effective.origin, result.effective.flags["row"]) == ("fallback", "T8")


async def test_metrics_follow_the_verdict(bench: Bench, tmp_path: Path) -> None:
    metrics = GateMetrics()
    bench.engine.acceptance = 0.0
    metrics.show(await bench.look())
    async with await a_client(bench, tmp_path, metrics) as client:
        text = await (await client.get("/metrics")).text()

    assert 'flash_gate_verdict{reason="DraftDead"} 1.0' in text
    assert 'flash_gate_verdict{reason="Passed"} 0.0' in text
    assert "flash_gate_ready 0.0" in text
    assert "flash_gate_checks_total 1.0" in text
    assert "flash_gate_acceptance_ratio 0.0" in text


async def test_what_was_not_measured_is_no_figure(bench: Bench, tmp_path: Path) -> None:
    metrics = GateMetrics()
    bench.engine.healthy = False
    metrics.show(await bench.look())
    async with await a_client(bench, tmp_path, metrics) as client:
        text = await (await client.get("/metrics")).text()

    assert "flash_gate_decode_tokens_per_second NaN" in text
    assert "flash_gate_acceptance_ratio NaN" in text
