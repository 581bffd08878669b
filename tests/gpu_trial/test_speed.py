"""The comparison with bench, and the figures at depth: an engine stub and a stand-in for bench play their parts."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from bf16_safetensors import from_bf16, to_bf16
from compare_vllm_bench import Figures, Target, compared, gate, gate_figures
from direct_http import WITHOUT_PROXY
from fake_checkpoint import Tensor
from flash_engine.engine_metrics import EngineCounters
from flash_engine.gate.measurement import Arrival, Sample, Stream, measure
from gpu_trial.cases import Case, Scale, on_gpu
from gpu_trial.reciting_model import misleading, mistaken_tokens
from gpu_trial.speed import SPEED_RUNS, SpeedRun, change, engine_rate, measure_speed, rate_together
from image_builder.layout import ROOT
from ports import a_free_port
from tiny_tokenizer import Vocabulary
from waiting import eventually

BENCH = """#!{python}
import json, pathlib, sys
given = dict(one.split("=", 1) for one in sys.argv[3:] if "=" in one)
prompts, tokens = int(given["--num-prompts"]), int(given["--random-output-len"])
result = {{"median_tpot_ms": 10.0, "median_ttft_ms": 20.0, "spec_decode_acceptance_rate": 50.0,
    "output_lens": [tokens] * prompts, "itls": [[0.01] * (tokens - 1)] * prompts, "ttfts": [0.02] * prompts}}
pathlib.Path(given["--result-dir"], given["--result-filename"]).write_text(json.dumps(result))
"""
"""Writes the result of a bench that saw 100 tok/s."""


def figures(speed: float, acceptance: float | None = 50.0) -> Figures:
    return Figures(speed, acceptance)


@pytest.mark.parametrize(
    ("ours", "accepted", "verdict"),
    [(102.9, 51.0, "met"), (103.1, 50.0, "missed"), (96.9, 50.0, "missed"), (100.0, 51.1, "missed")],
)
def test_the_goal_is_three_percent_and_one_point(ours: float, accepted: float, verdict: str) -> None:
    said = compared([(figures(ours, accepted), figures(100.0))])
    assert said.endswith(f"the goal is {verdict}"), said


def test_the_acceptance_of_all_pairs_together_is_shown_beside_that_of_the_median_pair() -> None:
    said = compared([(figures(100, 90), figures(100, 80)), (figures(100, 70), figures(100, 80))])
    assert "median difference 10.00 points (all pairs: gate 80.00 %, bench 80.00 %)" in said


def stream(first: float, last: float, tokens: int, *, cut: bool = False) -> Stream:
    arrivals = (Arrival(first, 1), Arrival(last, tokens))
    return Stream(asked=0, first=first, last=last, tokens=tokens, arrivals=arrivals, cut=cut)


def test_a_stream_that_the_gate_cut_is_not_compared_with_a_whole_one() -> None:
    """A gate whose floor is far below the engine's speed ends a stream of 256 tokens after seven blocks."""
    counters = EngineCounters(0, 0, None, None)
    after = EngineCounters(113, 0, None, None)
    with pytest.raises(RuntimeError, match="cut a stream after 113 tokens"):
        gate_figures(measure([Sample(stream(1, 2, 113, cut=True), counters, after)]))


def test_the_speed_of_two_streams_is_that_of_the_time_in_which_both_decode() -> None:
    # 100 tok/s each; the second begins a second later.
    assert rate_together([stream(1, 4, 301), stream(2, 5, 301)]) == pytest.approx(200)
    assert rate_together([stream(1, 2, 101), stream(3, 4, 101)]) is None


def test_the_engine_s_own_speed_leaves_out_the_first_tokens() -> None:
    before = EngineCounters(1000, 0, None, None, decode_seconds=1.0)
    after = EngineCounters(1202, 0, None, None, decode_seconds=3.0)
    assert engine_rate(before, after, streams=2) == 100
    assert engine_rate(before, before, streams=1) is None
    assert change(None, 1) is None


