"""What the gate tells the launcher of an engine that serves wrongly or not at all, and of what it keeps silent."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from flash_contracts.engine_pod import EffectiveFlags, FaultReport
from flash_contracts.engine_record import EngineRecord
from flash_engine.engine_metrics import EngineCounters
from flash_engine.gate import trial
from flash_engine.gate.engine_client import EngineClient
from flash_engine.gate.evidence import Health
from flash_engine.gate.gate import Gate
from flash_engine.gate.result import result_of
from gate_harness import Bench
from launcher_harness import FAST, Launcher
from ports import a_free_port

LATER = "2026-11-24T13:00:00.000Z"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A question that stays unanswered is not worth seconds here: the counters are read at once."""
    monkeypatch.setattr(trial, "REST_SECONDS", 0.1)


def fault_report_of(bench: Bench) -> FaultReport | None:
    file = bench.run_dir / FaultReport.FILE
    return FaultReport.parse_text(file.read_bytes()) if file.exists() else None


def let_it_be_stuck(bench: Bench, **attributes: Any) -> None:
    bench.engine.traits.stuck = True
    for name, value in attributes.items():
        setattr(bench.engine.traits, name, value)
    bench.configure(requestTimeoutSeconds=0.5)


WRONG = {"another answer": ["41"], "nonsense": ["!!!!!!!!!!!!"], "nothing": [""]}


@pytest.mark.parametrize("answers", WRONG.values(), ids=WRONG.keys())
async def test_wrong_output_is_suspected_of_the_run_that_gave_it(bench: Bench, answers: list[str]) -> None:
    bench.engine.traits.answers = list(answers)
    state = await bench.look()

    told = fault_report_of(bench)
    assert told is not None
    assert (told.kind, told.signature, told.run) == ("corrupt", "S4", (7, "2026-11-24T12:00:00.000Z"))
    assert told.message == state.verdict.message


@pytest.mark.parametrize("running", [-1, 0], ids=["which the counters do not show", "which runs by the counters"])
async def test_a_question_without_one_token_in_its_time_is_a_hang(bench: Bench, running: int) -> None:
    let_it_be_stuck(bench, running=running)
    state = await bench.look()

    assert state.verdict.reason == "StartupHang"
    assert "not one token in 0.5 s" in state.verdict.message
    told = fault_report_of(bench)
    assert told is not None
    assert (told.kind, told.signature) == ("hang", "S3")


NOT_SURE: dict[str, dict[str, Any]] = {
    "others are on the engine": {"running": 2},
    "tokens come, if slowly": {"tokens_while_stuck": 1},
    "the counters cannot be read": {"missing_metric": "vllm:generation_tokens_total"},
}


@pytest.mark.parametrize("attributes", NOT_SURE.values(), ids=NOT_SURE.keys())
async def test_no_answer_is_no_suspicion_while(bench: Bench, attributes: dict[str, Any]) -> None:
    let_it_be_stuck(bench, **attributes)
    assert (await bench.look()).verdict.reason == "Inconclusive"
    assert fault_report_of(bench) is None


FROZEN = EngineCounters(generated=5, running=1, drafted=None, accepted=None)
STALLS = {
    "nothing has moved": (FROZEN, FROZEN, Health.GOOD, True),
    "its health is silent too: it may end by itself": (FROZEN, FROZEN, Health.SILENT, False),
    "it says that it is unwell": (FROZEN, FROZEN, Health.BAD, False),
    "it was asked too short a time": (None, FROZEN, Health.GOOD, False),
    "its counters are gone": (FROZEN, None, Health.GOOD, False),
}


@pytest.mark.parametrize(("before", "after", "health", "stalled"), STALLS.values(), ids=STALLS.keys())
def test_an_unanswered_question(
    before: EngineCounters | None,
    after: EngineCounters | None,
    health: Health,
    stalled: bool,  # noqa: FBT001 - a table
) -> None:
    assert trial.is_stalled(before, after, health) is stalled


HARMLESS: dict[str, dict[str, Any]] = {
    "a draft that is dead beside right text": {"acceptance": 0.0},
    "no speculation": {"speculation": False},
    "traffic of others": {"foreign_tokens": 500},
    "a stream that is cut": {"cut_after_chunks": 2},
    "server errors": {"status": 500},
}


@pytest.mark.parametrize("attributes", HARMLESS.values(), ids=HARMLESS.keys())
async def test_nothing_is_suspected_of(bench: Bench, attributes: dict[str, Any]) -> None:
    for name, value in attributes.items():
        setattr(bench.engine.traits, name, value)
    assert not (await bench.look()).verdict.passed
    assert fault_report_of(bench) is None


