"""Fixtures: a gate beside an engine stub, and a launcher with its folders."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp.test_utils import TestServer

from engine_stub.engine import EngineStub
from flash_engine.gate.engine_client import EngineClient
from flash_engine.gate.gate import Gate
from gate_harness import GateHarness
from launcher_harness import Launcher


@pytest.fixture
def engine() -> EngineStub:
    return EngineStub()


@pytest.fixture
async def harness(engine: EngineStub, tmp_path: Path) -> AsyncIterator[GateHarness]:
    config_file = tmp_path / "gate.json"
    async with TestServer(engine.app()) as server, aiohttp.ClientSession() as session:
        client = EngineClient(session, str(server.make_url("")))
        gate = Gate(client, config_file, tmp_path, lambda _state: None)
        made = GateHarness(gate, engine, tmp_path, config_file)
        made.configure()
        made.record()
        yield made


@pytest.fixture
def launcher(tmp_path: Path) -> Iterator[Launcher]:
    made = Launcher(tmp_path)
    yield made
    made.end()
