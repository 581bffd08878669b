"""The launcher as a real process with an engine that hangs: when it restarts the engine, and with which flags.

A hang is detected within FLASH_HANG_SECONDS and two intervals of half a second. The tests check the documents.
"""

import json
import os
import signal
import subprocess
from typing import Any

import pytest

import hanging_engines
from flash_contracts.document import write_json
from flash_contracts.engine_pod import FaultReport
from flash_contracts.engine_record import EngineRecord, FaultKind
from flash_engine.drain.connections import ARGUMENT
from launcher_harness import FAST, SAFE, Launcher, is_alive
from waiting import eventually

SOON = "0.5"


@pytest.fixture
def fast(launcher: Launcher) -> Launcher:
    """A launcher on a node with the flags of a verified link."""
    launcher.pass_flags(json.dumps(FAST))
    return launcher


def record_of(launcher: Launcher) -> EngineRecord:
    return EngineRecord.read_or_new(launcher.run_dir / "engine.json")


def wait_for_start(launcher: Launcher, *, number: int | None = None) -> None:
    """The engine's start with that number, or any."""

    def seen() -> tuple[str, int]:
        record = record_of(launcher)
        return record.phase, record.starts

    def started() -> bool:
        phase, starts = seen()
        return phase == "Starting" and number in (None, starts)

    eventually(started, f"the engine's start {number or ''}", seen=seen)


def note_of(launcher: Launcher, name: str) -> Any:
    eventually((launcher.run_dir / name).exists, f"a file {name}")
    return json.loads((launcher.run_dir / name).read_text())


def said(process: subprocess.Popen[str], event: str) -> dict[str, Any]:
    """The next line of the launcher's log with this event."""
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("{") and (fields := json.loads(line))["event"] == event:
            found: dict[str, Any] = fields
            return found
    raise AssertionError(f"it ended and did not say {event!r}")


def suspect(launcher: Launcher, kind: FaultKind = "corrupt", **changes: Any) -> None:
    """Reports a fault like the gate, for the run in engine.json."""
    run = record_of(launcher)
    message = FaultReport(
        kind, "S3" if kind == "hang" else "S4", "the golden answer '!!!!'", run.pid, run.started_at, "now"
    )
    write_json(launcher.run_dir / FaultReport.FILE, {**message.to_json(), **changes})


HANGS = {
    "sleeps": hanging_engines.STILL,
    "is stopped": hanging_engines.STOPPED,
    "is deaf to SIGTERM": hanging_engines.DEAF,
    "has workers that wait for each other": hanging_engines.WITH_WORKERS,
    "has workers in sessions of their own": hanging_engines.SCATTERED,
}


@pytest.mark.parametrize("source", HANGS.values(), ids=HANGS.keys())
def test_an_engine_whose_start_hangs_is_started_again_with_the_safe_set(fast: Launcher, source: str) -> None:
    process = fast.start(fast.program(source), "serve", "/model", FLASH_HANG_SECONDS=SOON)
    recovering = said(process, "recovering")
    hung = note_of(fast, "pids")
    serving = note_of(fast, "serving")

    assert serving["args"] == ["serve", "/model", ARGUMENT, "--disable-custom-all-reduce"]
    assert serving["env"] == {"NCCL_P2P_DISABLE": "1", "NCCL_P2P_LEVEL": None}
    assert not any(is_alive(pid) for pid in hung), "nothing of it keeps a GPU's memory"
    wait_for_start(fast, number=2)
    record = record_of(fast)
    assert (record.starts, record.exit) == (2, None), "an end that the launcher made is no exit of the engine"
    assert record.incident is not None
    assert (record.incident.kind, record.incident.signature, record.incident.row) == ("hang", "S1", "T3")
    assert record.incident.flags == ("NCCL_P2P_LEVEL=PHB",)
    assert record.incident.evidence["lastLine"].endswith("vLLM is using nccl==2.30.4")
    assert recovering["detail"] == record.incident.detail
    effective = fast.document("effective.json")
    assert (effective["origin"], effective["flags"]["row"]) == ("recovery", "T8")
    assert "hang (S1) under row T3" in effective["detail"]


LEFT_ALONE = {
    "one that burns its CPU and says nothing": (hanging_engines.BUSY_FOR_A_WHILE, "1"),
    "one that has started, and has no requests": (hanging_engines.SERVING_FOR_A_WHILE, "0.5"),
    "any, with the rule switched off": (hanging_engines.SILENT_FOR_A_WHILE, "0"),
}


