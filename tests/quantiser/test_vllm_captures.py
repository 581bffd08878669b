"""`mtp-quantise capture` inside a real vLLM, with a tiny DeepSeek-V3: its mixture of experts is called mlp."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import tiny_model
from mtp_quantiser.captures import FORMAT, INPUT

ROOT = Path(__file__).resolve().parents[2]
PACKAGE, CONTRACTS = ROOT / "images" / "quantiser", ROOT / "contracts"
PROMPTS = 4
TOKENS = 32


def installed(folder: Path) -> Path:
    """The package's metadata as an installer writes it, with the entry points by which vLLM finds the plugin."""
    project = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["project"]
    metadata = folder / "mtp_quantiser-0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: mtp-quantiser\nVersion: 0\n")
    points = project["entry-points"]["vllm.general_plugins"]
    lines = [f"{name} = {target}" for name, target in points.items()]
    (metadata / "entry_points.txt").write_text("\n".join(["[vllm.general_plugins]", *lines, ""]))
    return folder


@pytest.mark.timeout(600)
def test_the_inputs_of_the_draft_experts_are_recorded(tmp_path: Path) -> None:
    tiny_model.write_variant("good", tmp_path / "model", tiny_model.TinyModel())
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text((json.dumps({"prompt": tiny_model.GOLDEN_PROMPT}) + "\n") * PROMPTS)
    environment = {
        **{name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"},
        "PYTHONPATH": os.pathsep.join([str(installed(tmp_path / "site")), str(PACKAGE), str(CONTRACTS)]),
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    }
    given = ["--model", str(tmp_path / "model"), "--prompts", str(prompts), "--out", str(tmp_path / "capture")]
    sizes = ["--max-tokens", str(TOKENS), "--max-model-len", "512", "--module", "mlp"]
    command = [sys.executable, "-m", "mtp_quantiser", "capture", *given, *sizes]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=500)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    parts = []
    for path in (tmp_path / "capture").glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            assert file.metadata() == {"format": FORMAT}
            parts.append(file.get_tensor(INPUT))
    recorded = torch.cat(parts)
    assert recorded.dtype == torch.bfloat16
    assert recorded.shape[1] == tiny_model.Shape().hidden
    assert len(recorded) >= PROMPTS * TOKENS // 2, "a draft is made for each accepted token and its successor"
    assert torch.isfinite(recorded).all()
    assert (recorded != 0).any(1).float().mean() > 0.5
