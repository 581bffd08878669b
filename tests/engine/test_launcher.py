"""The launcher as a real process: which flags it uses, where they come from, and what it logs."""

import json
import os
import signal
import subprocess
import sys

import pytest

from flash_engine.drain.connections import ARGUMENT
from flash_engine.launcher.api_key_check import NO_KEY
from launcher_harness import FAST, TELL, Launcher, wait_for_phase


def test_the_nodes_flags_reach_the_engine(launcher: Launcher) -> None:
    launcher.pass_flags(json.dumps(FAST))
    out, _ = launcher.start(launcher.program(TELL), "serve", "/model").communicate()

    message = json.loads(out)
    assert message["args"] == ["serve", "/model", ARGUMENT]
    assert message["env"] == {"NCCL_P2P_DISABLE": None, "NCCL_P2P_LEVEL": "PHB", "PYTORCH_CUDA_ALLOC_CONF": None}
    effective = launcher.document("effective.json")
    assert (effective["origin"], effective["flags"]["row"]) == ("annotation", "T3")


def test_without_a_key_for_clients_no_engine_is_started(launcher: Launcher) -> None:
    keys = {"FLASH_API_KEYS_DIR": str(launcher.run_dir / "none"), "FLASH_API_KEYS_SECRET_NAME": "clients"}
    process = launcher.start(launcher.program(TELL), "serve", "/model", patience=0, **keys)
    out, _ = process.communicate()

    assert (process.returncode, out) == (NO_KEY, "")
    (line,) = launcher.document("engine.json")["exit"]["lastLines"]
    assert "kubectl create secret generic clients" in line


def test_an_argument_with_several_values_reaches_the_engine_as_words(launcher: Launcher) -> None:
    bound = {"value": "--numa-bind-nodes 0 1", "source": "label", "reason": "gpu-numa-nodes=0-1"}
    launcher.pass_flags(json.dumps({**FAST, "args": [bound]}))
    program = launcher.program(TELL)
    out, _ = launcher.start(program, "serve", "/model", KUBERNETES_SERVICE_HOST="fd00:10:96::1").communicate()

    expected = ["serve", "/model", ARGUMENT, "--host=::", "--numa-bind-nodes", "0", "1"]
    assert json.loads(out)["args"] == expected, "and the engine listens where the cluster's Services send requests"


def test_flags_that_come_late_are_waited_for(launcher: Launcher) -> None:
    launcher.pass_flags("")
    process = launcher.start(launcher.program(TELL), "serve", "/model")
    wait_for_phase(launcher, "WaitingForFlags")
    launcher.pass_flags(json.dumps(FAST))
    out, _ = process.communicate()

    assert json.loads(out)["env"]["NCCL_P2P_LEVEL"] == "PHB"
    assert launcher.document("effective.json")["origin"] == "annotation"


def test_without_flags_the_safe_flags_are_used_and_logged(launcher: Launcher) -> None:
    out, err = launcher.start(launcher.program(TELL), "serve", "/model", patience=0.2).communicate()

    message = json.loads(out)
    assert message["args"] == ["serve", "/model", ARGUMENT, "--disable-custom-all-reduce"]
    assert message["env"]["NCCL_P2P_DISABLE"] == "1"
    effective = launcher.document("effective.json")
    assert effective["origin"] == "fallback"
    assert "is the operator running?" in effective["detail"]
    assert effective["waitedMillis"] >= 200
    assert "is the operator running?" in err


def test_flags_that_come_after_the_engine_was_started_change_nothing(launcher: Launcher) -> None:
    process = launcher.start(launcher.program("import time; time.sleep(1)"), "serve", "/model", patience=0.1)
    wait_for_phase(launcher, "Starting")
    launcher.pass_flags(json.dumps(FAST))
    process.communicate()

    assert launcher.document("effective.json")["origin"] == "fallback"
    assert launcher.document("engine.json")["starts"] == 1