@pytest.mark.parametrize(("source", "seconds"), LEFT_ALONE.values(), ids=LEFT_ALONE.keys())
def test_an_engine_is_not_restarted(fast: Launcher, source: str, seconds: str) -> None:
    process = fast.start(fast.program(source), "serve", FLASH_HANG_SECONDS=seconds)
    _, err = process.communicate()
    assert process.returncode == 0
    record = record_of(fast)
    assert (record.starts, record.incident, record.exit and record.exit.code) == (1, None, 0)
    assert "S1" not in err


SAFE_ALREADY = {
    "the fallback is in force": "",
    "the node was given the safe set, for other reasons": json.dumps({**SAFE, "row": "T7", "env": [
        {"name": "NCCL_P2P_DISABLE", "value": "1", "source": "label", "reason": "hangs"}]}),
}  # fmt: skip


@pytest.mark.parametrize("flags", SAFE_ALREADY.values(), ids=SAFE_ALREADY.keys())
def test_a_hang_with_safe_flags_is_logged_and_nothing_is_killed(launcher: Launcher, flags: str) -> None:
    launcher.pass_flags(flags)
    process = launcher.start(
        launcher.program(hanging_engines.STILL_WITH_ANY_FLAGS),
        "serve",
        patience=0 if not flags else 30,
        FLASH_HANG_SECONDS=SOON,
    )
    message = said(process, "fault without a remedy")

    assert (message["kind"], message["signature"]) == ("hang", "S1")
    record = record_of(launcher)
    assert (record.starts, record.incident) == (1, None)
    assert is_alive(record.pid or 0)


def test_a_forced_custom_all_reduce_is_never_removed(launcher: Launcher) -> None:
    launcher.pass_flags(json.dumps(FAST))
    forced = {**FAST, "row": "T8"}
    process = launcher.start(launcher.program(hanging_engines.STILL), "serve", fallback=forced, FLASH_HANG_SECONDS=SOON)
    said(process, "fault without a remedy")
    assert record_of(launcher).incident is None


def test_a_second_hang_restarts_nothing(fast: Launcher) -> None:
    process = fast.start(fast.program(hanging_engines.STILL_WITH_ANY_FLAGS), "serve", FLASH_HANG_SECONDS=SOON)
    said(process, "recovering")
    first = record_of(fast).incident
    said(process, "fault without a remedy")

    record = record_of(fast)
    assert (record.starts, record.incident) == (2, first)
    assert is_alive(record.pid or 0)


def test_a_container_that_starts_after_the_incident_takes_the_safe_set_at_once(fast: Launcher) -> None:
    process = fast.start(fast.program(hanging_engines.STILL), "serve", FLASH_HANG_SECONDS=SOON)
    note_of(fast, "serving")
    wait_for_start(fast, number=2)
    before = record_of(fast)
    process.kill()
    os.killpg(before.pid or 0, signal.SIGKILL)
    process.communicate()
    (fast.run_dir / "serving").unlink()
    (fast.node_dir / "engine-flags").unlink()

    fast.start(fast.program(hanging_engines.STILL), "serve", patience=600, FLASH_HANG_SECONDS=SOON)

    assert "--disable-custom-all-reduce" in note_of(fast, "serving")["args"]
    wait_for_start(fast, number=3)
    record = record_of(fast)
    assert (record.starts, record.incident) == (3, before.incident)
    assert fast.document("effective.json")["origin"] == "recovery"


# A process that is stuck in the GPU's driver exits once the driver releases it.
HELD_BACK = """
import ctypes, os, sys
assert ctypes.CDLL(None).prctl(36, 1) == 0
from flash_engine import processes
from flash_engine.launcher import __main__, supervisor
supervisor.KILL_SECONDS = float(os.environ["KILL_SECONDS"])
send = processes.Family.signal
def held_back(family, number):
    if os.path.exists(os.environ["FLASH_RUN_DIR"] + "/let-go"):
        send(family, number)
processes.Family.signal = held_back
sys.exit(__main__.main())
"""


def test_a_signal_during_the_recovery_ends_the_container_and_starts_nothing(fast: Launcher) -> None:
    program = fast.program(hanging_engines.DEAF)
    process = fast.start(
        program,
        "serve",
        first_process=HELD_BACK,
        FLASH_STOP_SECONDS="600",
        FLASH_HANG_SECONDS=SOON,
        KILL_SECONDS="60",
    )
    said(process, "recovering")
    process.terminate()
    # The recovery is still in progress.
    assert record_of(fast).incident is not None
    (fast.run_dir / "let-go").touch()
    process.communicate(timeout=60)

    assert process.returncode == 128 + signal.SIGTERM
    record = record_of(fast)
    assert (record.phase, record.starts, record.exit and record.exit.signal) == ("Exited", 1, "SIGTERM")
    assert not (fast.run_dir / "serving").exists()


