"""The command line, from an official checkpoint to a verified, spliced one; compressed-tensors judges the format."""

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from compressed_tensors.compressors.base import BaseCompressor
from compressed_tensors.quantization import QuantizationConfig, QuantizationScheme
from safetensors.torch import load_file, save_file

import tiny_checkpoints as tiny
from mtp_quantiser.__main__ import main
from mtp_quantiser.batch import QuantiserSettings
from mtp_quantiser.captures import Capture
from mtp_quantiser.checkpoint import Checkpoint
from mtp_quantiser.folder_lock import exclusive_or_refused
from mtp_quantiser.formats.int4 import decode_int4
from mtp_quantiser.job import made_from
from mtp_quantiser.layout import ALIASES
from mtp_quantiser.official import OfficialMtp
from mtp_quantiser.quantization_config import with_mtp
from mtp_quantiser.shard import MANIFEST, SHARD
from mtp_quantiser.splice import ALIAS_SHARD
from mtp_quantiser.verify import same_bits


@pytest.fixture(scope="module")
def restored(official: Path, capture: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("restored")
    command = ["quantise", "--source", str(official), "--capture", str(capture), "--out", str(out), "--device", "cpu"]
    assert main(command) == 0
    return out


@pytest.fixture(scope="module")
def spliced(base: Path, restored: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("spliced") / "whole"
    assert main(["splice", "--base", str(base), "--restored", str(restored), "--out", str(out)]) == 0
    return out


def test_the_output_is_shard_manifest_and_report(restored: Path) -> None:
    assert {path.name for path in restored.iterdir()} == {SHARD, MANIFEST, "mtp-report.html", "mtp-report.json"}


def test_another_user_may_read_what_was_made(restored: Path) -> None:
    assert {path.stat().st_mode & 0o777 for path in restored.iterdir()} == {0o644}


def test_the_report_says_the_same_as_page_and_as_data(restored: Path) -> None:
    report = json.loads((restored / "mtp-report.json").read_text())
    page = (restored / "mtp-report.html").read_text()
    assert report["matrices"]["w1"]["of"] == 4
    assert f"{report['matrices']['w2']['medianKept']:.3e}" in page
    assert page.count("<svg") == 3
    assert "http" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    ).replace("https://matplotlib.org", "")
    assert len(report["worst"]) == 10


def test_verify_accepts_the_output(spliced: Path, official: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(spliced), "--source", str(official)]) == 0
    assert capsys.readouterr().out == ""


def test_the_base_is_linked_and_untouched(base: Path, spliced: Path) -> None:
    name = "model-00001-of-00001.safetensors"
    assert (spliced / name).stat().st_ino == (base / name).stat().st_ino
    assert not Checkpoint.open(base).names("mtp.")
    assert (spliced / "tokenizer.json").exists()
    assert json.loads((base / "config.json").read_text())["num_nextn_predict_layers"] == 0


def test_index_and_aliases(spliced: Path, base: Path) -> None:
    checkpoint, before = Checkpoint.open(spliced), Checkpoint.open(base)
    assert set(checkpoint.shard_of) == {*before.shard_of, *tiny.SHAPE.product(), *ALIASES}
    for alias, name in ALIASES.items():
        assert torch.equal(checkpoint.tensor(alias), before.tensor(name))


def test_compressed_tensors_takes_the_config_and_decodes_every_matrix_to_the_same_bits(spliced: Path) -> None:
    document = json.loads((spliced / "config.json").read_text())["quantization_config"]
    config = QuantizationConfig.model_validate(document)
    scheme = next(group for group in config.config_groups.values() if group.format == "pack-quantized")
    assert isinstance(scheme, QuantizationScheme)
    assert scheme.weights is not None
    assert scheme.weights.actorder is None
    compressor = BaseCompressor.get_value_from_registry("pack-quantized")
    tensors = load_file(spliced / SHARD)
    for number in range(4):
        for matrix in ("w1", "w2", "w3"):
            stem = tiny.expert(number, matrix)
            parts = {part: tensors[f"{stem}.{part}"] for part in ("weight_packed", "weight_scale", "weight_shape")}
            theirs = compressor.decompress(dict(parts), scheme)["weight"]
            ours = decode_int4(parts["weight_packed"], parts["weight_scale"])
            assert theirs.dtype == torch.bfloat16
            assert torch.equal(theirs, ours)
            assert list(theirs.shape) == parts["weight_shape"].tolist() == list(tiny.SHAPE.expert_shape(matrix))


