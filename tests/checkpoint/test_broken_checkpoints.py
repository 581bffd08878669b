"""Inspects each broken checkpoint: the expected finding comes first."""

from functools import partial
from pathlib import Path

import pytest

from broken_checkpoints import BROKEN_CHECKPOINTS, BrokenCheckpoint, page_rows
from fake_checkpoint import KINDS, FakeCheckpoint
from flash_engine.checkpoint.checkpoint_files import LocalFolder
from flash_engine.checkpoint.finding import CODES
from flash_engine.checkpoint.inspection import Inspection, inspect
from flash_engine.checkpoint.model_findings import Speculation
from flash_engine.checkpoint.origin import HUB, IMAGE, VOLUME
from flash_engine.checkpoint.source import open_files
from remedies import assert_can_be_carried_out

LAYOUTS = {
    "seed": "W4A16-FP8, INT4 MTP",
    "seed, FP8 compressor": "W4A16-FP8, INT4 MTP",
    "BF16 experts in MTP": "W4A16-FP8, BF16 MTP",
    "BF16 MTP": "W4A16-FP8, BF16 MTP",
    "stripped": "W4A16-FP8, MTP stripped",
    "official": "official FP4/FP8, FP4 MTP",
    "NVFP4": "NVFP4-FP8, NVFP4 MTP",
    "NVFP4A16": "NVFP4A16, MTP stripped",
    "DSpark": "official FP4/FP8, FP4 DSpark drafter",
}


def look(folder: Path, speculation: Speculation = "mtp", *, any_model: bool = False) -> Inspection:
    return inspect(lambda: open_files(str(folder)), speculation=speculation, any_model=any_model)


@pytest.mark.parametrize("row", BROKEN_CHECKPOINTS, ids=lambda row: row.name)
def test_the_expected_finding_comes_first(tmp_path: Path, row: BrokenCheckpoint) -> None:
    found = look(row.save(tmp_path))

    if row.code is None:
        assert found.findings == ()
        return
    first = found.findings[0]
    assert (first.code, first.severity) == (row.code, row.severity)
    assert row.names in f"{first.message} {first.tensors}"
    assert bool(found.refusals) == (not row.served)


@pytest.mark.parametrize("row", [row for row in BROKEN_CHECKPOINTS if row.code], ids=lambda row: row.name)
def test_every_finding_has_a_message_a_remedy_and_the_effect_on_vllm(tmp_path: Path, row: BrokenCheckpoint) -> None:
    for finding in look(row.save(tmp_path)).findings:
        assert finding.code in CODES
        assert finding.remedy
        assert finding.without_plugin
        assert "Error" not in finding.sentence, "plain text without the name of an exception"
    for origin in (VOLUME, HUB, IMAGE):
        found = inspect(partial(LocalFolder, tmp_path, origin), speculation="mtp").findings
        assert_can_be_carried_out(found)
        if origin is HUB:
            assert not any(one.remedy.startswith(("copy the file", "remove", "add ", "put ")) for one in found)


@pytest.mark.parametrize("kind", KINDS)
def test_each_layout_is_detected(tmp_path: Path, kind: str) -> None:
    found = look(FakeCheckpoint.make(kind).save(tmp_path), "off")

    assert found.layout is not None
    assert found.layout.name == LAYOUTS[kind]
    assert not found.refusals


def test_a_broken_drafter_is_accepted_without_speculation(tmp_path: Path) -> None:
    made = FakeCheckpoint.make("seed")
    made.drop("mtp.0.e_proj")
    folder = made.save(tmp_path)

    assert [finding.severity for finding in look(folder, "off").findings] == ["note"]
    assert [finding.severity for finding in look(folder, "mtp").findings] == ["refused"]


def test_the_layout_is_detected_even_if_many_tensors_are_missing(tmp_path: Path) -> None:
    made = FakeCheckpoint.make("seed")
    made.drop("experts.0.", "experts.1.")
    found = look(made.save(tmp_path))

    assert found.layout is not None
    assert found.layout.name == "W4A16-FP8, INT4 MTP"
    assert len(found.refusals[0].tensors) == 2 * 9 * 3


def test_an_unknown_layout_is_refused_with_a_list_of_the_known_ones(tmp_path: Path) -> None:
    made = FakeCheckpoint.make("seed")
    for name, tensor in made.tensors.items():
        if name.endswith(".weight_packed"):
            tensor.type = "I16"
    found = look(made.save(tmp_path))

    assert found.findings[0].code == "UnknownLayout"
    assert "W4A16-FP8" in found.findings[0].remedy


def test_another_model_is_refused_unless_any_model_is_allowed(tmp_path: Path) -> None:
    made = FakeCheckpoint.make("seed")
    made.config["architectures"] = ["LlamaForCausalLM"]
    folder = made.save(tmp_path)

    refused = look(folder).refusals
    assert [finding.code for finding in refused] == ["OtherModel"]
    assert "LlamaForCausalLM" in refused[0].message
    assert look(folder, any_model=True).findings == ()


def test_a_truncated_file_of_any_model_is_refused(tmp_path: Path) -> None:
    row = next(row for row in BROKEN_CHECKPOINTS if row.code == "TruncatedShard")
    folder = row.save(tmp_path)
    config = (folder / "config.json").read_text().replace("DeepseekV4ForCausalLM", "LlamaForCausalLM")
    (folder / "config.json").write_text(config)

    assert [finding.code for finding in look(folder, any_model=True).refusals] == ["TruncatedShard"]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        pytest.param(None, "NoConfig", id="missing"),
        pytest.param("{", "NoConfig", id="truncated"),
        pytest.param("[]", "NoConfig", id="list"),
        pytest.param("{}", "OtherModel", id="empty"),
    ],
)
def test_an_unusable_config(tmp_path: Path, text: str | None, code: str) -> None:
    FakeCheckpoint.make("seed").save(tmp_path)
    (tmp_path / "config.json").unlink()
    if text is not None:
        (tmp_path / "config.json").write_text(text)

    assert [finding.code for finding in look(tmp_path).findings] == [code]


@pytest.mark.parametrize("key", ["hidden_size", "compress_ratios", "n_routed_experts", "hc_mult"])
def test_a_config_without_a_size_is_refused_and_the_size_named(tmp_path: Path, key: str) -> None:
    made = FakeCheckpoint.make("seed")
    del made.config[key]
    (found,) = look(made.save(tmp_path)).findings

    assert found.code == "BadConfig"
    assert key in found.message


def test_a_missing_folder_and_an_empty_one(tmp_path: Path) -> None:
    assert [finding.code for finding in look(tmp_path / "none").findings] == ["NotFound"]
    assert [finding.code for finding in look(tmp_path).findings] == ["NoConfig"]
    assert "neither config.json nor weights" in look(tmp_path).findings[0].message
    (tmp_path / "config.json").write_text("{}")
    assert [finding.code for finding in look(tmp_path).findings] == ["NoWeights"]


def test_an_index_that_is_not_json(tmp_path: Path) -> None:
    folder = FakeCheckpoint.make("seed").save(tmp_path, shards=2)
    (folder / "model.safetensors.index.json").write_text("<html>")

    assert [finding.code for finding in look(folder).findings] == ["BadIndex"]


def test_the_page_has_the_table_of_broken_checkpoints() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs/checkpoint.md").read_text()
    table = page.partition("| checkpoint | vLLM alone |")[2].partition("\n\n")[0]
    assert table.splitlines()[2:] == page_rows()