MALFORMED = {
    "half a document": '{"version": 1, "row": "T1", "args": [',
    "another version": json.dumps({**FAST, "version": 2}),
    "no arguments": '{"version": 1, "env": []}',
    "a number for a value": json.dumps({**FAST, "env": [{"name": "A", "value": 1}]}),
    "a list": "[]",
    "a name that the kernel takes for no variable": json.dumps({**FAST, "env": [{"name": "A=B", "value": "1"}]}),
    "brackets without an end": "[" * 100_000,
    "bytes that are no text": "\udcff",
}


@pytest.mark.parametrize("text", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_flags_are_never_applied_in_part(launcher: Launcher, text: str) -> None:
    launcher.pass_flags(text)
    out, _ = launcher.start(launcher.program(TELL), "serve").communicate()

    assert json.loads(out)["env"] == {
        "NCCL_P2P_DISABLE": "1",
        "NCCL_P2P_LEVEL": None,
        "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
    }
    effective = launcher.document("effective.json")
    assert effective["origin"] == "fallback"
    assert "could not be read" in effective["detail"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_waiting_for_flags_ends_at_once(launcher: Launcher, number: signal.Signals) -> None:
    process = launcher.start(launcher.program(TELL), "serve", patience=600)
    wait_for_phase(launcher, "WaitingForFlags")
    process.send_signal(number)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 128 + number
    assert "Traceback" not in err


def test_an_invalid_record_is_replaced(launcher: Launcher) -> None:
    (launcher.run_dir / "engine.json").write_text('{"starts": "many", "exit": 5}')
    process = launcher.start(launcher.program(TELL), "serve", patience=0)
    process.communicate()
    assert process.returncode == 0
    assert launcher.document("engine.json")["starts"] == 1


def test_flags_that_cannot_be_read_are_waited_for_and_the_reason_is_kept(launcher: Launcher) -> None:
    (launcher.node_dir / "engine-flags").mkdir()
    launcher.start(launcher.program(TELL), "serve", patience=0.2).communicate()
    effective = launcher.document("effective.json")
    assert effective["origin"] == "fallback"
    assert "Is a directory" in effective["detail"]


def test_no_engine_is_started_if_its_flags_cannot_be_recorded(launcher: Launcher) -> None:
    launcher.run_dir.rmdir()
    process = launcher.start(launcher.program(TELL), "serve", patience=0)
    out, err = process.communicate()
    assert (process.returncode, out) == (2, "")
    assert "FLASH_RUN_DIR" in err


def test_the_flags_are_written_down_before_the_engine_is_started(launcher: Launcher) -> None:
    program = launcher.program("import os\nprint(open(os.environ['FLASH_RUN_DIR'] + '/effective.json').read())")
    out, _ = launcher.start(program, "serve", patience=0).communicate()
    assert json.loads(out)["origin"] == "fallback"


@pytest.mark.parametrize("text", ["soon", "nan", "-1", "inf"])
def test_an_invalid_time_is_named(launcher: Launcher, text: str) -> None:
    process = launcher.start(launcher.program(TELL), "serve", FLASH_HAND_OVER_SECONDS=text)
    _, err = process.communicate()
    assert process.returncode == 2
    assert f"FLASH_HAND_OVER_SECONDS is '{text}'" in err


def test_a_missing_engine_is_reported(launcher: Launcher) -> None:
    process = launcher.start("no-such-engine", "serve", patience=0)
    _, err = process.communicate()

    assert process.returncode == 127
    assert "no-such-engine" in err
    record = launcher.document("engine.json")
    assert record["phase"] == "Exited"
    assert "no-such-engine" in record["exit"]["lastLines"][0]


def test_a_missing_setting_is_named() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "flash_engine.launcher", "serve"],
        env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "FLASH_NODE_DIR" in done.stderr


def test_an_unusable_fallback_is_refused_before_anything_starts(launcher: Launcher) -> None:
    process = launcher.start(launcher.program(TELL), "serve", patience=0, fallback="{}")
    out, err = process.communicate()
    assert (process.returncode, out) == (2, "")
    assert "bad setting" in err


@pytest.mark.parametrize("module", ["flash_engine.launcher", "flash_engine.gate"])
def test_help_lists_the_settings(module: str) -> None:
    done = subprocess.run([sys.executable, "-m", module, "--help"], capture_output=True, text=True, check=True)
    assert "FLASH_RUN_DIR" in done.stdout
