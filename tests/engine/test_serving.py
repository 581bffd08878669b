"""The gate beside a serving engine: when it measures again, when readiness ends, and when it returns.

The virtual clock makes minutes of traffic pass in a moment.
"""

import asyncio
import json
from pathlib import Path

from engine_stub.scripts import dead_draft, hangs_after, having, slow, wrong_text
from flash_contracts.engine_pod import QUARANTINE_FILE, FaultReport
from flash_contracts.trial_record import TrialRecord
from flash_engine.gate.gate_state import GateState
from flash_engine.gate.pod_annotations import FLOOR_FILE
from gate_matrix.run import CONFIG
from serving_gate import STARTED, ServingGate, run_scenario

WELL = having(slow_down=1.0, acceptance=0.92, hang_after_tokens=None)


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
        serving.drain()
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


def test_an_engine_that_is_slower_than_a_rollout_may_be_is_measured_twice_before_it_is_ready(tmp_path: Path) -> None:
    async def scenario(serving: ServingGate) -> None:
        (serving.folder / FLOOR_FILE).write_text('{"minTokensPerSecond": 0, "told": "", "measureAgainBelow": 1000}')
        await serving.until(lambda state: state.attempts == 1)
        assert "measuring again in" in serving.state.verdict.message
        assert not serving.state.ready
        assert await serving.until(ready) >= 17
        assert serving.state.attempts == 2

    run_scenario(tmp_path, scenario, retrySeconds=17)


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


def test_a_restarted_gate_is_ready_at_once_without_a_trial(tmp_path: Path) -> None:
    async def scenario(serving: ServingGate) -> None:
        await serving.until(passed)
        serving.add_users()
        asked = serving.engine.count("chat")
        again = serving.restarted_gate()
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
        again = serving.restarted_gate()
        await again.observe()
        assert (again.state.verdict.reason, again.state.attempts) == ("TooSlow", 0)

    run_scenario(tmp_path, scenario)


def test_a_stored_trial_with_another_question_is_ignored(tmp_path: Path) -> None:
    async def scenario(serving: ServingGate) -> None:
        await serving.until(passed)
        serving.configure(golden={"prompt": "6 x 7?"})
        again = serving.restarted_gate()
        await again.observe()
        assert again.state.attempts == 1

    run_scenario(tmp_path, scenario)


def test_a_stored_trial_of_another_run_is_ignored(tmp_path: Path) -> None:
    async def scenario(serving: ServingGate) -> None:
        await serving.until(passed)
        remembered = (serving.folder / TrialRecord.FILE).read_text()
        serving.record(pid=8, started_at="2026-11-24T13:00:00.000Z")
        (serving.folder / TrialRecord.FILE).write_text(remembered)
        again = serving.restarted_gate()
        await again.observe()
        assert again.state.attempts == 1

    run_scenario(tmp_path, scenario)


def test_an_invalid_stored_trial_is_ignored(tmp_path: Path) -> None:
    async def scenario(serving: ServingGate) -> None:
        await serving.until(passed)
        for text in ("{", '{"pid": 7, "startedAt": "' + STARTED + '"}'):
            (serving.folder / TrialRecord.FILE).write_text(text)
            again = serving.restarted_gate()
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
        again = serving.restarted_gate()
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
