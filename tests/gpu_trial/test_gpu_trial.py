"""The trial itself, with an engine stub in place of vLLM: pods start, are logged and judged as the operator does it."""

import os
import sys
from pathlib import Path

import pytest

import tiny_model
from builders import a_flash
from gpu_trial.cases import ALL, PROVED, Case, Scale, fault, flags_of, on_gpu
from gpu_trial.engine import ENGINE, Engine, entry_point
from gpu_trial.pod import Pod
from gpu_trial.process_log import phases
from image_builder.layout import ROOT

FLASH = a_flash(
    model={"source": "pvc://models", "servedNames": ["tiny"]},
    engine={"profile": "Custom", "maxSequences": 2},
    readiness={
        "golden": {"kind": "Completion", "prompt": "17 + 25?", "expect": "42"},
        "minDecodeTokensPerSecond": 1,
        "decodeTokens": 16,
    },
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model.build(tmp_path_factory.mktemp("models")) / "good"


@pytest.fixture
def stub() -> Engine:
    path = os.pathsep.join([str(ROOT / "tests/support"), str(ENGINE)])
    return Engine(Path(sys.executable), {**os.environ, "PYTHONPATH": path}, module="engine_stub")


def test_a_pod_is_launched_measured_and_leaves_nothing(tmp_path: Path, model: Path, stub: Engine) -> None:
    flags = flags_of(FLASH, PROVED)
    with Pod(tmp_path / "pod", FLASH, flags, model, stub, {}) as pod:
        result = pod.verdict(60)
        engine = pod.record()["pid"]
    assert result["reason"] == "Passed", result
    assert result["effective"]["flags"]["row"] == flags.row
    assert pod.record()["command"][2] == str(model)
    assert phases(pod.logs["engine"].lines).keys() >= {"checkpoint inspected", "engine started", "server ready"}
    assert not Path(f"/proc/{engine}").exists()


def test_an_engine_that_exits_is_reported_with_its_verdict(tmp_path: Path, model: Path) -> None:
    broken = Engine(Path(sys.executable), os.environ, module="no_such_module")
    with Pod(tmp_path / "pod", FLASH, flags_of(FLASH, None), model, broken, {}) as pod:
        result = pod.verdict(60)
        said = "\n".join(line for _, line in pod.logs["engine"].lines)
    assert fault(Case("", "", "EngineExited", message="no_such_module"), result, said) is None
    assert "Passed was expected" in str(fault(Case("", "", "Passed"), result, said))


@pytest.mark.parametrize(("accepted", "message"), [(100.0, "None"), (98.0, "98.0 %"), (None, "None %")])
def test_a_verdict_alone_is_not_enough(accepted: float | None, message: str) -> None:
    result = {"reason": "Passed", "measurement": {"acceptancePercent": accepted}}
    assert str(fault(Case("", "", "Passed", acceptance=ALL), result, "")).startswith(message)


def test_all_reduce_variants_differ_in_flags_and_include_the_derived_set() -> None:
    effects = [
        flags_of(on_gpu(Scale(gpus=2), **interconnect), PROVED).effect
        for interconnect in ({}, {"customAllReduce": "Disabled"}, {"mode": "Safe"})
    ]
    assert len(set(effects)) == len(effects)


def test_the_plugin_is_found_by_its_metadata(tmp_path: Path) -> None:
    message = (entry_point(tmp_path) / "flash_engine-0.1.0.dist-info/entry_points.txt").read_text()
    assert "[vllm.general_plugins]\nflash_engine = flash_engine.plugin:register" in message
