"""Acceptance of drafts before the head is stripped and after it is restored, measured on a served model.

The tool reads DeepSeek-V4's layout, and no vLLM runs DeepSeek-V4 on a CPU. So the experts of a tiny DeepSeek-V3's MTP
layer are written in the official V4 layout, go through `restore` as they would at their real size, are decoded again by
compressed-tensors, and take their old places in the V3 checkpoint, which a real vLLM serves. What else the V4 layer
consists of is random, carried over by the tool, and has no place there.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import torch
from compressed_tensors.compressors.base import BaseCompressor
from compressed_tensors.quantization import QuantizationConfig
from safetensors.torch import load_file
from torch import Tensor

import drafting_model
import tiny_checkpoints as tiny
from mtp_quantiser.__main__ import main
from mtp_quantiser.shard import SHARD
from test_vllm_captures import PACKAGES

V4_CONFIG: Final[Mapping[str, Any]] = {
    **tiny.CONFIG,
    "hidden_size": drafting_model.SHAPE.hidden,
    "moe_intermediate_size": drafting_model.SHAPE.expert,
    "n_routed_experts": drafting_model.SHAPE.experts,
    "num_experts_per_tok": drafting_model.SHAPE.experts_per_token,
    "routed_scaling_factor": 1.0,
}

pytestmark = pytest.mark.timeout(600)


@dataclass(frozen=True)
class Served:
    """How many tokens were drafted and accepted."""

    drafted: int
    accepted: int
    said: list[list[int]]

    @property
    def percent(self) -> float:
        return 100 * self.accepted / self.drafted


class Server:
    """One process that serves one checkpoint after another."""

    def __init__(self, folder: Path) -> None:
        environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
        environment["PYTHONPATH"] = os.pathsep.join(map(str, PACKAGES))
        self._log = (folder / "vllm.log").open("w")
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("acceptance.py"))],
            env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True,
        )  # fmt: skip

    def serve(self, model: Path, capture: Path | None = None) -> Served:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        asked = {"model": str(model), "capture": str(capture) if capture else None}
        self._process.stdin.write(f"{json.dumps(asked)}\n")
        self._process.stdin.flush()
        message = json.loads(self._process.stdout.readline() or '{"died": "before it answered"}')
        assert "died" not in message, (message, Path(self._log.name).read_text()[-5000:])
        return Served(**message)

    def close(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process.kill()  # one that still serves after a failed test is not waited for
        self._process.wait()
        self._log.close()


@dataclass(frozen=True)
class Way:
    """A checkpoint before it was stripped, and the restored one."""

    folder: Path
    layer: drafting_model.Layer
    server: Server
    before: Served
    restored: dict[str, Tensor]
    result: Mapping[str, Any]

    def serve(self, name: str, experts: Mapping[str, Tensor]) -> Served:
        return self.server.serve(drafting_model.write(self.folder / name, self.layer, experts))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("server"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def way(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Way:
    folder = tmp_path_factory.mktemp("acceptance")
    layer = drafting_model.Layer.make()
    experts = drafting_model.trained(layer)
    whole = drafting_model.write(folder / "before", layer, {stem: m.decoded() for stem, m in experts.items()})
    before = server.serve(whole, folder / "capture")
    out = restore(folder, layer, experts)
    return Way(folder, layer, server, before, decoded(out), json.loads((folder / "result").read_text()))


def restore(folder: Path, layer: drafting_model.Layer, experts: drafting_model.Experts) -> Path:
    gate = torch.from_numpy(layer.tensors[drafting_model.ROUTER]).bfloat16()

    def ours(tensors: dict[str, Tensor]) -> None:
        for stem, matrix in experts.items():
            tensors[f"{stem}.weight"] = matrix.packed.view(torch.int8)
            tensors[f"{stem}.scale"] = matrix.exponents.view(torch.float8_e8m0fnu)
        tensors["mtp.0.ffn.gate.weight"] = gate
        tensors["mtp.0.ffn.gate.bias"].zero_()

    source = tiny.write_official(folder / "official", ours, V4_CONFIG)
    base = tiny.write_base(folder / "stripped")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, **V4_CONFIG, "num_nextn_predict_layers": 0}))
    given = ["--base", str(base), "--source", str(source), "--capture", str(folder / "capture"), "--device", "cpu"]
    assert main(["restore", *given, "--out", str(folder / "whole"), "--result", str(folder / "result")]) == 0
    return folder / "whole"


def decoded(whole: Path) -> dict[str, Tensor]:
    """Each expert's matrix as compressed-tensors reads it."""
    config = QuantizationConfig.model_validate(json.loads((whole / "config.json").read_text())["quantization_config"])
    scheme = next(group for group in config.config_groups.values() if group.format == "pack-quantized")
    compressor = BaseCompressor.get_value_from_registry("pack-quantized")
    tensors = load_file(whole / SHARD)
    stems = [name.removesuffix(".weight_packed") for name in tensors if name.endswith(".weight_packed")]
    parts = ("weight_packed", "weight_scale", "weight_shape")
    return {
        stem: compressor.decompress({part: tensors[f"{stem}.{part}"] for part in parts}, scheme)["weight"]
        for stem in stems
    }


def test_acceptance_after_restoring_is_what_it_was_before_stripping(way: Way) -> None:
    after = way.serve("after", way.restored)
    print(f"before {way.before.accepted}/{way.before.drafted} = {way.before.percent:.2f} %")
    print(f"after {after.accepted}/{after.drafted} = {after.percent:.2f} %")
    assert way.result["state"] == "Restored"
    assert way.result["figures"]["gptq"] > 0
    assert way.before.drafted > 500
    assert 70 < way.before.percent < 99, "neither dead nor perfect by construction"
    assert abs(after.percent - way.before.percent) <= 2
    assert after.said == way.before.said, "drafts never change what is said"


def test_experts_in_each_others_places_cost_acceptance(way: Way) -> None:
    """The measurement would detect a faulty shard, if the tool did not reject it."""
    count = drafting_model.SHAPE.experts

    def next_one(stem: str) -> str:
        head, expert, matrix = stem.rsplit(".", 2)
        return f"{head}.{(int(expert) + 1) % count}.{matrix}"

    damaged = way.serve("damaged", {stem: way.restored[next_one(stem)] for stem in way.restored})
    print(f"damaged {damaged.accepted}/{damaged.drafted} = {damaged.percent:.2f} %")
    assert damaged.percent < way.before.percent - 30
    assert damaged.said == way.before.said