def test_half_of_the_drafts_of_one_token_are_accepted_wherever_a_text_starts() -> None:
    order = Vocabulary.make().successors()
    mistaken = set(mistaken_tokens(order))
    for start in range(len(order)):
        token, accepted = start, 0
        for _ in range(200):
            # A draft that begins at this token is right or not. One that is right is skipped.
            right = token not in mistaken
            accepted += right
            token = order[order[token]] if right else order[token]
        assert 95 <= accepted <= 105, (start, accepted)


def values(tensor: Tensor) -> NDArray[np.float32]:
    return from_bf16(np.frombuffer(tensor.data or b"", np.uint16)).reshape(tensor.shape)


def test_the_head_mistakes_those_tokens_and_no_others() -> None:
    """In as many dimensions as the model has: two tokens are all but orthogonal there."""
    order = Vocabulary.make().successors()
    embedding = np.random.default_rng(0).standard_normal((len(order), 4096), dtype=np.float32)
    stored = Tensor("BF16", embedding.shape, to_bf16(embedding).tobytes())
    projection = values(misleading(Tensor("BF16", (4096, 4096)), stored))
    successors = np.empty_like(embedding)
    successors[order] = embedding
    drafts = (embedding @ projection.T @ successors.T).argmax(axis=1)
    wrong = [token for token in range(len(order)) if drafts[token] != order[token]]
    assert wrong == sorted(mistaken_tokens(order))


def answers(url: str) -> bool:
    try:
        with WITHOUT_PROXY.open(url, timeout=5) as answer:
            return bool(answer.status == HTTPStatus.OK)
    except OSError:
        return False


@pytest.fixture
def engine() -> Iterator[str]:
    port = a_free_port()
    path = os.pathsep.join([str(ROOT / "tests/support"), str(ROOT / "images/engine")])
    arguments = [sys.executable, "-m", "engine_stub", f"--port={port}"]
    with subprocess.Popen(arguments, env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.DEVNULL) as process:
        address = f"http://127.0.0.1:{port}"
        try:
            eventually(lambda: answers(f"{address}/health"), "the engine stub answers")
            yield address
        finally:
            process.kill()


def test_the_gate_takes_all_samples_whole(engine: str) -> None:
    found = gate(Target(engine, "flash", "none", tokens=32, samples=2))
    assert len(found.streams) == 2
    assert found.acceptance_percent is not None


def test_a_run_keeps_each_pair_and_each_depth(engine: str, tmp_path: Path) -> None:
    command = tmp_path / "vllm"
    command.write_text(BENCH.format(python=sys.executable))
    command.chmod(0o755)
    said = measure_speed(SpeedRun(Case("", "half", "Passed"), 1, pairs=1), engine, command, tmp_path, depths=(256,))
    kept = [json.loads(line) for line in (tmp_path / "speed.jsonl").read_text().splitlines()]
    assert [row["kind"] for row in kept] == ["in turn", "1 at once", "deeper question", "2 at once", "bench"]
    assert kept[0]["bench"]["streams"] == [pytest.approx(100)] * 3
    assert kept[2]["doubt"] is None
    assert len(kept[3]["decode"]) == len(kept[3]["first_token_millis"]) == 2
    assert kept[4]["prefill"] == 256 / 0.02
    assert said[0].startswith("in turn: 1 pairs")


@pytest.mark.parametrize(("drafts", "method"), [(0, "Disabled"), (1, "Mtp"), (2, "Mtp")])
def test_a_run_asks_for_its_drafts(drafts: int, method: str) -> None:
    speculation = on_gpu(Scale(gpus=1, drafts=drafts)).spec.speculation
    assert speculation.method == method
    assert speculation.drafted_tokens == drafts or method == "Disabled"
    assert SPEED_RUNS[f"speed-{drafts}"].drafts == drafts
