"""The launcher, as a real process, inspects the checkpoint before it starts anything."""

import json
from pathlib import Path

import pytest

from broken_checkpoints import BROKEN_CHECKPOINTS, BrokenCheckpoint
from fake_checkpoint import FakeCheckpoint
from flash_contracts.engine_record import PLUGIN_LINE, EngineRecord
from flash_engine.launcher.model_check import REJECTED, RequestedModel
from launcher_harness import FAST, TELL, Launcher

MTP = '--speculative-config={"method":"mtp","num_speculative_tokens":1}'


def run(
    launcher: Launcher, model: Path, *arguments: str, check: str = "strict", program: str = TELL
) -> tuple[int, str]:
    """The launcher's exit code, and what the engine wrote."""
    launcher.pass_flags(json.dumps(FAST))
    process = launcher.start(launcher.program(program), "serve", str(model), MTP, *arguments, FLASH_MODEL_CHECK=check)
    out, _ = process.communicate()
    return process.returncode, out


def test_a_valid_checkpoint_is_reported_and_the_engine_starts(launcher: Launcher, tmp_path: Path) -> None:
    model = FakeCheckpoint.make("seed").save(tmp_path / "model")
    code, out = run(launcher, model)

    assert code == 0
    assert json.loads(out)["args"][:2] == ["serve", str(model)]
    message = launcher.document("checkpoint.json")
    assert message["layout"] == "W4A16-FP8, INT4 MTP"
    assert launcher.document("engine.json")["rejection"] is None


REFUSED = [row for row in BROKEN_CHECKPOINTS if row.severity == "refused" and row.code]


@pytest.mark.parametrize("row", REFUSED, ids=lambda row: row.name)
def test_a_bad_checkpoint_ends_the_start_with_a_message_and_no_engine(
    launcher: Launcher, tmp_path: Path, row: BrokenCheckpoint
) -> None:
    code, out = run(launcher, row.save(tmp_path / "model"))

    assert code == REJECTED
    assert out == "", "no engine was started"
    record = EngineRecord.parse(launcher.document("engine.json"))
    assert record.rejection is not None
    assert row.names in record.rejection
    assert record.exit is not None
    assert record.exit.last_lines == (f"ModelRejected: {record.rejection}",)


def test_a_missing_model_is_rejected_before_waiting_for_flags(launcher: Launcher) -> None:
    process = launcher.start(launcher.program(TELL), "serve", "/none", patience=600, FLASH_MODEL_CHECK="strict")
    _, err = process.communicate(timeout=60)

    assert process.returncode == REJECTED
    assert "the folder /none does not exist" in err


def test_the_rejection_is_cleared_once_the_checkpoint_is_repaired(launcher: Launcher, tmp_path: Path) -> None:
    made = FakeCheckpoint.make("seed")
    whole = dict(made.tensors)
    made.drop("mtp.0.e_proj")
    assert run(launcher, made.save(tmp_path / "model"))[0] == REJECTED
    made.tensors = whole
    made.save(tmp_path / "model")
    code, _ = run(launcher, tmp_path / "model")

    record = EngineRecord.parse(launcher.document("engine.json"))
    assert (code, record.rejection, record.starts) == (0, None, 2)


def test_faults_that_the_plugin_repairs_do_not_stop_the_start(launcher: Launcher, tmp_path: Path) -> None:
    made = FakeCheckpoint.make("seed, FP8 compressor", topk_method=None)
    code, _ = run(launcher, made.save(tmp_path / "model"))

    assert code == 0
    findings = launcher.document("checkpoint.json")["findings"]
    assert [finding["code"] for finding in findings] == ["Fp8Compressor", "TopkMethod"]


def test_a_drafter_is_required_only_with_speculation(launcher: Launcher, tmp_path: Path) -> None:
    model = FakeCheckpoint.make("stripped").save(tmp_path / "model")
    launcher.pass_flags(json.dumps(FAST))
    process = launcher.start(launcher.program(TELL), "serve", str(model), FLASH_MODEL_CHECK="strict")
    process.communicate()

    assert process.returncode == 0


def test_for_another_model_only_the_files_are_checked(launcher: Launcher, tmp_path: Path) -> None:
    made = FakeCheckpoint.make("seed")
    made.config["architectures"] = ["LlamaForCausalLM"]
    model = made.save(tmp_path / "model")

    assert run(launcher, model, check="strict")[0] == REJECTED
    assert run(launcher, model, check="files")[0] == 0


def test_an_unknown_check_is_a_bad_setting(launcher: Launcher, tmp_path: Path) -> None:
    process = launcher.start(launcher.program(TELL), "serve", str(tmp_path), FLASH_MODEL_CHECK="maybe")
    _, err = process.communicate()

    assert process.returncode == 2
    assert "FLASH_MODEL_CHECK" in err


SAYS = f"""
import sys, time
print("{PLUGIN_LINE}: vLLM 0.33.0", file=sys.stderr, flush=True)
time.sleep(2)
"""


def test_the_plugins_log_line_is_recorded(launcher: Launcher, tmp_path: Path) -> None:
    model = FakeCheckpoint.make("seed").save(tmp_path / "model")
    run(launcher, model, program=SAYS)
    assert launcher.document("engine.json")["plugin"] == f"{PLUGIN_LINE}: vLLM 0.33.0"

    run(launcher, model, program="import time; print('INFO loading', flush=True); time.sleep(1)")
    assert launcher.document("engine.json")["plugin"] is None, "whatever else it says"


@pytest.mark.parametrize(
    ("arguments", "requested"),
    [
        pytest.param(["serve", "/models"], RequestedModel("/models", None, "off"), id="no speculation"),
        pytest.param(["serve", "/models", MTP], RequestedModel("/models", None, "mtp"), id="MTP"),
        pytest.param(
            ["serve", "owner/name", "--speculative-config", '{"method":"dspark"}', "--revision=abc"],
            RequestedModel("owner/name", "abc", "dspark"),
            id="DSpark of a revision",
        ),
        pytest.param(
            ["serve", "/models", "--speculative-config={"],
            RequestedModel("/models", None, "off"),
            id="what vLLM will refuse",
        ),
        pytest.param(
            ["serve", "/models", '--speculative-config={"method":"eagle3","model":"x"}'],
            RequestedModel("/models", None, "off"),
            id="a drafter of its own",
        ),
        pytest.param(["serve", "--help"], None, id="no model"),
        pytest.param(["bench"], None, id="another command"),
    ],
)
def test_the_arguments_decide_how_the_checkpoint_is_checked(
    arguments: list[str], requested: RequestedModel | None
) -> None:
    assert RequestedModel.of(arguments) == requested
