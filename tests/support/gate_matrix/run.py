"""Runs one scenario, a real gate beside an engine stub and simulated users, and records the outcome.

Every change of readiness is recorded, so even a moment counts: for an engine that is faulty from the start, having been
ready once is a false Ready.
"""

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from pathlib import Path
from random import Random
from typing import Any

import aiohttp
from aiohttp.test_utils import BaseTestServer, TestServer

from engine_stub.engine import EngineStub
from engine_stub.traits import Traits
from flash_contracts.document import now
from flash_contracts.engine_pod import QUARANTINE_FILE, FaultReport
from flash_contracts.engine_record import EngineExit, EngineRecord
from flash_engine.gate.engine_client import EngineClient
from flash_engine.gate.gate import Gate
from flash_engine.gate.gate_state import GateState
from flash_operator.api.v1alpha1 import DEFAULT_ANSWER, LONG_ANSWER, LONG_QUESTION
from flash_operator.core.resources.gate_config import LONG_ANSWER_TOKENS
from gate_matrix.scenarios import Scenario

CONFIG: dict[str, Any] = {
    "version": 1,
    "model": "m",
    "speculation": {"expected": True, "tokens": 1},
    "golden": {"kind": "chat", "prompt": "17 + 25?", "expect": DEFAULT_ANSWER, "maxTokens": 32},
    "longAnswer": {"kind": "chat", "prompt": LONG_QUESTION, "expect": LONG_ANSWER, "maxTokens": LONG_ANSWER_TOKENS},
    "decode": {"minTokensPerSecond": 60, "prompt": "tell", "tokens": 128, "samples": 3},
    "longPrompt": {"tokens": 4096, "minPrefillTokensPerSecond": 500, "minDecodePercent": 75, "textIsJudged": True},
    "features": {"toolCalls": True, "reasoning": True, "jsonSchema": True, "required": False},
    "minAcceptancePercent": 40,
    "maxFirstTokenMillis": 1000,
    "startupTimeoutSeconds": 3600,
    "requestTimeoutSeconds": 120,
    "retrySeconds": 1,
    "serving": {"watchSeconds": 1, "windows": 3, "stallSeconds": 6, "onDegraded": "Quarantine"},
}
"""The floors are the API's defaults. Pauses are shorter, so that a run has several trials."""

LONGEST_SECONDS = 600.0
SETTLED_TRIALS = 2
"""A failure must persist for this many trials after its detection: what passes at the second try is no failure."""

SERVED_SECONDS = 20.0
CLOCK_STEP_AT = 0.5
EPOCH = datetime(2026, 11, 24, 12, 0, 0, tzinfo=UTC)


@dataclass
class Outcome:
    """The gate's verdicts in order, and when the pod was ready (seconds from the start)."""

    scenario: Scenario
    reasons: list[str] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)
    ready: list[tuple[float, bool]] = field(default_factory=list)
    healthy_at: float | None = None
    failed_at: float | None = None
    detected_at: float | None = None
    served: int = 0
    """Users' requests that were answered."""
    late_share: float = 0.0
    """How far the engine stub fell behind its own pace."""

    @property
    def reason(self) -> str:
        return self.reasons[-1] if self.reasons else "nothing"

    @property
    def was_ready(self) -> bool:
        return any(ready for _, ready in self.ready)

    @property
    def is_ready(self) -> bool:
        return bool(self.ready) and self.ready[-1][1]

    @property
    def false_ready(self) -> bool:
        """Ready when it should not be: at any time, or, for an engine that failed while serving, at the end."""
        if self.scenario.healthy:
            return False
        return self.is_ready if self.scenario.fails_while_serving else self.was_ready

    @property
    def false_not_ready(self) -> bool:
        """Not ready at the end, or not ready at some time after it first was."""
        return self.scenario.healthy and not (self.is_ready and len(self.ready) == 1)

    @property
    def wrong_reason(self) -> bool:
        """A wrong final verdict, or an earlier one with a fault that the engine does not have."""
        harmless = {"EngineStarting", "Inconclusive", *self.scenario.reasons}
        if self.scenario.fails_while_serving:
            harmless.add("Passed")
        return self.reason not in self.scenario.reasons or not harmless.issuperset(self.reasons)

    @property
    def right(self) -> bool:
        return not (self.false_ready or self.false_not_ready or self.wrong_reason)

    @property
    def seconds_to_ready(self) -> float | None:
        if self.healthy_at is None or not self.was_ready:
            return None
        return self.ready[0][0] - self.healthy_at

    @property
    def seconds_to_detect(self) -> float | None:
        """From the failure of a serving engine to the verdict."""
        return None if self.failed_at is None or self.detected_at is None else self.detected_at - self.failed_at


async def run(scenario: Scenario, seed: int) -> Outcome:
    """Run one scenario to its end."""
    outcome = Outcome(scenario)
    with tempfile.TemporaryDirectory() as folder:
        async with _stage(scenario, Random(seed), Path(folder), outcome) as stage:
            await stage.play()
    return outcome


@asynccontextmanager
async def _stage(scenario: Scenario, draw: Random, folder: Path, outcome: Outcome) -> AsyncIterator["_Stage"]:
    (folder / "gate.json").write_text(json.dumps(merged(CONFIG, scenario.config)))
    engine = EngineStub(*scenario.scripts(draw), seed=draw.randint(0, 1 << 30))
    connector = aiohttp.TCPConnector(force_close=True)
    async with TestServer(engine.app()) as server, aiohttp.ClientSession(connector=connector) as session:
        stage = _Stage(scenario, draw, folder, outcome, engine, server, session)
        engine.on_death = stage.record_exit
        stage.record()
        yield stage


