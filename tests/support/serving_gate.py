"""A gate that watches an engine stub by the virtual clock, with users that come and go."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp.test_utils import TestServer

from engine_stub.engine import EngineStub, Script
from engine_stub.scripts import paced
from engine_stub.virtual_time import run_in_virtual_time
from flash_contracts.engine_pod import QUARANTINE_FILE, DrainRequest
from flash_contracts.engine_record import EngineRecord
from flash_contracts.gate_result import GateResult
from flash_engine.gate.engine_client import EngineClient
from flash_engine.gate.gate import Gate
from flash_engine.gate.gate_state import GateState
from flash_engine.gate.result import result_of
from gate_matrix.run import CONFIG, merged
from waiting import eventually_async

STARTED = "2026-11-24T12:00:00.000Z"


@dataclass
class ServingGate:
    """A gate that is watching an engine, and users that can be added and removed."""

    gate: Gate
    engine: EngineStub
    folder: Path
    url: str
    session: aiohttp.ClientSession
    changes: list[tuple[float, str, bool]] = field(default_factory=list)
    """When the verdict or readiness changed: seconds, reason, ready."""
    _users: list[asyncio.Task[None]] = field(default_factory=list)

    @property
    def state(self) -> GateState:
        return self.gate.state

    def result(self) -> GateResult:
        """As the operator reads it."""
        return GateResult.of(json.loads(json.dumps(result_of(self.gate.state, self.gate.config, None).to_json())))

    def configure(self, **changes: Any) -> None:
        (self.folder / "gate.json").write_text(json.dumps(merged(CONFIG, changes)))

    def record(self, **fields: Any) -> None:
        record = EngineRecord(**{"phase": "Starting", "pid": 7, "started_at": STARTED, "starts": 1, **fields})
        record.write(self.folder / EngineRecord.FILE)

    def record_change(self, state: GateState) -> None:
        change = (state.verdict.reason, state.ready)
        if not self.changes or self.changes[-1][1:] != change:
            self.changes.append((asyncio.get_running_loop().time(), *change))

    def grant(self) -> None:
        assert self.state.degraded is not None
        (self.folder / QUARANTINE_FILE).write_text(self.state.degraded.since)

    def drain(self) -> None:
        DrainRequest(7, STARTED).write(self.folder / DrainRequest.FILE)

    def restarted_gate(self) -> Gate:
        """A new process of the gate; engine, files and users are unchanged."""
        client = EngineClient(self.session, self.url)
        return Gate(client, self.folder / "gate.json", self.folder, lambda _: None, node_dir=self.folder)

    def add_users(self, users: int = 1, tokens: int = 200) -> None:
        self._users += [asyncio.create_task(self._use(tokens)) for _ in range(users)]

    async def remove_users(self) -> None:
        for user in self._users:
            user.cancel()
        await asyncio.gather(*self._users, return_exceptions=True)
        self._users.clear()

    async def _use(self, tokens: int) -> None:
        body = {"model": "m", "prompt": "p", "max_tokens": tokens, "stream": True}
        while True:
            async with self.session.post(f"{self.url}v1/completions", json=body) as answer:
                await answer.read()

    async def until(self, what: Callable[[GateState], bool], seconds: float = 120) -> float:
        """How long it took."""
        clock = asyncio.get_running_loop().time
        began = clock()
        await eventually_async(
            lambda: what(self.state), "the gate's state", seconds=seconds, pause=0.1, seen=lambda: self.state
        )
        return clock() - began


def run_scenario(
    folder: Path, scenario: Callable[[ServingGate], Awaitable[None]], *scripts: Script, **config: Any
) -> ServingGate:
    """Run a scenario beside a healthy engine with additional scripts."""

    async def run() -> ServingGate:
        engine = EngineStub(paced(), *scripts)
        connector = aiohttp.TCPConnector(force_close=True)
        async with TestServer(engine.app()) as server, aiohttp.ClientSession(connector=connector) as session:
            url = str(server.make_url("/"))
            made: list[ServingGate] = []

            def on_change(state: GateState) -> None:
                made[0].record_change(state)

            gate = Gate(EngineClient(session, url), folder / "gate.json", folder, on_change, node_dir=folder)
            made.append(ServingGate(gate, engine, folder, url, session))
            made[0].configure(**config)
            made[0].record()
            watching = asyncio.create_task(gate.watch())
            await scenario(made[0])
            await made[0].remove_users()
            watching.cancel()
            return made[0]

    return run_in_virtual_time(run())
