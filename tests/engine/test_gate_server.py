"""The gate's endpoints for kubelet, operator and Prometheus."""

from dataclasses import replace
from pathlib import Path

from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from flash_contracts.download_record import DownloadRecord
from flash_contracts.engine_pod import EffectiveFlags
from flash_contracts.flags.flag_set import FlagSet
from flash_contracts.gate_result import GateResult
from flash_engine.gate.gate_metrics import GateMetrics
from flash_engine.gate.server import make_app
from gate_harness import GateHarness


async def a_client(
    harness: GateHarness, tmp_path: Path, metrics: GateMetrics
) -> TestClient[web.Request, web.Application]:
    return TestClient(TestServer(make_app(harness.gate, metrics, tmp_path)))


async def test_readiness_is_the_verdict(harness: GateHarness, tmp_path: Path) -> None:
    async with await a_client(harness, tmp_path, GateMetrics()) as client:
        before = await client.get("/readyz")
        await harness.observe()
        after = await client.get("/readyz")
        assert (before.status, after.status) == (503, 200)
        assert (await after.text()).startswith("Passed: decode ")


async def test_the_operator_reads_the_result_that_the_gate_wrote(harness: GateHarness, tmp_path: Path) -> None:
    """Both sides of the contract in one test, so that neither can change alone."""
    EffectiveFlags("fallback", FlagSet("T8", (), ()), "no operator", 30000).write(tmp_path / EffectiveFlags.FILE)
    async with await a_client(harness, tmp_path, GateMetrics()) as client:
        state = await harness.observe()
        result = GateResult.of(await (await client.get("/result")).json())

    assert (result.reason, result.passed, result.reached) == ("Passed", True, True)
    assert result.message == state.verdict.message
    assert result.measurement is not None
    assert result.measurement.acceptance_percent == 100
    assert result.effective is not None
    assert (result.effective.origin, result.effective.flags.row) == ("fallback", "T8")


async def test_the_result_tells_the_requests_on_a_serving_engine(harness: GateHarness, tmp_path: Path) -> None:
    async with await a_client(harness, tmp_path, GateMetrics()) as client:
        await harness.observe()
        assert "load" not in await (await client.get("/result")).json(), "nothing is known yet"
        await harness.observe()
        result = GateResult.of(await (await client.get("/result")).json())
        assert result.load is not None
        assert result.load.of_users == 0


async def test_the_operator_reads_the_download_record_that_flash_fetch_wrote(
    harness: GateHarness, tmp_path: Path
) -> None:
    """Three sides of the contract."""
    written = DownloadRecord(
        phase="Downloading", source="hf://a/b", commit="c0ffee", bytes=10, total_bytes=40, bytes_per_second=2.0,
        failure="the last attempt", warning="a branch", attempts=2,
    )  # fmt: skip
    written.write(tmp_path / DownloadRecord.FILE)
    metrics = GateMetrics()
    async with await a_client(harness, tmp_path, metrics) as client:
        metrics.show(await harness.observe())
        result = GateResult.of(await (await client.get("/result")).json())
        text = await (await client.get("/metrics")).text()

    assert result.delivery is not None
    assert replace(result.delivery, message="") == written
    assert result.delivery.eta_seconds == 15
    assert "flash_gate_model_delivered_bytes 10.0" in text
    assert "flash_gate_model_bytes 40.0" in text


async def test_acceptance_by_position_is_in_the_result_and_in_the_metrics(harness: GateHarness, tmp_path: Path) -> None:
    metrics = GateMetrics()
    harness.engine.traits.acceptance_by_position = (1.0, 0.0)
    harness.configure(speculation={"tokens": 2}, minFirstDraftPercent=90)
    async with await a_client(harness, tmp_path, metrics) as client:
        metrics.show(await harness.observe())
        result = GateResult.of(await (await client.get("/result")).json())
        text = await (await client.get("/metrics")).text()

    assert result.measurement is not None
    assert (result.measurement.position_percents, result.measurement.acceptance_length) == ((100.0, 0.0), 2.0)
    assert result.wanted is not None
    assert result.wanted.first_draft_percent == 90
    assert result.trial is not None
    assert all(sample.drafts == sample.accepted_per_position[0] for sample in result.trial.samples)
    assert 'flash_gate_acceptance_position_ratio{position="0"} 1.0' in text
    assert 'flash_gate_acceptance_position_ratio{position="1"} 0.0' in text
    assert "flash_gate_acceptance_length_tokens 2.0" in text