def test_a_signal_to_the_engine_that_was_started_again_ends_it(fast: Launcher) -> None:
    process = fast.start(fast.program(hanging_engines.STILL), "serve", FLASH_HANG_SECONDS=SOON)
    note_of(fast, "serving")
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert record_of(fast).starts == 2


def test_an_engine_that_cannot_be_killed_ends_its_container(fast: Launcher) -> None:
    """The kubelet restarts the container, which then uses the safe flags. A second engine beside it would not help."""
    process = fast.start(
        fast.program(hanging_engines.STILL),
        "serve",
        first_process=HELD_BACK,
        FLASH_HANG_SECONDS=SOON,
        KILL_SECONDS="0.5",
    )
    (engine,) = note_of(fast, "pids")
    # The engine holds the launcher's pipes, so they stay open when the launcher exits.
    assert said(process, "engine not killed")
    assert process.wait(timeout=60) == 1
    os.kill(engine, signal.SIGKILL)

    record = record_of(fast)
    assert record.incident is not None
    assert record.exit is not None
    assert "cannot be killed" in record.exit.last_lines[0]
    assert not (fast.run_dir / "serving").exists()


def test_a_fault_report_restarts_a_serving_engine(fast: Launcher) -> None:
    process = fast.start(fast.program(hanging_engines.SERVING), "serve")
    note_of(fast, "serving")
    wait_for_start(fast)
    first = record_of(fast)
    suspect(fast)
    said(process, "recovering")
    wait_for_start(fast, number=2)

    record = record_of(fast)
    assert record.run != first.run
    assert record.incident is not None
    assert (record.incident.kind, record.incident.signature) == ("corrupt", "S4")
    assert record.incident.detail == "the golden answer '!!!!'"
    eventually(lambda: "--disable-custom-all-reduce" in note_of(fast, "serving")["args"], "the safe set serves")


IGNORED: dict[str, dict[str, Any]] = {
    "of another run": {"startedAt": "2026-01-01T00:00:00.000Z"},
    "of another process": {"pid": 1},
    "of an unknown kind": {"kind": "slow"},
    "of another version": {"version": 2},
    "without a message": {"message": None},
}


@pytest.mark.parametrize("changes", IGNORED.values(), ids=IGNORED.keys())
def test_an_ignored_fault_report_is_logged_and_the_next_one_counts(fast: Launcher, changes: dict[str, Any]) -> None:
    process = fast.start(fast.program(hanging_engines.SERVING), "serve")
    note_of(fast, "serving")
    wait_for_start(fast)
    suspect(fast, **changes)
    said(process, "fault report ignored")
    assert record_of(fast).incident is None

    suspect(fast)
    said(process, "recovering")


@pytest.mark.parametrize("text", ["{", "[]", "\0", "[" * 100_000])
def test_a_fault_report_that_cannot_be_read_is_ignored(fast: Launcher, text: str) -> None:
    process = fast.start(fast.program(hanging_engines.SERVING), "serve")
    note_of(fast, "serving")
    (fast.run_dir / FaultReport.FILE).write_text(text)
    assert FaultReport.FILE in said(process, "fault report ignored")["file"]
    assert (record_of(fast).starts, record_of(fast).incident) == (1, None)


def test_a_reported_hang_is_deferred_while_kernels_are_compiled(fast: Launcher) -> None:
    process = fast.start(
        fast.program(hanging_engines.SERVING_WHILE_KERNELS_ARE_COMPILED), "serve", FLASH_HANG_SECONDS=SOON
    )
    compiler = note_of(fast, "compiler")
    note_of(fast, "serving")
    wait_for_start(fast)
    suspect(fast, "hang")
    assert said(process, "fault report deferred: the engine computes")["computing"] == "ptxas compiles"
    eventually(lambda: record_of(fast).computing == "ptxas compiles", "the gate is told")
    assert record_of(fast).incident is None

    os.kill(compiler, signal.SIGKILL)
    said(process, "recovering")
    incident = record_of(fast).incident
    assert incident is not None
    assert (incident.kind, incident.signature) == ("hang", "S3")
