"""The gate beside a serving engine: when it measures again, when readiness ends, and when it returns.

The virtual clock makes minutes of traffic pass in a moment.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp.test_utils import TestServer

from engine_stub.engine import EngineStub, Script
from engine_stub.scripts import dead_draft, hangs_after, having, paced, slow, wrong_text
from engine_stub.virtual_time import run_in_virtual_time
from flash_contracts.document import write_json
from flash_contracts.engine_pod import QUARANTINE_FILE, DrainRequest, FaultReport
from flash_contracts.engine_record import EngineRecord
from flash_contracts.gate_result import GateResult
from flash_contracts.trial_record import TrialRecord
from flash_engine.gate.engine_client import EngineClient
from flash_engine.gate.gate import Gate
from flash_engine.gate.gate_state import GateState
from flash_engine.gate.pod_annotations import FLOOR_FILE
from flash_engine.gate.result import result_of
from gate_matrix.run import CONFIG, merged
from waiting import eventually_async

STARTED = "2026-11-24T12:00:00.000Z"
WELL = having(slow_down=1.0, acceptance=0.92, hang_after_tokens=None)


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


def passed(state: GateState) -> bool:
    return state.verdict.passed


def degraded(state: GateState) -> bool:
    return state.verdict.reason == "Degraded"


def ready(state: GateState) -> bool:
    return state.ready


def not_ready(state: GateState) -> bool:
    return not state.ready


def test_a_slow_replica_serves_until_its_quarantine_is_granted_and_returns_once_it_has_recovered(
    tmp_path: Path,
) -> None:
    async def scenario(serving: ServingGate) -> None:
        await serving.until(passed)
        serving.add_users()
        await asyncio.sleep(5)
        serving.engine.play(slow(3))
        await serving.until(degraded)
        await asyncio.sleep(30)
        assert ready(serving.state), "quarantine was not granted, and a slow replica is better than none"
        assert serving.result().serving.degraded is not None
        serving.grant()
        await serving.until(not_ready)
        await serving.remove_users()
        await asyncio.sleep(20)
        assert not_ready(serving.state), "measured again and still slow"
        assert serving.state.degraded is not None
        assert serving.state.degraded.measured
        serving.engine.play(WELL)
        await serving.until(passed)
        assert ready(serving.state)
        assert serving.result().serving.degraded is None

    serving = run_scenario(tmp_path, scenario)
    assert [reason for _, reason, _ in serving.changes if reason != "EngineStarting"][:2] == ["Passed", "Degraded"]


def test_a_grant_of_an_earlier_quarantine_request_is_ignored(tmp_path: Path) -> None:
    async def scenario(serving: ServingGate) -> None:
        (serving.folder / QUARANTINE_FILE).write_text("2026-11-24T11:00:00.000Z")
        await serving.until(passed)
        serving.add_users()
        serving.engine.play(slow(3))
        await serving.until(degraded)
        await asyncio.sleep(20)
        assert serving.state.ready

    run_scenario(tmp_path, scenario)


def test_a_grant_is_ignored_if_degradation_is_only_reported(tmp_path: Path) -> None:
    async def scenario(serving: ServingGate) -> None:
        await serving.until(passed)
        serving.add_users()
        serving.engine.play(slow(3))
        await serving.until(degraded)
        serving.grant()
        await asyncio.sleep(20)
        assert serving.state.ready

    run_scenario(tmp_path, scenario, serving={"onDegraded": "Report"})


def test_a_suspected_engine_is_measured_once_it_is_idle(tmp_path: Path) -> None:
    async def scenario(serving: ServingGate) -> None:
        await serving.until(passed)
        serving.add_users()
        await asyncio.sleep(5)
        serving.engine.play(slow(3))
        await asyncio.sleep(8)
        assert serving.state.verdict.passed, "not believed yet"
        await serving.remove_users()
        await serving.until(degraded, seconds=20)
        assert serving.state.degraded is not None
        assert serving.state.degraded.measured
        assert "TooSlow: decode" in serving.state.verdict.message

    run_scenario(tmp_path, scenario)


def test_a_suspected_engine_that_measures_well_stays_ready(tmp_path: Path) -> None:
    async def scenario(serving: ServingGate) -> None:
        await serving.until(passed)
        serving.add_users()
        await asyncio.sleep(5)
        serving.engine.play(slow(3))
        await asyncio.sleep(8)
        serving.engine.play(WELL)
        await serving.remove_users()
        await asyncio.sleep(30)

    serving = run_scenario(tmp_path, scenario)
    assert [(reason, is_ready) for _, reason, is_ready in serving.changes][-1] == ("Passed", True)
    assert not any(reason == "Degraded" for _, reason, _ in serving.changes)


def test_a_healthy_serving_engine_gets_no_requests_from_the_gate(tmp_path: Path) -> None:
    async def scenario(serving: ServingGate) -> None:
        await serving.until(passed)
        asked = (serving.engine.count("chat"), serving.state.attempts)
        serving.add_users(users=3)
        await asyncio.sleep(120)
        await serving.remove_users()
        await asyncio.sleep(120)
        assert (serving.engine.count("chat"), serving.state.attempts) == asked

    serving = run_scenario(tmp_path, scenario)
    assert [is_ready for _, _, is_ready in serving.changes] == [False, True] or serving.changes[-1][2]


def test_an_engine_whose_draft_dies_is_degraded(tmp_path: Path) -> None:
    async def scenario(serving: ServingGate) -> None:
        await serving.until(passed)
        serving.add_users(users=2)
        serving.engine.play(dead_draft())
        await serving.until(degraded)
        assert "MTP head is dead" in serving.state.verdict.message

    run_scenario(tmp_path, scenario)


def test_a_hang_ends_readiness_at_once_and_requests_a_restart(tmp_path: Path) -> None:
    async def scenario(serving: ServingGate) -> None:
        await serving.until(passed)
        serving.add_users()
        await asyncio.sleep(5)
        serving.engine.play(hangs_after(1))
        took = await serving.until(not_ready)
        assert took <= CONFIG["serving"]["stallSeconds"] + 2 * CONFIG["serving"]["watchSeconds"] + 1
        assert serving.state.hung
        assert serving.state.restart
        assert "the engine hangs" in serving.state.verdict.message
        report = json.loads((serving.folder / FaultReport.FILE).read_text())
        assert (report["kind"], report["signature"], report["pid"]) == ("hang", "S3", 7)
        await serving.remove_users()
        serving.record(pid=8, started_at="2026-11-24T13:00:00.000Z")
        serving.engine.play(WELL)
        await serving.until(passed)

    run_scenario(tmp_path, scenario)


def test_an_engine_that_answers_late_is_not_restarted(tmp_path: Path) -> None:
    async def scenario(serving: ServingGate) -> None:
        await serving.until(passed)
        serving.engine.play(having(first_token_seconds=5.0, step_seconds=0.5))
        serving.add_users(users=4)
        for _ in range(200):
            await asyncio.sleep(0.5)
            assert not serving.state.restart

    run_scenario(tmp_path, scenario)


def test_a_restart_is_requested_for_a_quarantined_and_measured_replica(tmp_path: Path) -> None:
    async def scenario(serving: ServingGate) -> None:
        await serving.until(passed)
        serving.add_users()
        serving.engine.play(slow(3))
        await serving.until(degraded)
        assert not serving.state.restart
        serving.grant()
        await serving.until(not_ready)
        assert not serving.state.restart, "inferred from traffic only, which may mislead"
        await serving.remove_users()
        await serving.until(lambda state: state.restart)

    run_scenario(tmp_path, scenario, serving={"onDegraded": "Restart"})


def test_wrong_answers_in_a_recheck_end_readiness_at_once(tmp_path: Path) -> None:
    async def scenario(serving: ServingGate) -> None:
        await serving.until(passed)
        serving.add_users()
        await asyncio.sleep(3)
        serving.engine.play(slow(3), wrong_text())
        await asyncio.sleep(8)
        await serving.remove_users()
        await serving.until(not_ready)
        assert serving.state.verdict.reason == "WrongOutput"

    run_scenario(tmp_path, scenario)


def test_a_drain_ends_readiness_until_the_next_run(tmp_path: Path) -> None:
    async def scenario(serving: ServingGate) -> None:
        await serving.until(passed)
        write_json(serving.folder / DrainRequest.FILE, {"version": 1, "pid": 7, "startedAt": STARTED})
        await serving.until(not_ready, seconds=3)
        assert serving.state.verdict.passed, "it drains, but its verdict stays"
        assert serving.result().serving.draining
        serving.record(pid=8, started_at="2026-11-24T13:00:00.000Z")
        await serving.until(ready)

    run_scenario(tmp_path, scenario)


def test_a_learned_floor_is_waited_for_and_enforced(tmp_path: Path) -> None:
    async def scenario(serving: ServingGate) -> None:
        await asyncio.sleep(5)
        assert serving.state.attempts == 0, "it waits for the floor"
        (serving.folder / FLOOR_FILE).write_text('{"minTokensPerSecond": 100, "told": "learned from 5 like it"}')
        await serving.until(lambda state: state.verdict.reason == "TooSlow")
        assert "wanted at least 100 (learned from 5 like it)" in serving.state.verdict.message
        wanted = serving.result().wanted
        assert wanted is not None
        assert (wanted.decode_tokens_per_second, wanted.floor_origin) == (100, "Learned")

    run_scenario(tmp_path, scenario, floorFrom="Learned")


def test_without_an_operator_the_fixed_floor_holds(tmp_path: Path) -> None:
    async def scenario(serving: ServingGate) -> None:
        assert 20 <= await serving.until(passed) <= 30

    run_scenario(tmp_path, scenario, floorFrom="Learned")


def test_an_engine_with_incomplete_metrics_is_reported_as_unmonitored(tmp_path: Path) -> None:
    async def scenario(serving: ServingGate) -> None:
        await serving.until(passed)
        serving.engine.traits.missing_metric = "vllm:num_requests_running"
        await asyncio.sleep(5)
        assert serving.state.blind is not None
        assert "vllm:num_requests_running" in serving.state.blind
        assert serving.state.ready

    run_scenario(tmp_path, scenario)


def restarted_gate(serving: ServingGate) -> Gate:
    """A new process of the gate; engine, files and users are unchanged."""
    return Gate(
        EngineClient(serving.session, serving.url),
        serving.folder / "gate.json",
        serving.folder,
        lambda _: None,
        node_dir=serving.folder,
    )


def test_a_restarted_gate_is_ready_at_once_without_a_trial(tmp_path: Path) -> None:
    async def scenario(serving: ServingGate) -> None:
        await serving.until(passed)
        serving.add_users()
        asked = serving.engine.count("chat")
        again = restarted_gate(serving)
        await again.observe()
        assert again.state.ready
        assert again.state.verdict == serving.state.verdict
        assert serving.engine.count("chat") == asked
        serving.engine.play(slow(3))
        async with asyncio.timeout(60):
            while again.state.degraded is None:
                await again.observe()
                await asyncio.sleep(1)

    run_scenario(tmp_path, scenario)


def test_a_stored_trial_is_judged_by_the_current_floors(tmp_path: Path) -> None:
    async def scenario(serving: ServingGate) -> None:
        await serving.until(passed)
        serving.configure(decode={"minTokensPerSecond": 500}, retrySeconds=3600)
        again = restarted_gate(serving)
        await again.observe()
        assert (again.state.verdict.reason, again.state.attempts) == ("TooSlow", 0)

    run_scenario(tmp_path, scenario)


def test_a_stored_trial_with_another_question_is_ignored(tmp_path: Path) -> None:
    async def scenario(serving: ServingGate) -> None:
        await serving.until(passed)
        serving.configure(golden={"prompt": "6 x 7?"})
        again = restarted_gate(serving)
        await again.observe()
        assert again.state.attempts == 1

    run_scenario(tmp_path, scenario)


def test_a_stored_trial_of_another_run_is_ignored(tmp_path: Path) -> None:
    async def scenario(serving: ServingGate) -> None:
        await serving.until(passed)
        remembered = (serving.folder / TrialRecord.FILE).read_text()
        serving.record(pid=8, started_at="2026-11-24T13:00:00.000Z")
        (serving.folder / TrialRecord.FILE).write_text(remembered)
        again = restarted_gate(serving)
        await again.observe()
        assert again.state.attempts == 1

    run_scenario(tmp_path, scenario)


def test_an_invalid_stored_trial_is_ignored(tmp_path: Path) -> None:
    async def scenario(serving: ServingGate) -> None:
        await serving.until(passed)
        for text in ("{", '{"pid": 7, "startedAt": "' + STARTED + '"}'):
            (serving.folder / TrialRecord.FILE).write_text(text)
            again = restarted_gate(serving)
            await again.observe()
            assert again.state.attempts == 1

    run_scenario(tmp_path, scenario)


def test_a_quarantined_replica_stays_out_when_its_gate_restarts(tmp_path: Path) -> None:
    async def scenario(serving: ServingGate) -> None:
        await serving.until(passed)
        serving.add_users()
        serving.engine.play(slow(3))
        await serving.until(degraded)
        serving.grant()
        await serving.until(not_ready)
        again = restarted_gate(serving)
        await again.observe()
        assert not again.state.ready
        assert again.state.degraded == serving.state.degraded

    run_scenario(tmp_path, scenario)


def test_a_raised_floor_ends_the_readiness_of_a_degraded_engine(tmp_path: Path) -> None:
    async def scenario(serving: ServingGate) -> None:
        await serving.until(passed)
        serving.add_users()
        serving.engine.play(slow(3))
        await serving.until(degraded)
        assert ready(serving.state)
        serving.configure(decode={"minTokensPerSecond": 500}, retrySeconds=3600)
        await serving.until(not_ready, seconds=5)
        assert serving.state.verdict.reason == "TooSlow"

    run_scenario(tmp_path, scenario)
