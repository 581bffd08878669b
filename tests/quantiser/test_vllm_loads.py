"""vLLM's own classes load the restored checkpoint completely."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

import tiny_checkpoints
import tiny_v4
from flash_engine.checkpoint.inspection import inspect
from flash_engine.checkpoint.source import open_model
from mtp_quantiser.__main__ import main
from mtp_quantiser.shard import SHARD


def load(*folders: Path) -> dict[str, Any]:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, str(Path(__file__).with_name("vllm_loader.py")), *map(str, folders)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


@pytest.fixture(scope="module")
def spliced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("v4")
    source = tiny_checkpoints.write_official(folder / "official", config=tiny_v4.CONFIG)
    capture = tiny_checkpoints.write_capture(folder / "capture")
    base = tiny_v4.write_base(folder / "base")
    given = ["--source", str(source), "--capture", str(capture), "--out", str(folder / "restored"), "--device", "cpu"]
    assert main(["quantise", *given]) == 0
    together = ["--base", str(base), "--restored", str(folder / "restored"), "--out", str(folder / "whole")]
    assert main(["splice", *together]) == 0
    return folder / "whole"


def without(name: str, whole: Path, folder: Path) -> Path:
    """The same checkpoint, but for one tensor of the restored shard."""
    folder.mkdir()
    for path in whole.iterdir():
        (folder / path.name).hardlink_to(path)
    tensors = load_file(whole / SHARD)
    del tensors[name]
    (folder / SHARD).unlink()
    save_file(tensors, folder / SHARD, metadata={"format": "pt"})
    return folder


@pytest.mark.timeout(400)
def test_every_parameter_of_model_and_draft_is_loaded(spliced: Path, tmp_path: Path) -> None:
    found = load(spliced, without("mtp.0.e_proj.weight", spliced, tmp_path / "less"))
    assert found["main"]["class"] == "DeepseekV4ForCausalLM"
    assert found["draft"]["class"] == "DeepSeekV4MTP"
    assert found["main"]["missing"] == found["draft"]["missing"] == []
    assert found["draft"]["parameters"] > 30
    (missing,) = found["other"]["missing"]
    assert missing.endswith("e_proj.weight"), "the check itself sees one tensor less"


def test_the_engines_own_inspection_finds_it_whole_and_sees_one_tensor_less(spliced: Path, tmp_path: Path) -> None:
    """The launcher checks before the start, and the plugin while loading, with the same table of tensors."""
    found = inspect(lambda: open_model(str(spliced)), speculation="mtp")
    assert found.refusals == ()
    assert found.layout
    assert found.layout.has_drafter
    less = without("mtp.0.e_proj.weight", spliced, tmp_path / "less")
    refusals = inspect(lambda: open_model(str(less)), speculation="mtp").refusals
    assert any("mtp.0.e_proj.weight" in refusal.sentence for refusal in refusals)
