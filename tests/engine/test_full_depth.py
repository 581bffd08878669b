"""The measurement at the promised context depth (`readiness.depth: Full`), by the virtual clock."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine_stub.engine import Script
from engine_stub.scripts import having, without_metrics
from flash_contracts.gate_config import FullDepthTest, GateConfig
from flash_contracts.trial_record import LongPrompt
from flash_engine.gate.full_depth import DepthSchedule, depth_warnings
from flash_engine.gate.gate_state import GateState
from serving_gate import ServingGate, run_scenario

FULL: dict[str, Any] = {"tokens": 60_000, "minPrefillTokensPerSecond": 500, "minDecodePercent": 40, "quietSeconds": 20,
        "textIsJudged": True}  # fmt: skip


def passed(state: GateState) -> bool:
    return state.verdict.passed


def measured(state: GateState) -> bool:
    return state.evidence.full_depth is not None


def running(state: GateState) -> bool:
    return state.depth.is_running


def given_up(state: GateState) -> bool:
    return state.depth.given_up > 0


def play(folder: Path, scenario: Any, *scripts: Script, **config: Any) -> ServingGate:
    return run_scenario(folder, scenario, *scripts, fullDepth=FULL, **config)


def was_always_ready(serving: ServingGate) -> bool:
    """From its first pass on."""
    ready = [is_ready for _, _, is_ready in serving.changes]
    return all(ready[ready.index(True) :])


def test_it_is_measured_once_when_nobody_waits_and_shown(tmp_path: Path) -> None:
    async def scenario(serving: ServingGate) -> None:
        await serving.until(passed)
        assert await serving.until(measured, seconds=300) > FULL["quietSeconds"]
        assert serving.engine.longest_prompt == FULL["tokens"]
        serving.engine.longest_prompt = 0
        await asyncio.sleep(10 * FULL["quietSeconds"])
        assert serving.engine.longest_prompt == 0

    serving = play(tmp_path, scenario)
    shown = serving.result().full_depth
    assert shown is not None
    assert shown.prompt_tokens == FULL["tokens"]
    assert shown.prefill_tokens_per_second > 500
    assert (shown.decode_tokens_per_second or 0) > 60
    assert was_always_ready(serving)
    assert serving.state.verdict.passed
    assert "warning" not in serving.state.verdict.message


SLOW: dict[str, tuple[Script, list[str]]] = {
    "decode": (having(depth_slow_down=1.3), []),
    "decode at this depth": (having(depth_slow_down=5.0), ["TooSlowAtDepth"]),
    "reading": (having(prefill_tokens_per_second=400.0), ["PrefillTooSlow"]),
    "text": (having(text_at_depth="!!"), ["WrongOutput"]),
}


@pytest.mark.parametrize(("bad", "warned"), SLOW.values(), ids=SLOW.keys())
def test_what_is_bad_at_full_depth_is_a_warning_and_the_replica_serves(
    tmp_path: Path, bad: Script, warned: list[str]
) -> None:
    async def scenario(serving: ServingGate) -> None:
        await serving.until(passed)
        bad(serving.engine.traits)
        await serving.until(measured, seconds=600)

    serving = play(tmp_path, scenario)
    trial = serving.result().trial
    assert trial is not None
    assert [warning.reason for warning in trial.warnings] == warned
    assert (was_always_ready(serving), serving.state.verdict.reason) == (True, "Passed")


def test_it_is_given_up_at_once_for_a_users_request_and_made_later(tmp_path: Path) -> None:
    async def scenario(serving: ServingGate) -> None:
        await serving.until(passed)
        await serving.until(running, seconds=100)
        serving.add_users(1)
        assert await serving.until(given_up) <= 2.0
        await serving.remove_users()
        assert not measured(serving.state)
        waited = await serving.until(measured, seconds=600)
        assert waited > 2 * FULL["quietSeconds"], "the engine must be quiet for longer after each attempt"

    assert was_always_ready(play(tmp_path, scenario))


def test_it_is_not_begun_under_traffic(tmp_path: Path) -> None:
    async def scenario(serving: ServingGate) -> None:
        await serving.until(passed)
        serving.add_users(1)
        await asyncio.sleep(3 * FULL["quietSeconds"])

    serving = play(tmp_path, scenario)
    assert was_always_ready(serving)
    assert (serving.state.depth.given_up, measured(serving.state), running(serving.state)) == (0, False, False)
    assert serving.engine.longest_prompt < FULL["tokens"]


async def _drains(serving: ServingGate) -> None:
    serving.drain()


async def _restarts(serving: ServingGate) -> None:
    serving.record(pid=8, started_at="2026-11-24T13:00:00.000Z", starts=2)


async def _loses_metrics(serving: ServingGate) -> None:
    without_metrics()(serving.engine.traits)


async def _asks_anew(serving: ServingGate) -> None:
    serving.configure(golden={"prompt": "6 x 7, and 0"}, fullDepth=FULL)


@pytest.mark.parametrize("what", [_drains, _restarts, _loses_metrics, _asks_anew])
def test_it_gives_way_to(tmp_path: Path, what: Any) -> None:
    async def scenario(serving: ServingGate) -> None:
        await serving.until(passed)
        await serving.until(running, seconds=100)
        await what(serving)
        await serving.until(lambda state: not state.depth.is_running, seconds=15)
        assert not measured(serving.state)

    assert play(tmp_path, scenario).changes


def test_a_restarted_gate_does_not_measure_again(tmp_path: Path) -> None:
    async def scenario(serving: ServingGate) -> None:
        await serving.until(passed)
        await serving.until(measured, seconds=300)
        again = serving.restarted_gate()
        await again.observe()
        assert again.state.evidence.full_depth == serving.state.evidence.full_depth

    assert measured(play(tmp_path, scenario).state)


CONFIG = GateConfig.model_validate(
    {"model": "m", "golden": {"prompt": "p"}, "decode": {"minTokensPerSecond": 60, "prompt": "p"}, "fullDepth": FULL}
)
GOOD = LongPrompt(60_000, 20_000.0, 40.0, "a quiet night")
FOUND: dict[str, tuple[LongPrompt | None, list[str]]] = {
    "nothing yet": (None, []),
    "fast enough": (GOOD, []),
    "exactly at both floors": (replace(GOOD, first_token_millis=120_000.0, decode_tokens_per_second=24.0), []),
    "below both": (replace(GOOD, first_token_millis=121_000.0, decode_tokens_per_second=23.9),
                   ["PrefillTooSlow", "TooSlowAtDepth"]),
    "no token": (replace(GOOD, decode_tokens_per_second=None, text=""), ["PrefillTooSlow"]),
    "nonsense": (replace(GOOD, text="!" * 99), ["WrongOutput"]),
}  # fmt: skip


@pytest.mark.parametrize(("found", "reasons"), FOUND.values(), ids=FOUND.keys())
def test_the_warnings(found: LongPrompt | None, reasons: list[str]) -> None:
    assert [warning.reason for warning in depth_warnings(found, CONFIG)] == reasons


def test_the_quiet_time_doubles_up_to_an_hour() -> None:
    test, schedule = FullDepthTest(tokens=1000), DepthSchedule()
    for needed in (60, 120, 240, 480, 960, 1920, 3840, 3840):
        waiting = schedule.after_look(100.0, idle=True)
        assert not waiting.is_due(test, 100.0 + needed - 1)
        assert waiting.is_due(test, 100.0 + needed)
        assert not waiting.after_look(101.0, idle=False).is_due(test, 9e9)
        schedule = waiting.after_attempt(measured=False)
