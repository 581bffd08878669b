"""A whole job on a small checkpoint: judged, resumed, and not mixed with other runs."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny_checkpoints as tiny
from mtp_quantiser import job, shard
from mtp_quantiser.batch import QuantiserSettings
from mtp_quantiser.captures import Capture
from mtp_quantiser.errors import QuantiserError
from mtp_quantiser.expert_store import ExpertStore
from mtp_quantiser.formats.int4 import unpack
from mtp_quantiser.layout import EXPERT_MATRICES
from mtp_quantiser.official import OfficialMtp
from mtp_quantiser.stages import Factor, Swept
from mtp_quantiser.stages.plain import PlainStages

CPU = torch.device("cpu")


class Run:
    """One job in a folder of its own."""

    def __init__(self, official: Path, capture: Path | None, folder: Path, stages: PlainStages | None = None) -> None:
        self.official = OfficialMtp.open(official)
        self.capture = Capture.open(capture, self.official.shape) if capture else None
        self.folder = folder
        self.said: list[str] = []
        self.machine = job.DeviceContext(CPU, stages or PlainStages(), self.said.append)
        self.made_from = job.made_from(self.official, self.capture, QuantiserSettings())
        self.store = ExpertStore.open(folder / "work", self.made_from, restart=False)

    def steps(self, size: int = 2) -> Iterator[int]:
        inputs = job.inputs_of(self.official, self.capture, CPU) if self.capture else None
        yield from job.run(self.official, inputs, self.store, self.machine, QuantiserSettings(), size)

    def finish(self, size: int = 2) -> dict[str, Any]:
        assert list(self.steps(size)) == [0, 1, 2, 3]
        return shard.assemble(self.official, self.store, self.folder, self.made_from)

    def bytes(self) -> bytes:
        return (self.folder / shard.SHARD).read_bytes()


@pytest.fixture(scope="module")
def whole(official: Path, capture: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = Run(official, capture, tmp_path_factory.mktemp("whole"))
    run.finish()
    return run


def test_every_matrix_is_at_or_below_rounding_on_held_out_tokens(whole: Run) -> None:
    manifest = shard.read_manifest(whole.folder)
    matrices = [expert[name] for expert in manifest["experts"] for name in EXPERT_MATRICES]
    assert manifest["method"] == {
        "gptq": sum(m["method"] == "gptq" for m in matrices),
        "rtn": 12 - manifest["method"]["gptq"],
    }
    for matrix in matrices:
        better = matrix["errorGptq"] <= matrix["errorRtn"]
        assert matrix["method"] == ("gptq" if better else "rtn")
    assert manifest["method"]["gptq"] >= 8


def test_the_tokens_that_judge_do_not_calibrate(official: Path, capture: Path) -> None:
    run = Run.__new__(Run)
    opened = OfficialMtp.open(official)
    run.capture = Capture.open(capture, opened.shape)
    inputs = job.inputs_of(opened, run.capture, CPU)
    parts = [set(table.rows.tolist()) for table in (inputs.seen, inputs.held_out)]
    assert [len(part) for part in parts] == [720, 80]
    assert set.union(*parts) == set(range(800)), "no token has two parts"


def test_an_interrupted_run_goes_on_to_the_same_bytes(
    official: Path, capture: Path, whole: Run, tmp_path: Path
) -> None:
    first = Run(official, capture, tmp_path)
    steps = first.steps()
    assert [next(steps) for _ in range(3)] == [0, 1, 2]
    del steps
    second = Run(official, capture, tmp_path)
    second.finish(size=4)  # another batch is asked for
    assert second.store.batch == 2, "on a GPU another batch may change a last bit"
    assert second.bytes() == whole.bytes()


def test_a_half_written_expert_is_made_anew(official: Path, capture: Path, whole: Run, tmp_path: Path) -> None:
    first = Run(official, capture, tmp_path)
    list(first.steps())
    path = first.store.path(1)
    path.write_bytes(path.read_bytes()[:-5])
    assert not first.store.has(1)
    second = Run(official, capture, tmp_path)
    second.finish()
    assert second.bytes() == whole.bytes()


def test_experts_of_another_capture_are_not_mixed_in(official: Path, capture: Path, tmp_path: Path) -> None:
    list(Run(official, capture, tmp_path / "out").steps())
    other = tiny.write_capture(tmp_path / "other", tiny.inputs(200, 9))
    with pytest.raises(QuantiserError, match=r"capture changed.*--restart"):
        Run(official, other, tmp_path / "out")


def test_an_expert_without_tokens_is_rounded_and_listed(official: Path, tmp_path: Path) -> None:
    one = tiny.inputs(1).expand(20, -1).contiguous()  # one token twenty times: two experts see it, two see nothing
    run = Run(official, tiny.write_capture(tmp_path / "c", one), tmp_path)
    manifest = run.finish()
    idle = [expert for expert in manifest["experts"] if not expert["tokens"]]
    assert len(idle) == 2
    assert all(expert["w1"] == {"method": "rtn", "why": "no calibration token reached this expert"} for expert in idle)


def test_matrices_without_tokens_to_judge_by_keep_gptq_and_say_so(official: Path, tmp_path: Path) -> None:
    run = Run(official, tiny.write_capture(tmp_path / "c", tiny.inputs(3)), tmp_path)
    manifest = run.finish()
    used = [expert for expert in manifest["experts"] if expert["tokens"]]
    assert used
    for matrix in (expert[name] for expert in used for name in EXPERT_MATRICES):
        assert (matrix["method"], matrix["why"]) == ("gptq", "no held-out tokens to judge it by")


def test_requests_are_not_split(official: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = OfficialMtp.open(official)
    capture = Capture.open(tiny.write_capture(tmp_path / "c", tiny.inputs(400)), opened.shape)
    requests = torch.arange(400) % 40  # interleaved, as an engine serves them
    monkeypatch.setattr(Capture, "requests", lambda _: requests)
    inputs = job.inputs_of(opened, capture, CPU)
    parts = [set(requests[table.rows].tolist()) for table in (inputs.seen, inputs.held_out)]
    assert [len(part) for part in parts] == [36, 4]
    assert set.union(*parts) == set(range(40)), "no request has two parts"


def test_without_a_capture_everything_is_rounded(official: Path, tmp_path: Path) -> None:
    manifest = Run(official, None, tmp_path).finish()
    assert manifest["method"] == {"gptq": 0, "rtn": 12}
    assert manifest["experts"][0]["w2"]["why"] == "no capture was given"


class ShortOfMemory(PlainStages):
    """Fails like a GPU that is too small for more than two experts."""

    def gram(self, x: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
        if len(offsets) > 3:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return super().gram(x, offsets)


def test_out_of_memory_halves_the_batch_and_says_so(official: Path, capture: Path, whole: Run, tmp_path: Path) -> None:
    run = Run(official, capture, tmp_path, ShortOfMemory())
    assert list(run.steps(size=4)) == [0, 1, 2, 3]
    assert run.said == ["out of GPU memory: continuing with batches of 2 experts"]
    assert run.store.batch == 2
    assert all(torch.equal(run.store.tensors(3)[name], tensor) for name, tensor in whole.store.tensors(3).items())


class Poor(PlainStages):
    """A sweep that returns zeros for the weights."""

    def sweep(self, weights: torch.Tensor, scales: torch.Tensor, factor: Factor, order: torch.Tensor) -> Swept:
        swept = super().sweep(weights, scales, factor, order)
        return Swept(torch.zeros_like(swept.codes), swept.loss)


def test_where_gptq_is_worse_the_rounded_matrix_is_kept_and_listed(
    official: Path, capture: Path, tmp_path: Path
) -> None:
    poor = Run(official, capture, tmp_path, Poor())
    manifest = poor.finish()
    assert manifest["method"] == {"gptq": 0, "rtn": 12}
    assert manifest["experts"][3]["w2"]["why"] == "rounding to nearest is better on held-out tokens"
    assert manifest["experts"][3]["w2"]["errorGptq"] == pytest.approx(1.0)
    assert unpack(poor.store.tensors(3)[f"{tiny.expert(3, 'w1')}.weight_packed"]).any()


class HardToFactor(PlainStages):
    """Reports the second expert as not factorised, a given number of times."""

    def __init__(self, times: int) -> None:
        self.times = times
        self.dampings: list[torch.Tensor] = []

    def factorise(self, h: torch.Tensor, order: torch.Tensor, damping: torch.Tensor) -> Factor:
        factor = super().factorise(h, order, damping)
        if h.shape[1] == 256 and len(self.dampings) < self.times:
            self.dampings.append(damping)
            factor.failed[-1] = 1
        return factor


def test_a_hessian_that_will_not_factor_gets_more_damping(official: Path, capture: Path, tmp_path: Path) -> None:
    stages = HardToFactor(3)
    run = Run(official, capture, tmp_path, stages)
    steps = run.steps()
    assert next(steps) == 0
    assert stages.dampings[2][-1] == pytest.approx(10 * stages.dampings[1][-1])
    assert run.store.figures(0)["w1"]["method"] == "gptq"


def test_one_that_never_factors_is_rounded_and_listed(official: Path, capture: Path, tmp_path: Path) -> None:
    run = Run(official, capture, tmp_path, HardToFactor(4))
    steps = run.steps()
    assert [next(steps), next(steps)] == [0, 1]
    assert run.store.figures(1)["w1"] == {"method": "rtn", "why": "the Hessian could not be factorised"}
    assert "errorGptq" in run.store.figures(1)["w2"]


def test_a_full_disk_leaves_nothing_half_written(
    official: Path, capture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(official, capture, tmp_path)
    list(run.steps())

    def full(_tensors: object, path: Path, metadata: object) -> None:  # noqa: ARG001 - named by the caller
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shard, "save_file", full)
    with pytest.raises(
        QuantiserError, match=r"No space left on device.*free space there, then run the same command again"
    ):
        shard.assemble(run.official, run.store, tmp_path, run.made_from)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["work"]


def test_the_manifest_says_what_it_was_made_from(whole: Run) -> None:
    manifest = json.loads((whole.folder / shard.MANIFEST).read_text())
    assert manifest["madeFrom"] == whole.made_from
    assert set(manifest["sha256"]) == set(tiny.SHAPE.product())