async def test_it_is_written_once_for_each_run(bench: Bench) -> None:
    bench.engine.traits.answers = ["41"]
    await bench.look()
    first = fault_report_of(bench)
    await bench.look()
    assert bench.gate.state.attempts == 2
    assert fault_report_of(bench) == first

    bench.record(pid=8, started_at=LATER)
    await bench.look()
    another = fault_report_of(bench)
    assert another is not None
    assert another.run == (8, LATER)


async def test_a_run_that_answers_rightly_after_all_is_suspected_no_more(bench: Bench) -> None:
    let_it_be_stuck(bench)
    await bench.look()
    assert fault_report_of(bench) is not None

    bench.engine.traits.stuck = False
    bench.configure(requestTimeoutSeconds=20)
    assert (await bench.look()).verdict.passed
    assert fault_report_of(bench) is None


async def test_other_words_expected_of_an_engine_that_was_right_are_not_its_fault(bench: Bench) -> None:
    """The file of a fleet is edited, and all of its engines would be started again at once."""
    assert (await bench.look()).verdict.passed
    bench.configure(golden={"expect": "forty-two"})
    assert (await bench.look()).verdict.reason == "WrongOutput"
    await bench.look()
    assert fault_report_of(bench) is None


async def test_an_engine_that_was_right_and_is_wrong_by_the_same_words_is_suspected(bench: Bench) -> None:
    bench.engine.traits.acceptance = 0.0
    assert (await bench.look()).verdict.reason == "DraftDead"
    bench.engine.traits.answers = ["!!!!!!!!!!!"]
    assert (await bench.look()).verdict.reason == "WrongOutput"
    assert fault_report_of(bench) is not None


async def test_a_served_engine_that_hangs_at_another_question_loses_its_verdict(bench: Bench) -> None:
    assert (await bench.look()).verdict.passed
    let_it_be_stuck(bench)
    bench.configure(golden={"prompt": "18 + 24?"})
    assert (await bench.look()).verdict.reason == "StartupHang"
    assert fault_report_of(bench) is not None


async def test_without_a_launcher_there_is_no_run_to_suspect(bench: Bench) -> None:
    bench.engine.traits.answers = ["41"]
    bench.record(pid=None, started_at=None, phase="WaitingForFlags")
    assert (await bench.look()).verdict.reason == "WrongOutput"
    assert fault_report_of(bench) is None


async def test_a_folder_that_cannot_be_written_stops_nothing(bench: Bench) -> None:
    bench.engine.traits.answers = ["41"]
    (bench.run_dir / FaultReport.FILE).mkdir()
    assert (await bench.look()).verdict.reason == "WrongOutput"


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


async def test_launcher_and_gate_together_bring_an_engine_with_wrong_output_to_right_answers(
    bench: Bench, launcher: Launcher
) -> None:
    port = a_free_port()
    launcher.hand_over(json.dumps(FAST))
    process = launcher.start(
        launcher.program(CORRUPT), "serve", ENGINE_PORT=str(port), PYTHONPATH=os.pathsep.join(sys.path)
    )
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session:
        client = EngineClient(session, f"http://127.0.0.1:{port}")
        gate = Gate(client, bench.run_dir / "gate.json", launcher.run_dir, lambda _state: None)
        reasons = await looks_until_passed(gate)
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


async def looks_until_passed(gate: Gate) -> list[str]:
    """The gate looks once a second; here it looks as soon as it can, until the deadline of a test."""
    reasons: list[str] = []
    while not gate.state.verdict.passed:
        await gate.look()
        reasons.append(gate.state.verdict.reason)
    return reasons


def test_a_suspicion_is_read_as_it_was_written(tmp_path: Path) -> None:
    told = FaultReport("hang", "S3", "no token", 7, LATER, LATER)
    file = tmp_path / FaultReport.FILE
    file.write_text(json.dumps(told.to_json()))
    assert FaultReport.parse_text(file.read_bytes()) == told


def test_an_incident_outlives_a_restart_of_the_container(tmp_path: Path) -> None:
    raw = {
        "kind": "hang", "signature": "S2", "detail": "told", "at": LATER, "row": "T3", "flags": ["NCCL_P2P_LEVEL=PHB"],
        "evidence": {"gpus": None},
    }  # fmt: skip
    file = tmp_path / "engine.json"
    file.write_text(json.dumps({"version": 1, "incident": raw}))
    assert EngineRecord.read_or_new(file).to_json()["incident"] == raw
