"""The gate beside a misbehaving engine: broken connections, invalid pages, other clients, an engine that dies.

Nothing here depends on timing: no test waits, and no measured speed decides one.
"""

import json
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from engine_stub.engine import EngineStub
from flash_contracts.engine_record import EngineExit, EngineRecord
from flash_engine.gate import trial
from flash_engine.gate.engine_client import EngineClient
from flash_engine.gate.evidence import GoldenAnswers
from flash_engine.gate.gate import Gate
from gate_harness import GateHarness

DIED = EngineExit(code=1, signal=None, at="2026-11-24T12:01:00.000Z", last_lines=("ValueError: illegal instruction",))


class BrokenEngineStub(EngineStub):
    """An engine stub whose pages and streams can be replaced by other bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.drop_health = False
        self.metrics_page: str | None = None
        self.waiting_requests = 0
        self.stream_bytes: bytes | None = None
        self.chat_page: str | None = None
        self.dies_with: Path | None = None
        """Where it writes its exit down when it is asked to stream: it dies of its first real work."""

    async def _health(self, request: web.Request) -> web.Response:
        if self.drop_health and request.transport:
            request.transport.abort()
        return await super()._health(request)

    async def _metrics(self, request: web.Request) -> web.Response:
        page = (await super()._metrics(request)).text or ""
        page = f"{page}vllm:num_requests_waiting {self.waiting_requests}\n"
        return web.Response(text=page if self.metrics_page is None else self.metrics_page)

    async def _chat(self, request: web.Request) -> web.Response:
        if self.chat_page is not None:
            return web.Response(text=self.chat_page, content_type="application/json")
        return await super()._chat(request)

    async def _completions(self, request: web.Request) -> web.StreamResponse:
        if self.dies_with is not None:
            self.traits.healthy = False
            ended = {"phase": "Exited", "pid": None, "starts": 1, "exit": DIED.to_json()}
            self.dies_with.write_text(json.dumps(ended))
            return web.Response(status=500, text="EngineDeadError")
        if self.stream_bytes is None:
            return await super()._completions(request)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(self.stream_bytes)
        return response


@pytest.fixture
def engine() -> BrokenEngineStub:
    """Replaces the plain stub in `harness`."""
    return BrokenEngineStub()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait two seconds for an engine that does not become idle."""
    monkeypatch.setattr(trial, "IDLE_SECONDS", 0.1)


async def test_a_dropped_connection_keeps_the_verdict(harness: GateHarness, engine: BrokenEngineStub) -> None:
    await harness.observe()
    engine.drop_health = True
    for _ in range(3):
        assert (await harness.observe()).verdict.reason == "Passed"
    assert harness.gate.state.attempts == 1


async def test_a_refused_connection_ends_the_verdict(engine: BrokenEngineStub, tmp_path: Path) -> None:
    async with aiohttp.ClientSession() as session:
        server = TestServer(engine.app())
        await server.start_server()
        gate = Gate(EngineClient(session, str(server.make_url(""))), tmp_path / "gate.json", tmp_path, lambda _: None)
        harness = GateHarness(gate, engine, tmp_path, tmp_path / "gate.json")
        harness.configure()
        harness.record()
        assert (await harness.observe()).verdict.reason == "Passed"

        await server.close()

        state = await harness.observe()
    assert state.verdict.reason == "EngineStarting"
    assert "stopped answering /health" in state.verdict.message
    assert state.healthy_at is None


@pytest.mark.parametrize(("own", "expected"), [("127.0.0.1", "Passed"), ("127.0.0.2", "Inconclusive")])
async def test_an_engine_that_only_the_gate_can_reach_does_not_become_ready(
    own: str, expected: str, engine: BrokenEngineStub, tmp_path: Path
) -> None:
    """As vLLM in a cluster of IPv6, where it listens on IPv4 alone."""
    async with aiohttp.ClientSession() as session, TestServer(engine.app(), host="127.0.0.1") as server:
        client = EngineClient(session, str(server.make_url("")), own)
        gate = Gate(client, tmp_path / "gate.json", tmp_path, lambda _: None)
        harness = GateHarness(gate, engine, tmp_path, tmp_path / "gate.json")
        harness.configure()
        harness.record()
        verdict = (await harness.observe()).verdict
    assert verdict.reason == expected
    assert ("not at the pod's own address http://127.0.0.2:" in verdict.message) is (expected == "Inconclusive")


async def test_an_engine_that_fails_after_hours_is_not_a_startup_hang(harness: GateHarness) -> None:
    harness.record(started_monotonic=0.0)
    await harness.observe()
    harness.engine.traits.healthy = False
    assert (await harness.observe()).verdict.reason == "EngineStarting"


async def test_an_engine_that_dies_at_its_first_request_has_exited_and_is_not_inconclusive(
    harness: GateHarness, engine: BrokenEngineStub
) -> None:
    """Like vLLM with a kernel that uses an unsupported instruction: healthy until the first request."""
    engine.dies_with = harness.run_dir / EngineRecord.FILE
    state = await harness.observe()
    assert state.verdict.reason == "EngineExited"
    assert "ValueError: illegal instruction" in state.verdict.message
    assert state.attempts == 1


async def test_an_old_exit_is_not_reported_again(harness: GateHarness) -> None:
    harness.record(exit=DIED, starts=2)
    assert (await harness.observe()).verdict.reason == "Passed"
    harness.engine.traits.healthy = False
    assert (await harness.observe()).verdict.reason == "EngineStarting"