def test_fp8_attention_is_carried_over_under_the_names_of_compressed_tensors(spliced: Path, official: Path) -> None:
    tensors, source = load_file(spliced / SHARD), Checkpoint.open(official)
    for name in ("wq_a", "wq_b", "wkv", "wo_a", "wo_b"):
        stem = f"mtp.0.attn.{name}"
        assert torch.equal(
            tensors[f"{stem}.weight"].view(torch.uint8), source.tensor(f"{stem}.weight").view(torch.uint8)
        )
        assert tensors[f"{stem}.weight_scale"].dtype == torch.float32
        exponent = source.tensor(f"{stem}.scale").view(torch.uint8).float() - 127
        assert torch.equal(tensors[f"{stem}.weight_scale"], torch.exp2(exponent))


def test_the_matrices_are_near_their_source(spliced: Path, official: Path) -> None:
    tensors = load_file(spliced / SHARD)
    experts = OfficialMtp.open(official).experts(slice(0, 4), torch.device("cpu"))
    for matrix, fp4 in (("w1", experts.gate), ("w3", experts.up), ("w2", experts.down)):
        stem = tiny.expert(2, matrix)
        values = decode_int4(tensors[f"{stem}.weight_packed"], tensors[f"{stem}.weight_scale"]).float()
        wanted = fp4.decoded()[2].float()
        assert ((values - wanted).norm() / wanted.norm()) < 0.2


def change(name: str, folder: Path, corrupt: Any) -> None:
    tensors = load_file(folder / name)
    corrupt(tensors)
    (folder / name).unlink()  # a link to another folder's file must not be written through
    save_file(tensors, folder / name, metadata={"format": "pt"})


