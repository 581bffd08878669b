"""Which faults of an engine the gate reports to the launcher, and which it does not."""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from flash_contracts.engine_pod import EffectiveFlags, FaultReport
from flash_contracts.engine_record import EngineRecord, FaultKind, Incident
from flash_contracts.gate_config import GoldenQuestion
from flash_contracts.gate_result import GateResult
from flash_engine.engine_metrics import EngineCounters
from flash_engine.gate import start_checks, trial
from flash_engine.gate.engine_client import EngineClient
from flash_engine.gate.evidence import EngineHealth
from flash_engine.gate.gate import Gate
from flash_engine.gate.gate_state import GateState
from flash_engine.gate.result import result_of
from gate_harness import CONFIG, GateHarness
from launcher_harness import FAST, Launcher
from ports import a_free_port

LATER = "2026-11-24T13:00:00.000Z"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read the counters of an unanswered request at once, and wait for no launcher to look at the engine."""
    monkeypatch.setattr(trial, "IDLE_SECONDS", 0.1)
    monkeypatch.setattr(start_checks, "LOOK_SECONDS", 0.0)


def fault_report_of(harness: GateHarness) -> FaultReport | None:
    file = harness.run_dir / FaultReport.FILE
    return FaultReport.parse_text(file.read_bytes()) if file.exists() else None


def make_it_stuck(harness: GateHarness, **attributes: Any) -> None:
    harness.engine.traits.stuck = True
    for name, value in attributes.items():
        setattr(harness.engine.traits, name, value)
    harness.configure(requestTimeoutSeconds=0.5)


WRONG = {"another answer": ["41"], "nonsense": ["!!!!!!!!!!!!"], "nothing": [""]}


@pytest.mark.parametrize("answers", WRONG.values(), ids=WRONG.keys())
async def test_wrong_output_is_reported_for_its_run(harness: GateHarness, answers: list[str]) -> None:
    harness.engine.traits.answers = list(answers)
    state = await harness.observe()

    report = fault_report_of(harness)
    assert report is not None
    assert (report.kind, report.signature, report.run) == ("corrupt", "S4", (7, "2026-11-24T12:00:00.000Z"))
    assert report.message == state.verdict.message


@pytest.mark.parametrize("running", [-1, 0], ids=["which the counters do not show", "which runs by the counters"])
async def test_a_request_without_a_token_before_its_timeout_is_a_hang(harness: GateHarness, running: int) -> None:
    make_it_stuck(harness, running=running)
    state = await harness.observe()

    assert state.verdict.reason == "StartupHang"
    assert "not one token in 0.5 s" in state.verdict.message
    report = fault_report_of(harness)
    assert report is not None
    assert (report.kind, report.signature) == ("hang", "S3")


NOT_SURE: dict[str, dict[str, Any]] = {
    "others are on the engine": {"running": 2},
    "tokens come, if slowly": {"tokens_while_stuck": 1},
    "the counters cannot be read": {"missing_metric": "vllm:generation_tokens_total"},
}


@pytest.mark.parametrize("attributes", NOT_SURE.values(), ids=NOT_SURE.keys())
async def test_a_missing_answer_is_not_reported_if(harness: GateHarness, attributes: dict[str, Any]) -> None:
    make_it_stuck(harness, **attributes)
    assert (await harness.observe()).verdict.reason == "Inconclusive"
    assert fault_report_of(harness) is None


FROZEN = EngineCounters(generated=5, running=1, drafted=None, accepted=None)
STALLS = {
    "nothing has moved": (FROZEN, FROZEN, EngineHealth.GOOD, True),
    "its health is silent too: it may end by itself": (FROZEN, FROZEN, EngineHealth.SILENT, False),
    "it says that it is unwell": (FROZEN, FROZEN, EngineHealth.BAD, False),
    "it was asked too short a time": (None, FROZEN, EngineHealth.GOOD, False),
    "its counters are gone": (FROZEN, None, EngineHealth.GOOD, False),
    "it reads a long prompt": (FROZEN, replace(FROZEN, kv_cache=0.2), EngineHealth.GOOD, False),
    "other clients are on it": (replace(FROZEN, running=2), replace(FROZEN, running=2), EngineHealth.GOOD, False),
}


@pytest.mark.parametrize(("before", "after", "health", "stalled"), STALLS.values(), ids=STALLS.keys())
def test_an_unanswered_question(
    before: EngineCounters | None,
    after: EngineCounters | None,
    health: EngineHealth,
    stalled: bool,  # noqa: FBT001 - a table
) -> None:
    assert trial.is_stalled(before, after, health) is stalled


@pytest.mark.parametrize(("running", "stalled"), [(3, True), (4, True), (5, False)])
def test_among_four_of_our_requests(*, running: int, stalled: bool) -> None:
    left = replace(FROZEN, running=running)
    assert trial.is_stalled(left, left, EngineHealth.GOOD, 4) is stalled


HARMLESS: dict[str, dict[str, Any]] = {
    "a draft that is dead beside right text": {"acceptance": 0.0},
    "no speculation": {"speculation": False},
    "traffic of others": {"foreign_tokens": 500},
    "a stream that is cut": {"cut_after_chunks": 2},
    "server errors": {"status": 500},
    "two good answers that differ, and none was expected": {"answers": ["Paris.", "It is Paris.", "Paris."]},
}


@pytest.mark.parametrize("attributes", HARMLESS.values(), ids=HARMLESS.keys())
async def test_no_fault_is_reported_for(harness: GateHarness, attributes: dict[str, Any]) -> None:
    for name, value in attributes.items():
        setattr(harness.engine.traits, name, value)
    harness.configure(golden={"expect": None} if "answers" in attributes else {})
    assert not (await harness.observe()).verdict.passed
    assert fault_report_of(harness) is None


async def test_a_fault_is_reported_once_per_run(harness: GateHarness) -> None:
    harness.engine.traits.answers = ["41"]
    await harness.observe()
    first = fault_report_of(harness)
    await harness.observe()
    assert harness.gate.state.attempts == 2
    assert fault_report_of(harness) == first

    harness.record(pid=8, started_at=LATER)
    await harness.observe()
    another = fault_report_of(harness)
    assert another is not None
    assert another.run == (8, LATER)


async def test_a_fault_is_withdrawn_once_the_run_answers_correctly(harness: GateHarness) -> None:
    make_it_stuck(harness)
    await harness.observe()
    assert fault_report_of(harness) is not None

    harness.engine.traits.stuck = False
    harness.configure(requestTimeoutSeconds=20)
    assert (await harness.observe()).verdict.passed
    assert fault_report_of(harness) is None


async def test_another_expected_answer_is_not_the_engines_fault(harness: GateHarness) -> None:
    """A change of the deployment's gate.json would otherwise restart all of its engines at once."""
    assert (await harness.observe()).verdict.passed
    harness.configure(golden={"expect": "forty-two"})
    assert (await harness.observe()).verdict.reason == "WrongOutput"
    await harness.observe()
    assert fault_report_of(harness) is None