PAGES = {
    "of another service": ("<html>hello</html>", "cannot be read"),
    "without a figure": ("vllm:generation_tokens_total NaN\nvllm:num_requests_running 0\n", "is nan"),
    "that is empty": ("", "lacks vllm:generation_tokens_total"),
}


@pytest.mark.parametrize(("page", "message"), PAGES.values(), ids=PAGES.keys())
async def test_a_page_of_metrics(harness: GateHarness, engine: BrokenEngineStub, page: str, message: str) -> None:
    engine.metrics_page = page
    state = await harness.observe()
    assert state.verdict.reason == "Inconclusive"
    assert message in state.verdict.message


async def test_frozen_counters_are_inconclusive(harness: GateHarness, engine: BrokenEngineStub) -> None:
    engine.metrics_page = (
        "vllm:generation_tokens_total 7\nvllm:num_requests_running 0\n"
        "vllm:spec_decode_num_draft_tokens_total 5\nvllm:spec_decode_num_accepted_tokens_total 5\n"
    )
    state = await harness.observe()
    assert state.verdict.reason == "Inconclusive"
    assert "rose by 0 while 64 tokens arrived" in state.verdict.message


async def test_counters_that_take_long_to_read_are_compared_before_they_are_called_changed(
    harness: GateHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flash_engine.gate.trial.IDLE_SECONDS", 0.0)  # one look alone takes longer
    assert (await harness.observe()).verdict.reason == "Passed"


async def test_other_clients_requests_are_waited_for(harness: GateHarness, engine: BrokenEngineStub) -> None:
    engine.waiting_requests = 3
    state = await harness.observe()
    assert state.verdict.reason == "Inconclusive"
    assert "3 requests of other clients are on the engine" in state.verdict.message
    assert harness.engine.count("stream") == 1, "the warm-up only"

    engine.waiting_requests = 0
    assert (await harness.observe()).verdict.reason == "Passed"


def chunk(**event: object) -> bytes:
    return f"data: {json.dumps(event)}\n\n".encode()


TEXT = chunk(choices=[{"text": "word"}])
USAGE = chunk(choices=[], usage={"completion_tokens": 64})
DONE = b"data: [DONE]\n\n"

STREAMS = {
    "of another protocol": (b"hello\n", "cut before its end"),
    "of half a document": (b'data: {"choices"\n\n' + DONE, "not JSON"),
    "of something else": (b"data: 5\n\n" + DONE, "not an event"),
    "with an error in it": (TEXT + chunk(error={"message": "CUDA trouble"}) + DONE, "CUDA trouble"),
    "without usage": (TEXT + TEXT + DONE, "without usage"),
    "without text": (USAGE + DONE, "without text"),
    "in one line without an end": (b"data: " + b"x" * 2_000_000, "/v1/completions: "),
    "in one piece, which has no speed": (TEXT + USAGE + DONE, "in one piece"),
    "whose choices are null": (chunk(choices=[None, 5]) + DONE, "without text"),
    "whose choices are an object": (chunk(choices={"a": 1}) + DONE, "without text"),
    "whose usage is a list": (chunk(choices=[{"text": "word"}], usage=[1]) + DONE, "without usage"),
    "whose usage has no number": (
        TEXT + chunk(choices=[{"text": "word"}], usage={"completion_tokens": None}) + DONE,
        "without usage",
    ),
    "whose usage has a text": (
        TEXT + chunk(choices=[{"text": "word"}], usage={"completion_tokens": "9"}) + DONE,
        "without usage",
    ),
    "whose count is of no engine": (
        TEXT + chunk(choices=[{"text": "word"}], usage={"completion_tokens": 10**400}) + DONE,
        "without usage",
    ),
    "nested without end": (b"data: " + b"[" * 60_000 + b"\n\n" + DONE, "not JSON"),
}


@pytest.mark.parametrize(("sent", "message"), STREAMS.values(), ids=STREAMS.keys())
async def test_a_stream(harness: GateHarness, engine: BrokenEngineStub, sent: bytes, message: str) -> None:
    engine.stream_bytes = sent
    state = await harness.observe()
    assert state.verdict.reason == "Inconclusive"
    assert message in state.verdict.message


INVALID = ["{}", "[]", '{"choices": [{"message": null}]}', "no JSON", '{"choices": {"0": 1}}', '{"choices": [[]]}',
           '{"choices": null}', "null", "[" * 60_000, '{"choices": [{"message": ["42"]}]}']  # fmt: skip


@pytest.mark.parametrize("page", INVALID)
async def test_an_invalid_answer(harness: GateHarness, engine: BrokenEngineStub, page: str) -> None:
    engine.chat_page = page
    state = await harness.observe()
    assert state.verdict.reason == "Inconclusive"
    assert "/v1/chat/completions: " in state.verdict.message


async def test_an_answer_in_parts_is_put_together(harness: GateHarness, engine: BrokenEngineStub) -> None:
    parts = [{"type": "text", "text": "the answer is "}, {"type": "text", "text": "42"}]
    engine.chat_page = json.dumps({"choices": [{"message": {"content": parts, "reasoning": None}}]})
    trial_made = (await harness.observe()).evidence.trial
    assert trial_made is not None
    assert trial_made.golden == GoldenAnswers(("the answer is 42", "the answer is 42"))


async def test_tokens_without_text_at_the_end_are_timed(harness: GateHarness, engine: BrokenEngineStub) -> None:
    """After its natural end a model may emit special tokens. Ending the time before them would make it look fast."""
    engine.stream_bytes = TEXT + chunk(choices=[{"text": ""}]) + USAGE + DONE
    state = await harness.observe()
    assert "in one piece" not in state.verdict.message, "the chunk without text is the end"
    assert "rose by 0" in state.verdict.message
