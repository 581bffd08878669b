"""Engines that reject some requests: with API keys, or with a limit on queued requests."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from aiohttp.typedefs import Handler

from engine_stub.engine import EngineStub
from flash_engine.gate import trial
from flash_engine.gate.engine_client import EngineClient
from flash_engine.gate.gate import Gate
from gate_harness import GateHarness

KEY = "key-of-team-a"
BUSY = '{"error": {"message": "The engine is currently busy and cannot accept new requests.", "code": 503}}'


@dataclass
class Guard:
    """In front of the engine's API, as vLLM has it."""

    keys: set[str] = field(default_factory=set)
    rejects: int = 0
    """Rejects so many requests, because other clients fill the queue."""
    status: int = 503

    @web.middleware
    async def answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if not request.path.startswith("/v1"):
            return await handler(request)
        if self.keys and request.headers.get("Authorization", "").removeprefix("Bearer ") not in self.keys:
            return web.json_response({"error": "Unauthorized"}, status=401)
        if self.rejects:
            self.rejects -= 1
            return web.Response(status=self.status, text=BUSY)
        return await handler(request)


@pytest.fixture
def guard() -> Guard:
    return Guard()


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    folder = tmp_path / "api-keys"
    folder.mkdir()
    (folder / "team-a").write_text(KEY)
    return folder


@pytest.fixture
async def harness(
    engine: EngineStub, guard: Guard, secret: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[GateHarness]:
    monkeypatch.setattr(trial, "RETRY_SECONDS", 0.01)
    app = engine.app()
    app.middlewares.append(guard.answer)
    async with TestServer(app) as server, aiohttp.ClientSession() as session:
        client = EngineClient(session, str(server.make_url("")), keys=secret)
        gate = Gate(client, tmp_path / "gate.json", tmp_path, lambda _state: None)
        made = GateHarness(gate, engine, tmp_path, tmp_path / "gate.json")
        made.configure()
        made.record()
        yield made


async def test_the_gate_measures_an_engine_that_requires_a_key(harness: GateHarness, guard: Guard) -> None:
    guard.keys = {KEY}
    assert (await harness.observe()).verdict.reason == "Passed"


async def test_a_key_that_was_replaced_meanwhile_is_no_fault(harness: GateHarness, guard: Guard, secret: Path) -> None:
    guard.keys = {"new"}
    state = await harness.observe()
    assert state.verdict.reason == "Inconclusive"
    assert "engine.apiKeysSecret" in state.verdict.message
    assert KEY not in state.verdict.message
    (secret / "team-a").write_text("new")
    assert (await harness.observe()).verdict.reason == "Passed"


@pytest.mark.parametrize("status", [429, 503])
async def test_a_full_queue_is_no_fault_of_the_engine(harness: GateHarness, guard: Guard, status: int) -> None:
    guard.status, guard.rejects = status, 100
    state = await harness.observe()
    assert state.verdict.reason == "Inconclusive"
    assert "accepts no more requests for now" in state.verdict.message
    guard.rejects = 0
    assert (await harness.observe()).verdict.reason == "Passed"


async def test_a_queue_that_is_full_for_a_moment_delays_nothing(harness: GateHarness, guard: Guard) -> None:
    guard.rejects = trial.TRIES - 1
    assert (await harness.observe()).verdict.reason == "Passed"


async def test_a_full_queue_takes_no_replica_out_of_service(harness: GateHarness, guard: Guard) -> None:
    assert (await harness.observe()).verdict.reason == "Passed"
    guard.rejects = 100
    for _ in range(3):
        state = await harness.observe()
    assert state.verdict.reason == "Passed"
    assert not state.hung
