"""Orders of a user at the gate: out of service, and one measurement beside the verdict. By the virtual clock."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine_stub.scripts import paced
from flash_contracts.engine_pod import QUARANTINE_FILE, MeasureOrder
from flash_contracts.orders import ordered_quarantine
from flash_engine.gate.gate_state import GateState
from flash_engine.gate.ordered_measuring import PATIENCE_SECONDS, PAUSE_SECONDS, SAMPLES, Answer, OrderedMeasuring
from flash_engine.gate.result import result_of
from flash_engine.measure import __main__ as measure_command
from flash_engine.measure.__main__ import measured
from serving_gate import ServingGate, run_scenario

ORDERED = ordered_quarantine("2026-11-28T19:30:00Z")


def passed(state: GateState) -> bool:
    return state.verdict.passed


def order(serving: ServingGate, name: str = "one") -> None:
    MeasureOrder(name).write(serving.folder / MeasureOrder.FILE)


def answered(name: str = "one") -> Any:
    return lambda state: state.ordered.answer is not None and state.ordered.answer.id == name


def answer_of(serving: ServingGate) -> Answer:
    assert serving.state.ordered.answer is not None
    return serving.state.ordered.answer


def test_a_user_takes_a_replica_out_and_gives_it_back(tmp_path: Path) -> None:
    async def scenario(serving: ServingGate) -> None:
        await serving.until(passed)
        assert serving.state.ready
        (tmp_path / QUARANTINE_FILE).write_text(ORDERED)
        await serving.until(lambda state: not state.ready, seconds=5)
        assert serving.state.verdict.passed, "nothing is wrong with the engine"
        assert serving.result().serving.ordered_out
        assert not serving.result().serving.quarantined
        assert not serving.state.restart
        (tmp_path / QUARANTINE_FILE).write_text("")
        await serving.until(lambda state: state.ready, seconds=5)
        assert not serving.result().serving.ordered_out

    run_scenario(tmp_path, scenario)


def test_an_order_holds_where_the_operator_may_only_report(tmp_path: Path) -> None:
    async def scenario(serving: ServingGate) -> None:
        await serving.until(passed)
        (tmp_path / QUARANTINE_FILE).write_text(ORDERED)
        await serving.until(lambda state: not state.ready, seconds=5)

    run_scenario(tmp_path, scenario, serving={"onDegraded": "Report"})


@pytest.mark.parametrize("text", ["ordered", "ordered@", "ordered@now", "Ordered@2026-11-28T19:30:00Z", "x" * 300_000])
def test_what_is_no_order_takes_nothing_out(tmp_path: Path, text: str) -> None:
    async def scenario(serving: ServingGate) -> None:
        await serving.until(passed)
        (tmp_path / QUARANTINE_FILE).write_text(text)
        await asyncio.sleep(10)
        assert serving.state.ready

    run_scenario(tmp_path, scenario)


def test_an_idle_engine_is_measured_once_for_an_order_and_keeps_its_verdict(tmp_path: Path) -> None:
    async def scenario(serving: ServingGate) -> None:
        await serving.until(passed)
        before = serving.state
        order(serving)
        await serving.until(answered())
        assert not (tmp_path / MeasureOrder.FILE).exists()
        after = serving.state
        assert after.evidence.trial is before.evidence.trial
        assert (after.verdict, after.attempts) == (before.verdict, before.attempts)

    serving = run_scenario(tmp_path, scenario)
    ordered = serving.result().ordered
    assert ordered is not None
    assert (ordered.id, ordered.problem, len(ordered.samples)) == ("one", "", SAMPLES)
    assert all(
        not sample.cut and sample.tokens == serving.gate.config.decode.tokens  # type: ignore[union-attr]
        for sample in ordered.samples
    )
    assert ordered.figures is not None
    assert 60 < ordered.figures.decode_tokens_per_second < 120
    assert ordered.figures.acceptance_percent is not None
    assert all(is_ready for _, _, is_ready in serving.changes[-1:])


def test_a_slow_measurement_for_a_user_takes_nothing_out_of_service(tmp_path: Path) -> None:
    async def scenario(serving: ServingGate) -> None:
        await serving.until(passed)
        serving.engine.play(paced(10.0))
        order(serving)
        await serving.until(answered())
        figures = answer_of(serving).figures
        assert figures is not None
        assert figures.decode_tokens_per_second < 20
        assert serving.state.verdict.passed
        assert serving.state.degraded is None

    run_scenario(tmp_path, scenario)


def test_a_busy_engine_is_not_measured_and_the_order_is_refused_in_the_end(tmp_path: Path) -> None:
    async def scenario(serving: ServingGate) -> None:
        await serving.until(passed)
        serving.add_users(2)
        await asyncio.sleep(30)
        order(serving)
        took = await serving.until(answered(), seconds=2 * PATIENCE_SECONDS)
        assert took >= PATIENCE_SECONDS
        await serving.remove_users()
        await asyncio.sleep(60)
        assert answer_of(serving).figures is None, "nothing is measured after the user has left"

    serving = run_scenario(tmp_path, scenario)
    assert "requests of users" in answer_of(serving).problem


def test_a_replica_that_never_passed_is_not_measured(tmp_path: Path) -> None:
    async def scenario(serving: ServingGate) -> None:
        order(serving)
        await serving.until(answered(), seconds=2 * PATIENCE_SECONDS)

    serving = run_scenario(tmp_path, scenario, paced(10.0))
    assert "TooSlow" in answer_of(serving).problem


def test_orders_cannot_keep_the_engine_busy(tmp_path: Path) -> None:
    async def scenario(serving: ServingGate) -> None:
        await serving.until(passed)
        clock = asyncio.get_running_loop().time
        order(serving, "0")
        await serving.until(answered("0"))
        first = clock()
        order(serving, "1")
        await serving.until(answered("1"))
        assert clock() - first >= PAUSE_SECONDS

    run_scenario(tmp_path, scenario)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 1}', '{"version": 1, "id": 7}'])
def test_a_file_that_is_no_order_is_taken_away(tmp_path: Path, text: str) -> None:
    async def scenario(serving: ServingGate) -> None:
        await serving.until(passed)
        (tmp_path / MeasureOrder.FILE).write_text(text)
        await asyncio.sleep(5)
        assert not (tmp_path / MeasureOrder.FILE).exists()
        assert serving.state.ordered == OrderedMeasuring()
        assert serving.state.ready

    run_scenario(tmp_path, scenario)


def test_a_gate_that_restarts_does_not_carry_out_an_order_again(tmp_path: Path) -> None:
    async def scenario(serving: ServingGate) -> None:
        await serving.until(passed)
        order(serving)
        await serving.until(answered())
        again = serving.restarted_gate()
        await again.observe()
        assert again.state.ordered.waiting is None

    run_scenario(tmp_path, scenario)


def test_a_second_order_replaces_one_that_waits() -> None:
    waiting = OrderedMeasuring().after_order("one", 0.0).after_order("two", 100.0)
    assert waiting.waiting == "two"
    assert waiting.after_look(PATIENCE_SECONDS, "busy").answer is None, "its patience begins anew"
    done = waiting.after_measurement(Answer("two"), 130.0)
    assert (done.waiting, done.answer) == (None, Answer("two"))
    assert replace(waiting, waiting="three").after_measurement(Answer("two"), 130.0).waiting == "three"


def test_the_command_waits_for_the_answer_to_its_own_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = 0

    def result() -> dict[str, Any]:
        nonlocal asked
        asked += 1
        mine = MeasureOrder.read(tmp_path / MeasureOrder.FILE)
        assert mine is not None
        answers: list[dict[str, Any]] = [
            {},
            {"ordered": None},
            {"ordered": {"id": "another"}},
            {"ordered": {"id": mine.id}, "wanted": {"a": 1}},
        ]
        return answers[asked - 1]

    assert measured(tmp_path, result, pause=lambda _: None)["wanted"] == {"a": 1}  # type: ignore[index]
    assert asked == 4
    monkeypatch.setattr(measure_command, "WAIT_SECONDS", 0.05)
    assert measured(tmp_path, dict, pause=lambda _: None) is None


def test_an_answer_is_in_the_result_without_secrets() -> None:
    state = replace(
        GateState(), ordered=OrderedMeasuring(answer=Answer("one", problem="https://u:hunter2@hub.example/x"))
    )
    ordered = result_of(state, None, None).ordered
    assert ordered is not None
    assert "hunter2" not in ordered.problem