async def test_a_long_prompt_is_in_the_result_and_in_the_metrics(harness: GateHarness, tmp_path: Path) -> None:
    metrics = GateMetrics()
    harness.configure(longPrompt={"tokens": 300, "minPrefillTokensPerSecond": 1})
    async with await a_client(harness, tmp_path, metrics) as client:
        metrics.show(await harness.observe())
        result = GateResult.of(await (await client.get("/result")).json())
        text = await (await client.get("/metrics")).text()

    figures = result.measurement
    assert figures is not None
    assert (figures.prompt_tokens, harness.engine.longest_prompt) == (300, 300)
    assert (figures.prefill_tokens_per_second or 0) > 0
    assert (figures.depth_decode_tokens_per_second or 0) > 0
    assert result.wanted is not None
    assert result.wanted.prefill_tokens_per_second == 1
    for name in ("prefill_tokens_per_second", "prompt_first_token_seconds", "depth_decode_tokens_per_second"):
        (value,) = [line.split()[1] for line in text.splitlines() if line.startswith(f"flash_gate_{name} ")]
        assert float(value) > 0


async def test_metrics_follow_the_verdict(harness: GateHarness, tmp_path: Path) -> None:
    metrics = GateMetrics()
    harness.engine.traits.acceptance = 0.0
    metrics.show(await harness.observe())
    async with await a_client(harness, tmp_path, metrics) as client:
        text = await (await client.get("/metrics")).text()

    assert 'flash_gate_verdict{reason="DraftDead"} 1.0' in text
    assert 'flash_gate_verdict{reason="Passed"} 0.0' in text
    assert "flash_gate_ready 0.0" in text
    assert "flash_gate_checks_total 1.0" in text
    assert "flash_gate_acceptance_ratio 0.0" in text


async def test_unmeasured_metrics_are_nan(harness: GateHarness, tmp_path: Path) -> None:
    metrics = GateMetrics()
    harness.engine.traits.healthy = False
    metrics.show(await harness.observe())
    async with await a_client(harness, tmp_path, metrics) as client:
        text = await (await client.get("/metrics")).text()

    assert "flash_gate_decode_tokens_per_second NaN" in text
    assert "flash_gate_acceptance_ratio NaN" in text
    assert "flash_gate_traffic_tokens_per_second NaN" in text
    assert "flash_gate_quarantined 0.0" in text
    assert "flash_gate_hung 0.0" in text


async def test_liveness_follows_the_engines_progress(harness: GateHarness, tmp_path: Path) -> None:
    """503 makes the kubelet restart the engine, which costs minutes: never because it is slow, always for a hang."""
    async with await a_client(harness, tmp_path, GateMetrics()) as client:
        assert (await client.get("/livez")).status == 200, "it loads"
        harness.engine.traits.acceptance = 0.0
        await harness.observe()
        assert (await client.get("/livez")).status == 200, "it failed its gate"
        harness.gate.state = replace(harness.gate.state, restart=True)
        dead = await client.get("/livez")
        assert dead.status == 503
        assert (await dead.text()).startswith("DraftDead: ")


async def test_a_draining_replica_is_not_ready(harness: GateHarness, tmp_path: Path) -> None:
    async with await a_client(harness, tmp_path, GateMetrics()) as client:
        await harness.observe()
        harness.gate.state = replace(harness.gate.state, draining=True)
        leaving = await client.get("/readyz")
        assert (leaving.status, (await leaving.text())[:8]) == (503, "Draining")


async def test_the_result_has_everything_that_the_verdict_is_based_on(harness: GateHarness, tmp_path: Path) -> None:
    async with await a_client(harness, tmp_path, GateMetrics()) as client:
        await harness.observe()
        document = await (await client.get("/result")).json()
    assert document["trial"]["goldenAnswers"] == ["the answer is 42", "the answer is 42"]
    first, second = document["trial"]["samples"]
    assert (first["tokens"], first["countedTokens"], len(first["blocks"])) == (64, 64, 3)
    assert second["drafted"] == 32
    assert document["wanted"]["floorOrigin"] == "Fixed"
    assert document["serving"]["degraded"] is None
