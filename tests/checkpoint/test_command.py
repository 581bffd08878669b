"""`flash-checkpoint` as a person types it."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from broken_checkpoints import SPOILT
from fake_checkpoint import Lookalike


def run(*arguments: str) -> tuple[int, str]:
    """Exit code, and all that was said. By its own name, as it was installed."""
    program = Path(sys.executable).with_name("flash-checkpoint")
    done = subprocess.run([program, *arguments], check=False, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def test_a_good_one_is_told_of_in_a_page(tmp_path: Path) -> None:
    code, said = run("inspect", str(Lookalike.make("seed").save(tmp_path)))

    assert code == 0
    assert "W4A16-FP8, INT4 MTP" in said
    for profile in ("LongContext", "Balanced", "Throughput"):
        assert re.search(rf"{profile} +│ +[\d,]+ │ +2,048 │", said)
    assert '--speculative-config={"method":"mtp","num_speculative_tokens":1}' in said
    assert said.rstrip().endswith("verdict  can be served")


def test_a_bad_one_is_refused_with_name_remedy_and_what_vllm_would_do(tmp_path: Path) -> None:
    row = next(row for row in SPOILT if row.name == "MTP without e_proj")
    code, said = run("inspect", str(row.save(tmp_path)))

    assert code == 1
    assert "refused MissingTensor: 1 tensors of its drafter are missing: mtp.0.e_proj.weight" in said
    assert "what to do" in said
    assert "leaves the tensor out without a word" in said
    assert said.rstrip().endswith("verdict  refused")


def test_what_is_mended_is_counted(tmp_path: Path) -> None:
    code, said = run("inspect", str(Lookalike.make("seed, FP8 compressor", topk_method=None).save(tmp_path)))

    assert code == 0
    assert said.rstrip().endswith("verdict  can be served, with 2 repaired by the plugin")


def test_json_has_all_of_it(tmp_path: Path) -> None:
    code, said = run("inspect", str(Lookalike.make("DSpark").save(tmp_path)), "--json", "--speculation", "mtp")
    told = json.loads(said)

    assert (code, told["servable"]) == (1, False)
    (finding,) = told["findings"]
    assert finding.keys() == {"code", "severity", "message", "remedy", "tensors", "withoutPlugin"}
    assert [one["profile"] for one in told["profiles"]] == ["LongContext", "Balanced", "Throughput"]
    assert told["flags"][-1]["value"] == '--speculative-config={"method":"dspark","num_speculative_tokens":5}'


def test_a_place_that_is_none_is_a_sentence_and_no_trace() -> None:
    code, said = run("inspect", "/none")

    assert code == 1
    assert "there is no folder /none" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("place", ["pvc://claim/folder", "oci://images.example/model:1"])
def test_a_place_that_only_a_pod_knows_is_said_so(place: str) -> None:
    code, said = run("inspect", place)

    assert code == 1
    assert "where it is mounted" in said
    assert "/models" in said


@pytest.mark.parametrize("arguments", [(), ("inspect",), ("inspect", "/x", "--speculation", "eagle")])
def test_wrong_usage_is_said_and_is_another_code(arguments: tuple[str, ...]) -> None:
    code, said = run(*arguments)
    assert code == 2
    assert "usage: flash-checkpoint" in said


def test_help_teaches() -> None:
    code, said = run("--help")
    assert code == 0
    assert "flash-checkpoint inspect hf://owner/name" in said
    assert "HF_TOKEN" in said