def test_verify_finds_one_flipped_bit(restored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in (SHARD, MANIFEST):
        (tmp_path / name).write_bytes((restored / name).read_bytes())

    def flip(tensors: dict[str, torch.Tensor]) -> None:
        tensors[f"{tiny.expert(2, 'w3')}.weight_packed"][5, 3] ^= 1 << 9

    change(SHARD, tmp_path, flip)
    assert main(["verify", str(tmp_path)]) == 1
    assert capsys.readouterr().out == "mtp.0.ffn.experts.2.w3.weight_packed does not have the manifest's checksum\n"


def test_verify_finds_another_source(restored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def corrupt(tensors: dict[str, torch.Tensor]) -> None:
        w1 = tensors[f"{tiny.expert(0, 'w1')}.weight"].view(torch.uint8)
        w1.copy_((w1 >> 4) | (w1 << 4))  # nibbles swapped: every histogram stays the same
        tensors["mtp.0.attn.wkv.weight"].view(torch.uint8)[0, 0] ^= 1

    other = tiny.write_official(tmp_path / "other", corrupt)
    assert main(["verify", str(restored), "--source", str(other)]) == 1
    said = capsys.readouterr().out
    assert "mtp.0.attn.wkv.weight differs from the source" in said
    assert "mtp.0.ffn.experts.0.w1: its values do not match the source" in said
    assert len(said.splitlines()) == 2


def test_verify_finds_an_alias_that_is_no_copy(spliced: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = (spliced / ALIAS_SHARD).read_bytes()

    def corrupt(tensors: dict[str, torch.Tensor]) -> None:
        tensors["mtp.0.head.weight"][0, 0] += 1

    change(ALIAS_SHARD, spliced, corrupt)
    assert main(["verify", str(spliced)]) == 1
    assert capsys.readouterr().out == "mtp.0.head.weight is not a copy of head.weight\n"
    (spliced / ALIAS_SHARD).write_bytes(whole)


def test_bits_are_compared_to_the_last_and_not_as_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mtp_quantiser.verify.COMPARED_BYTES", 64)
    one = torch.arange(100.0)
    one[0] = torch.nan
    other = one.clone()
    assert same_bits(one, other)
    other[99] = -99
    assert not same_bits(one, other)
    assert not same_bits(torch.zeros(1), -torch.zeros(1))
    assert not same_bits(torch.zeros(2, 3), torch.zeros(3, 2))
    assert not same_bits(torch.zeros(2, dtype=torch.int32), torch.zeros(2))


def test_splice_refuses_a_base_that_has_the_layer(
    spliced: Path, restored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["splice", "--base", str(spliced), "--restored", str(restored), "--out", str(tmp_path / "x")]) == 1
    assert "already has an MTP layer" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_splice_leaves_nothing_when_the_disk_is_full(
    base: Path, restored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(_tensors: object, path: Path, metadata: object) -> None:  # noqa: ARG001 - named by the caller
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mtp_quantiser.splice.save_file", full)
    out = tmp_path / "sub" / "x"
    out.parent.mkdir()
    assert main(["splice", "--base", str(base), "--restored", str(restored), "--out", str(out)]) == 1
    assert "No space left on device" in capsys.readouterr().err
    assert list(out.parent.iterdir()) == []


def test_splice_refuses_a_base_of_another_shape(
    base: Path, restored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "base"
    other.mkdir()
    for path in base.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    config = json.loads((base / "config.json").read_text()) | {"n_routed_experts": 8}
    (other / "config.json").write_text(json.dumps(config))
    assert main(["splice", "--base", str(other), "--restored", str(restored), "--out", str(tmp_path / "x")]) == 1
    assert "does not fit the base" in capsys.readouterr().err


def test_a_base_whose_targets_miss_the_layer_gets_them() -> None:
    quantization = json.loads(json.dumps(tiny.BASE_QUANTIZATION))
    quantization["config_groups"]["group_1"]["targets"] = [r"re:^layers\.\d+\.ffn\.experts\..*"]
    made = with_mtp({**tiny.CONFIG, "quantization_config": quantization}, tiny.SHAPE)["quantization_config"]
    assert len(made["config_groups"]) == 2
    assert made["config_groups"]["group_1"]["targets"][1] == r"re:.*ffn\.experts\.\d+\.(w1|w2|w3)$"
    assert "actorder" not in made["config_groups"]["group_1"]["weights"]
    assert made["scale_fmt"] == "ue8m0"


@pytest.mark.parametrize(
    ("source", "said"), [("hf://nobody/nothing@main", "cannot be fetched"), ("/nowhere", "is not a folder")]
)
def test_an_unavailable_source_is_named(
    source: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["quantise", "--source", source, "--method", "rtn", "--out", str(tmp_path)]) == 1
    assert f"{source} {said}" in capsys.readouterr().err


def test_gptq_asks_for_a_capture(official: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["quantise", "--source", str(official), "--out", str(tmp_path)]) == 1
    assert "GPTQ needs --capture" in capsys.readouterr().err


def quantise(source: Path, capture: Path, out: Path, *more: str) -> list[str]:
    return ["quantise", "--source", str(source), "--capture", str(capture), "--out", str(out), "--device", "cpu", *more]


def test_of_two_at_one_folder_the_second_is_refused(
    official: Path, capture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with exclusive_or_refused(tmp_path / "out"):
        assert main(quantise(official, capture, tmp_path / "out")) == 1
    assert f"another process is writing {tmp_path / 'out'}" in capsys.readouterr().err
    assert main(quantise(official, capture, tmp_path / "out")) == 0


def test_after_a_refusal_of_nan_the_remedy_that_was_named_works(
    official: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tiny.inputs(100, 2)
    bad[42, 7] = torch.nan
    capture = tiny.write_capture(tmp_path / "c", tiny.inputs(400), bad)
    assert main(quantise(official, capture, tmp_path / "out")) == 1
    assert (
        "capture-1.safetensors contains NaN or infinity, first in row 42; remove that file" in capsys.readouterr().err
    )
    (capture / "capture-1.safetensors").unlink()
    assert main(quantise(official, capture, tmp_path / "out")) == 0


def test_a_touched_capture_is_the_same_capture(official: Path, tmp_path: Path) -> None:
    capture = tiny.write_capture(tmp_path / "c")
    opened, settings = OfficialMtp.open(official), QuantiserSettings()
    before = made_from(opened, Capture.open(capture, opened.shape), settings)
    for path in capture.iterdir():
        os.utime(path, (1, 1))
    assert made_from(opened, Capture.open(capture, opened.shape), settings) == before
    tiny.write_capture(tmp_path / "d", tiny.inputs(500, 1), tiny.inputs(300, 3))
    assert made_from(opened, Capture.open(tmp_path / "d", opened.shape), settings) != before


@pytest.mark.parametrize("batch", ["-3", "0", "many"])
def test_a_senseless_batch_is_a_usage_error(
    batch: str, official: Path, capture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(quantise(official, capture, tmp_path / "out", "--batch", batch))
    assert f"'{batch}' is not a positive whole number" in capsys.readouterr().err


def test_a_full_disk_is_found_before_any_work(
    official: Path, capture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    assert main(quantise(official, capture, tmp_path / "out")) == 1
    assert f"{tmp_path} has 0.0 GB free, but" in capsys.readouterr().err
    assert list((tmp_path / "out").iterdir()) == []
