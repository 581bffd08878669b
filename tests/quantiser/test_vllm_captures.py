"""flash-capture with a real vLLM, two tensor-parallel workers and a tiny DeepSeek-V3, whose experts are named `mlp`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoTokenizer

import tiny_model
from flash_contracts.mtp_capture import FORMAT_KEY, INPUT, REQUEST

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = [ROOT / "images/quantiser", ROOT / "images/engine", ROOT / "contracts"]
PROMPTS = ["the quick brown fox", "jumps over", "a lazy dog jumps over the quick brown fox", "the lazy fox"]
TOKENS = 32


@pytest.mark.timeout(600)
def test_each_token_of_two_workers_is_recorded_once_with_its_request(tmp_path: Path) -> None:
    tiny_model.write_variant("good", tmp_path / "model", tiny_model.TinyModel())
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in PROMPTS))
    environment = {
        **{name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"},
        "PYTHONPATH": os.pathsep.join(map(str, PACKAGES)),
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        # With two workers vLLM compiles its embedding, and this environment has no headers of Python.
        "TORCHDYNAMO_DISABLE": "1",
    }
    given = ["--model", str(tmp_path / "model"), "--prompts", str(prompts), "--out", str(tmp_path / "capture")]
    sizes = ["--max-tokens", str(TOKENS), "--max-model-len", "512", "--module", "mlp", "--tensor-parallel-size", "2"]
    command = [sys.executable, "-m", "flash_engine.capture", *given, *sizes]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=500)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    rows, requests = [], []
    for path in sorted((tmp_path / "capture").glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            assert FORMAT_KEY in file.metadata()
            rows.append(file.get_tensor(INPUT))
            requests += file.get_tensor(REQUEST).tolist()
    recorded = torch.cat(rows)
    assert recorded.dtype == torch.bfloat16
    assert recorded.shape[1] == tiny_model.Shape().hidden
    assert torch.isfinite(recorded).all()
    first = [number == 0 or requests[number - 1] != requests[number] for number in range(len(requests))]
    assert ((recorded != 0).any(1) | torch.tensor(first)).all(), "the layer sees nothing before the first token"
    assert f"{len(recorded):,} tokens of {len(PROMPTS)} requests" in done.stdout
    assert sorted(set(requests)) == list(range(len(PROMPTS)))
    tokens_of = AutoTokenizer.from_pretrained(tmp_path / "model")
    asked = [len(tokens_of(prompt).input_ids) for prompt in PROMPTS]
    assert [requests.count(number) for number in range(len(PROMPTS))] == [tokens + TOKENS for tokens in asked]
