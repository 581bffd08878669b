"""Simulates a few replicas behind a Service on one virtual clock.

Real: the gates, their files, flash-drain's waiting, and every request to the engine stubs. Simulated, with delays: the
kubelet's readiness probe (every 2 s, two failures), the endpoint that follows it (1 s later for every client), and the
termination of a pod (flash-drain's waiting, then the end of the engine).
"""

import asyncio
import json
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import aiohttp
from aiohttp.test_utils import TestServer

from engine_stub.engine import EngineStub
from engine_stub.scripts import loading, paced
from flash_contracts.document import write_json
from flash_contracts.engine_pod import QUARANTINE_FILE, DrainRequest
from flash_contracts.engine_record import EngineRecord
from flash_engine.drain.drain_progress import DrainProgress
from flash_engine.gate.engine_client import EngineClient
from flash_engine.gate.gate import Gate
from gate_matrix.run import CONFIG, merged

PROBE_SECONDS = 2.0
FAILURE_THRESHOLD = 2
PROPAGATION_SECONDS = 1.0
DRAIN_SECONDS = 60.0


@dataclass
class SimulatedPod:
    """One replica. `is_endpoint`: clients currently send requests to it."""

    name: str
    folder: Path
    session: aiohttp.ClientSession
    scripts: tuple[Any, ...] = ()
    engine: EngineStub = field(init=False)
    gate: Gate = field(init=False)
    server: TestServer = field(init=False)
    is_endpoint: bool = False
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def start(self) -> None:
        self.folder.mkdir()
        self.engine = EngineStub(loading(1.0), paced(400, first_token=0.05), *self.scripts)
        self.server = TestServer(self.engine.app())
        await self.server.start_server()
        self.url = str(self.server.make_url("/"))
        (self.folder / "gate.json").write_text(json.dumps(merged(CONFIG, {"decode": {"minTokensPerSecond": 200}})))
        record = EngineRecord("Starting", 7, "2026-11-24T12:00:00.000Z", 1)
        record.write(self.folder / EngineRecord.FILE)
        self.start_gate()
        self._tasks.append(asyncio.create_task(self._probe()))

    def start_gate(self) -> None:
        client = EngineClient(self.session, self.url)
        self.gate = Gate(client, self.folder / "gate.json", self.folder, lambda _: None, node_dir=self.folder)
        self._gate_task = asyncio.create_task(self.gate.watch())

    async def restart_gate(self) -> None:
        self._gate_task.cancel()
        await asyncio.sleep(1.0)
        self.start_gate()

    async def _probe(self) -> None:
        failures = 0
        while True:
            await asyncio.sleep(PROBE_SECONDS)
            ready = self.gate.state.ready and not self._gate_task.cancelled()
            failures = 0 if ready else failures + 1
            if ready != self.is_endpoint and (ready or failures >= FAILURE_THRESHOLD):
                await asyncio.sleep(PROPAGATION_SECONDS)
                self.is_endpoint = ready

    async def delete(self) -> None:
        """Run the preStop hook, then end the pod."""
        write_json(self.folder / DrainRequest.FILE, {"version": 1, "pid": 7, "startedAt": "2026-11-24T12:00:00.000Z"})
        clock = asyncio.get_running_loop().time
        client = EngineClient(self.session, self.url)
        asyncio.get_running_loop().call_later(PROPAGATION_SECONDS, self._remove_endpoint)
        waiting = DrainProgress(began=clock(), timeout=DRAIN_SECONDS)
        while not waiting.outcome(clock()):
            waiting = waiting.after_counters(await client.counters(), clock())
            await asyncio.sleep(0.5)
        await self.end()

    def _remove_endpoint(self) -> None:
        """The endpoint of a deleted pod is removed without waiting for its probe."""
        self.is_endpoint = False

    async def end(self) -> None:
        for task in (*self._tasks, self._gate_task):
            task.cancel()
        await self.server.close()

    def grant_quarantine(self) -> None:
        if self.gate.state.degraded:
            (self.folder / QUARANTINE_FILE).write_text(self.gate.state.degraded.since)


@dataclass
class SimulatedService:
    """Sends requests to a ready pod, and counts answers and failures."""

    session: aiohttp.ClientSession
    pods: list[SimulatedPod] = field(default_factory=list)
    answered: int = 0
    failed: list[str] = field(default_factory=list)
    _random: Random = field(default_factory=lambda: Random(7))

    async def send_requests(self) -> None:
        """One client that sends one request after another."""
        while True:
            ready = [pod for pod in self.pods if pod.is_endpoint]
            if not ready:
                self.failed.append("no endpoint")
                await asyncio.sleep(0.1)
                continue
            await self._request(self._random.choice(ready))

    async def _request(self, pod: SimulatedPod) -> None:
        body = {"model": "m", "prompt": "p", "max_tokens": self._random.randint(10, 200), "stream": True}
        try:
            async with self.session.post(f"{pod.url}v1/completions", json=body) as answer:
                text = await answer.text()
        except aiohttp.ClientError as error:
            self.failed.append(f"{pod.name}: {type(error).__name__}")
            await asyncio.sleep(0.05)
            return
        if answer.status == 200 and text.rstrip().endswith("[DONE]"):
            self.answered += 1
        else:
            self.failed.append(f"{pod.name}: {answer.status}")