class _Stage:
    """The parts of a run. It records the engine's exit like the launcher, and grants quarantine like the operator."""

    def __init__(
        self,
        scenario: Scenario,
        draw: Random,
        folder: Path,
        outcome: Outcome,
        engine: EngineStub,
        server: BaseTestServer,
        session: aiohttp.ClientSession,
    ) -> None:
        self._scenario, self._draw, self._folder, self._outcome = scenario, draw, folder, outcome
        self._engine, self._server, self._session = engine, server, session
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._url = str(server.make_url("/"))
        client = EngineClient(session, self._url)
        self._gate = Gate(client, folder / "gate.json", folder, self._record_change, node_dir=folder, clock=self._clock)
        self._users: list[asyncio.Task[None]] = []
        self._computing: str | None = None

    def record(self, **fields: Any) -> None:
        started = EPOCH.isoformat()
        record = EngineRecord(**{"phase": "Starting", "pid": 7, "started_at": started, "starts": 1, **fields})
        record.write(self._folder / EngineRecord.FILE)

    def record_exit(self, traits: Traits) -> None:
        ended = EngineExit(traits.exit_code, traits.exit_signal, now(), traits.last_lines, oom_kills=traits.oom_kills)
        self.record(phase="Exited", pid=None, exit=ended)

    async def _look_at_engine(self) -> None:
        """Like the launcher once the gate has reported a hang: it sees whether the engine computes."""
        while True:
            reported = (self._folder / FaultReport.FILE).exists()
            computing = "ptxas compiles" if reported and self._engine.compiles else None
            if computing != self._computing:
                self._computing = computing
                self.record(computing=computing)
            await asyncio.sleep(0.5)

    async def _watch(self) -> None:
        await asyncio.gather(self._gate.watch(), self._look_at_engine())

    async def play(self) -> None:
        watching = asyncio.create_task(self._watch())
        try:
            async with asyncio.timeout(LONGEST_SECONDS):
                await self._play_out()
        except TimeoutError:
            self._outcome.reasons.append(f"{self._outcome.reason}, and nothing else in {LONGEST_SECONDS:g} s")
        finally:
            for task in (watching, *self._users):
                task.cancel()
            (ended, *_) = await asyncio.gather(watching, *self._users, return_exceptions=True)
            if isinstance(ended, Exception):
                raise ended  # the gate's process would have ended
            self._outcome.late_share = self._engine.late_share

    async def _play_out(self) -> None:
        outcome = self._outcome
        if not (self._scenario.healthy or self._scenario.fails_while_serving):
            await self._until_detected()
            await self._until_trials(self._gate.state.attempts + SETTLED_TRIALS)
            return
        while not outcome.was_ready:
            await asyncio.sleep(0.2)
        self._users = [asyncio.create_task(self._use()) for _ in range(self._scenario.streams)]
        while outcome.served < self._scenario.streams:
            await asyncio.sleep(0.2)
        if not self._scenario.users_stay:
            for user in self._users:
                user.cancel()
        await asyncio.sleep(self._draw.uniform(1, 4) if self._scenario.later else SERVED_SECONDS)
        if self._scenario.later:
            outcome.failed_at = self._at()
            self._engine.play(*self._scenario.later(self._draw))
            if self._scenario.healthy:
                await asyncio.sleep(3 * SERVED_SECONDS)
                return
            await self._until_detected()
            while outcome.is_ready:
                await asyncio.sleep(0.2)

    async def _until_detected(self) -> None:
        while self._outcome.reason not in self._scenario.reasons:
            await asyncio.sleep(0.1)
        self._outcome.detected_at = self._at()

    async def _until_trials(self, wanted: int) -> None:
        """Wait for this many trials, or some seconds: an engine that has exited is not tried again."""
        deadline = self._at() + 5
        while (self._gate.state.attempts < wanted and self._gate.state.evidence.healthy) or self._at() < deadline:
            await asyncio.sleep(0.2)

    async def _use(self) -> None:
        """One user, sending one request after another."""
        while True:
            prompt = " ".join(["word"] * self._scenario.prompt_tokens)
            body = {"model": "m", "prompt": prompt, "max_tokens": self._draw.randint(40, 400), "stream": True}
            with suppress(aiohttp.ClientError):
                async with self._session.post(f"{self._url}v1/completions", json=body) as answer:
                    await answer.read()
                    self._outcome.served += answer.status == HTTPStatus.OK
            await asyncio.sleep(self._draw.uniform(0.01, 0.5))

    def _record_change(self, state: GateState) -> None:
        outcome = self._outcome
        if state.verdict.reason != outcome.reason:
            outcome.reasons.append(state.verdict.reason)
            outcome.messages.append(state.verdict.message)
        if state.evidence.healthy and outcome.healthy_at is None:
            outcome.healthy_at = self._at()
        if state.ready != outcome.is_ready:
            outcome.ready.append((self._at(), state.ready))
        if state.degraded:
            (self._folder / QUARANTINE_FILE).write_text(state.degraded.since)

    def _at(self) -> float:
        return self._loop.time() - self._began

    def _clock(self) -> datetime:
        """The wall clock, which may be set while the engine starts."""
        return EPOCH + timedelta(
            seconds=self._at() + (self._scenario.clock_step if self._at() > CLOCK_STEP_AT else 0.0)
        )


def merged(config: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Change a gate.json; a dict changes the keys inside."""
    made = dict(config)
    for key, value in changes.items():
        made[key] = {**config.get(key, {}), **value} if isinstance(value, dict) else value
    return made
