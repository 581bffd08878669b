"""flash-capture's recorder, and what it takes from vLLM's model runners. The engines are stubs.

test_vllm_captures has a real one.
"""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import tiny_checkpoints as tiny
from flash_contracts.mtp_capture import ROUTER, ROUTER_KEY
from flash_engine.capture.recorder import Piece, Recorder
from flash_engine.capture.recording import metadata_of
from flash_engine.capture.worker import Capture as WorkerCapture
from flash_engine.errors import EngineError
from mtp_quantiser.captures import Capture
from mtp_quantiser.official import OfficialMtp


def test_the_quantiser_reads_what_the_recorder_writes(tmp_path: Path) -> None:
    x, recorder = tiny.inputs(300), Recorder(tmp_path, most=250, rows=100)
    recorder.record(x[:60].float(), [Piece("a", 0, 40), Piece("b", 0, 20)])
    recorder.record(x[60:180], [Piece("b", 20, 120)])
    recorder.record(x[180:300], [Piece("b", 140, 80), Piece("c", 0, 40)])
    capture = Capture.open(tmp_path, tiny.SHAPE)
    assert capture.tokens == recorder.recorded == 250
    assert torch.equal(torch.cat(list(capture.chunks())), x[:250])
    requests = capture.requests()
    assert requests is not None
    assert requests.tolist() == [0] * 40 + [1] * 210
    assert len(capture.files) > 1


def test_a_preempted_request_is_recorded_once(tmp_path: Path) -> None:
    x, recorder = tiny.inputs(50), Recorder(tmp_path, most=100)
    recorder.record(x[:30], [Piece("a", 0, 30)])
    recorder.record(x[:45], [Piece("a", 0, 45)])
    recorder.record(x[45:], [Piece("a", 45, 5)])
    recorder.flush()
    assert torch.equal(torch.cat(list(Capture.open(tmp_path, tiny.SHAPE).chunks())), x)


def test_padding_behind_the_batch_is_not_recorded(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, most=100)
    recorder.record(tiny.inputs(64), [Piece("a", 0, 7)])
    assert recorder.recorded == 7


def test_tokens_of_a_quiet_engine_are_written_soon(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, most=250, seconds=0.0)
    recorder.record(tiny.inputs(3), [Piece("a", 0, 3)])
    assert Capture.open(tmp_path, tiny.SHAPE).tokens == 3


class Draft(torch.nn.Module):  # type: ignore[misc] # torch is untyped here
    def __init__(self) -> None:
        super().__init__()
        self.block = torch.nn.ModuleDict({"ffn": torch.nn.Linear(256, 256), "ffn_norm": torch.nn.Identity()})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.block["ffn"](input=self.block["ffn_norm"](x))
        return result


class FirstRunnersDrafter:
    """Of vLLM's first model runner: the batch is the runner's own."""

    def __init__(self) -> None:
        self.model = Draft()

    def propose(self, target: torch.Tensor, common_attn_metadata: Any) -> None:  # noqa: ARG002 - vLLM's
        self.model(target.float())
        self.model(target[:2].float())


class SecondRunnersSpeculator:
    def __init__(self) -> None:
        self.model = Draft()

    def propose(self, input_batch: Any, target: torch.Tensor, *, dummy_run: bool = False) -> None:  # noqa: ARG002 - vLLM's
        self.model(target.float())
        self.model(target[:2].float())


BOUNDS, NAMES, COMPUTED = [0, 4, 9], ["a", "b"], np.array([0, 3, 77])


def test_of_the_first_model_runner_the_first_forward_of_a_proposal_is_recorded(tmp_path: Path) -> None:
    runner = SimpleNamespace(input_batch=SimpleNamespace(req_ids=NAMES, num_computed_tokens_cpu=COMPUTED))
    drafter, capture = FirstRunnersDrafter(), WorkerCapture(Recorder(tmp_path, most=100, seconds=0), runner)
    assert capture.watch(drafter, "ffn") == 1
    drafter.model(tiny.inputs(5, 3).float())
    x = tiny.inputs(9)
    drafter.propose(x, common_attn_metadata=SimpleNamespace(query_start_loc_cpu=torch.tensor(BOUNDS)))
    assert torch.equal(torch.cat(list(Capture.open(tmp_path, tiny.SHAPE).chunks())), x)


def test_of_the_second_model_runner_likewise_and_nothing_of_a_dummy_batch(tmp_path: Path) -> None:
    speculator, capture = SecondRunnersSpeculator(), WorkerCapture(Recorder(tmp_path, most=100, seconds=0), None)
    assert capture.watch(speculator, "ffn") == 1
    batch = SimpleNamespace(req_ids=NAMES, query_start_loc_np=np.array(BOUNDS), num_computed_tokens_np=COMPUTED)
    speculator.propose(batch, tiny.inputs(9, 3), dummy_run=True)
    x = tiny.inputs(9)
    speculator.propose(batch, x)
    assert torch.equal(torch.cat(list(Capture.open(tmp_path, tiny.SHAPE).chunks())), x)


def test_the_model_is_known_by_its_router(official: Path, tmp_path: Path) -> None:
    assert metadata_of(official) == {ROUTER_KEY: OfficialMtp.open(official).router_digest()}
    assert metadata_of(tmp_path) == {}, f"without {ROUTER}"


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"x")
    with pytest.raises(EngineError, match=r"model.safetensors is truncated or damaged"):
        metadata_of(tmp_path)