RIGHT, OTHER = CONFIG["golden"]["expect"], "43"


async def after_incident(
    harness: GateHarness, kind: FaultKind = "corrupt", *, expect: str = RIGHT, **fields: Any
) -> bool:
    """What the gate says of an incident, in a run without peer-to-peer that it has observed once."""
    asked = GoldenQuestion.model_validate({**CONFIG["golden"], "expect": expect}).identity
    incident = Incident(kind, "S4" if kind == "corrupt" else "S3", asked=asked if kind == "corrupt" else "")
    harness.record(incident=replace(incident, **fields))
    return shown(await harness.observe(), harness).incident_proven


def shown(state: GateState, harness: GateHarness) -> GateResult:
    return result_of(state, harness.gate.config, None)


async def test_corrupt_data_is_proven_by_a_right_answer_to_the_same_question(harness: GateHarness) -> None:
    assert await after_incident(harness)


async def test_a_typing_error_in_the_expected_answer_proves_nothing_once_it_is_corrected(harness: GateHarness) -> None:
    harness.configure(golden={"expect": OTHER})
    assert not await after_incident(harness, expect=OTHER)
    state = harness.gate.state
    assert "wrong without peer-to-peer too" in state.verdict.message
    assert "readiness.golden.expect" in state.verdict.message

    harness.configure(golden={"expect": RIGHT})
    state = await harness.observe()
    assert (state.verdict.passed, shown(state, harness).incident_proven) == (True, False)


async def test_a_right_answer_to_another_question_or_expectation_proves_nothing(harness: GateHarness) -> None:
    """The gate was restarted after the correction, and has seen only right answers."""
    assert not await after_incident(harness, expect=OTHER)
    assert harness.gate.state.verdict.passed


async def test_an_answer_that_was_wrong_without_peer_to_peer_too_proves_nothing_later(harness: GateHarness) -> None:
    harness.engine.traits.answers = ["41"]
    assert not await after_incident(harness)
    harness.engine.traits.answers = ["42"]
    state = await harness.observe()
    assert (state.verdict.passed, shown(state, harness).incident_proven) == (True, False)


HUNG: dict[str, tuple[dict[str, Any], bool]] = {
    "a start that hung": ({"signature": "S2"}, True),
    "no token, and the GPUs spun": ({"evidence": {"gpusSpin": True}}, True),
    "no token, and the GPUs were idle: the second start may only have had its kernels": (
        {"evidence": {"gpusSpin": False}}, False),
    "no token, and the GPUs are unknown": ({}, False),
    "no token, by a launcher of an older image": ({"evidence": {"gpus": []}}, False),
}  # fmt: skip


