"""The command `flash-checkpoint`."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from broken_checkpoints import BROKEN_CHECKPOINTS
from fake_checkpoint import FakeCheckpoint


def run(*arguments: str) -> tuple[int, str]:
    """Runs the installed command. Returns its exit code and output."""
    program = Path(sys.executable).with_name("flash-checkpoint")
    done = subprocess.run([program, *arguments], check=False, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def test_the_report_of_an_intact_checkpoint(tmp_path: Path) -> None:
    code, output = run("inspect", str(FakeCheckpoint.make("seed").save(tmp_path)))

    assert code == 0
    assert "W4A16-FP8, INT4 MTP" in output
    for profile in ("LongContext", "Balanced", "Throughput"):
        assert re.search(rf"{profile} +│ +[\d,]+ │ +2,048 │", output)
    assert '--speculative-config={"method":"mtp","num_speculative_tokens":1}' in output
    assert output.rstrip().endswith("verdict  can be served")


def test_a_broken_checkpoint_is_refused_with_code_remedy_and_effect(tmp_path: Path) -> None:
    row = next(row for row in BROKEN_CHECKPOINTS if row.name == "MTP without e_proj")
    code, output = run("inspect", str(row.save(tmp_path)))

    assert code == 1
    assert "refused MissingTensor: 1 tensor of the drafter is missing: mtp.0.e_proj.weight" in output
    assert "what to do" in output
    assert "silently ignores the tensor" in output
    assert output.rstrip().endswith("verdict  refused")


def test_repaired_findings_are_counted(tmp_path: Path) -> None:
    code, output = run("inspect", str(FakeCheckpoint.make("seed, FP8 compressor", topk_method=None).save(tmp_path)))

    assert code == 0
    assert output.rstrip().endswith("verdict  can be served, with 2 repaired by the plugin")


def test_json_has_everything(tmp_path: Path) -> None:
    code, output = run("inspect", str(FakeCheckpoint.make("DSpark").save(tmp_path)), "--json", "--speculation", "mtp")
    document = json.loads(output)

    assert (code, document["servable"]) == (1, False)
    (finding,) = document["findings"]
    assert finding.keys() == {"code", "severity", "message", "remedy", "tensors", "withoutPlugin"}
    assert [one["profile"] for one in document["profiles"]] == ["LongContext", "Balanced", "Throughput"]
    assert document["flags"][-1]["value"] == '--speculative-config={"method":"dspark","num_speculative_tokens":5}'


def test_a_missing_folder_is_reported_without_a_traceback() -> None:
    code, output = run("inspect", "/none")

    assert code == 1
    assert "the folder /none does not exist" in output
    assert "Traceback" not in output


@pytest.mark.parametrize("place", ["pvc://claim/folder", "oci://images.example/model:1"])
def test_a_source_that_is_only_known_in_a_pod_is_refused(place: str) -> None:
    code, output = run("inspect", place)

    assert code == 1
    assert "where it is mounted" in output
    assert "/models" in output


@pytest.mark.parametrize("arguments", [(), ("inspect",), ("inspect", "/x", "--speculation", "eagle")])
def test_wrong_usage_has_its_own_exit_code(arguments: tuple[str, ...]) -> None:
    code, output = run(*arguments)
    assert code == 2
    assert "usage: flash-checkpoint" in output


def test_help_has_examples_and_explains_tokens() -> None:
    code, output = run("--help")
    assert code == 0
    assert "flash-checkpoint inspect hf://owner/name" in output
    assert "HF_TOKEN" in output