@pytest.mark.parametrize(("fields", "proven"), HUNG.values(), ids=HUNG.keys())
async def test_a_hang_that_a_restart_ended(harness: GateHarness, fields: dict[str, Any], proven: bool) -> None:  # noqa: FBT001
    assert await after_incident(harness, "hang", **fields) is proven


async def test_an_engine_that_turns_wrong_by_the_same_expectation_is_reported(harness: GateHarness) -> None:
    harness.engine.traits.acceptance = 0.0
    assert (await harness.observe()).verdict.reason == "DraftDead"
    harness.engine.traits.answers = ["!!!!!!!!!!!"]
    assert (await harness.observe()).verdict.reason == "WrongOutput"
    assert fault_report_of(harness) is not None


async def test_a_serving_engine_that_hangs_at_another_question_loses_its_verdict(harness: GateHarness) -> None:
    assert (await harness.observe()).verdict.passed
    make_it_stuck(harness)
    harness.configure(golden={"prompt": "18 + 24?"})
    assert (await harness.observe()).verdict.reason == "StartupHang"
    assert fault_report_of(harness) is not None


async def test_without_a_recorded_run_no_fault_is_reported(harness: GateHarness) -> None:
    harness.engine.traits.answers = ["41"]
    harness.record(pid=None, started_at=None, phase="WaitingForFlags")
    assert (await harness.observe()).verdict.reason == "WrongOutput"
    assert fault_report_of(harness) is None


async def test_an_unwritable_folder_does_not_stop_the_gate(harness: GateHarness) -> None:
    harness.engine.traits.answers = ["41"]
    (harness.run_dir / FaultReport.FILE).mkdir()
    assert (await harness.observe()).verdict.reason == "WrongOutput"


# An engine that reads wrong data over its GPUs' link, unless it gets the safe set.
CORRUPT = """
import os, sys
from aiohttp import web
from engine_stub.engine import EngineStub
from engine_stub.scripts import wrong_text
safe = "--disable-custom-all-reduce" in sys.argv
engine = EngineStub(*([] if safe else [wrong_text("!!!!!!!!!!!!")]))
web.run_app(engine.app(), port=int(os.environ["ENGINE_PORT"]), access_log=None,
            print=lambda *_: print("INFO:     Application startup complete.", flush=True))
"""


async def test_launcher_and_gate_together_recover_an_engine_with_wrong_output(
    harness: GateHarness, launcher: Launcher
) -> None:
    port = a_free_port()
    launcher.pass_flags(json.dumps(FAST))
    process = launcher.start(
        launcher.program(CORRUPT), "serve", ENGINE_PORT=str(port), PYTHONPATH=os.pathsep.join(sys.path)
    )
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session:
        client = EngineClient(session, f"http://127.0.0.1:{port}")
        gate = Gate(client, harness.run_dir / "gate.json", launcher.run_dir, lambda _state: None)
        reasons = await observe_until_passed(gate)
    shown = result_of(gate.state, gate.config, EffectiveFlags.read(launcher.run_dir / EffectiveFlags.FILE)).to_json()
    process.terminate()
    process.communicate()

    assert "WrongOutput" in reasons
    assert shown["passed"]
    incident = shown["engine"]["incident"]
    assert (incident["kind"], incident["signature"], incident["row"]) == ("corrupt", "S4", "T3")
    assert "!!!!" in incident["detail"]
    assert shown["effective"]["origin"] == "recovery"
    assert shown["engine"]["exit"] is None, "the end of the first run is no exit, and no verdict tells of it"
    assert not {"EngineExited", "OutOfMemory"} & set(reasons)


async def observe_until_passed(gate: Gate) -> list[str]:
    """Observe without pauses until the engine has passed."""
    reasons: list[str] = []
    while not gate.state.verdict.passed:
        await gate.observe()
        reasons.append(gate.state.verdict.reason)
    return reasons


def test_a_fault_report_is_read_as_it_was_written(tmp_path: Path) -> None:
    report = FaultReport("hang", "S3", "no token", 7, LATER, LATER)
    file = tmp_path / FaultReport.FILE
    file.write_text(json.dumps(report.to_json()))
    assert FaultReport.parse_text(file.read_bytes()) == report


def test_an_incident_outlives_a_restart_of_the_container(tmp_path: Path) -> None:
    raw = {
        "kind": "hang", "signature": "S2", "detail": "told", "at": LATER, "row": "T3", "flags": ["NCCL_P2P_LEVEL=PHB"],
        "evidence": {"gpus": None}, "asked": "0123456789abcdef",
    }  # fmt: skip
    file = tmp_path / "engine.json"
    file.write_text(json.dumps({"version": 1, "incident": raw}))
    assert EngineRecord.read_or_new(file).to_json()["incident"] == raw
