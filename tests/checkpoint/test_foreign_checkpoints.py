"""Checkpoints of other tools, models and formats: each is identified once, with a remedy."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from fake_checkpoint import COMMON, KINDS, OFFICIAL, REAL, FakeCheckpoint, Tensor, write_shard
from flash_engine.checkpoint.checkpoint_files import LocalFolder
from flash_engine.checkpoint.file_formats import FORMATS, recognise
from flash_engine.checkpoint.foreign_quantisation import QUANTISATIONS, ForeignQuantisation, recognise_quantisation
from flash_engine.checkpoint.headers import StoredTensor
from flash_engine.checkpoint.inspection import Inspection, inspect
from flash_engine.checkpoint.model_config import ModelConfig
from flash_engine.checkpoint.model_findings import Speculation
from flash_engine.checkpoint.origin import HUB, IMAGE, VOLUME, Origin
from foreign_checkpoints import FILES, FOREIGN, UNKNOWN_LAYOUTS, ForeignCheckpoint, repacked
from remedies import assert_can_be_carried_out


def look(
    folder: Path, speculation: Speculation = "mtp", *, any_model: bool = False, origin: Origin = VOLUME
) -> Inspection:
    return inspect(lambda: LocalFolder(folder, origin), speculation=speculation, any_model=any_model)


def save(made: FakeCheckpoint, folder: Path) -> Path:
    """Headers only; the inspection reads nothing else."""
    return made.save(folder, with_data=False)


def of_model(kind: str, architecture: str, **config: Any) -> FakeCheckpoint:
    """Files of a DeepSeek-V4 under another model's name."""
    made = FakeCheckpoint.make(kind)
    made.config.update(architectures=[architecture], **config)
    return made


def write_files(folder: Path, paths: tuple[str, ...], architecture: str = "LlamaForCausalLM") -> Path:
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        if path.endswith(".safetensors"):
            write_shard(folder / path, {"model.a": Tensor("BF16", (4, 4))}, with_data=True)
        elif path == "config.json":
            (folder / path).write_text(json.dumps({"architectures": [architecture]}))
        else:
            (folder / path).write_bytes(b"weights")
    return folder


def codes(found: Inspection) -> list[str]:
    return [finding.code for finding in found.findings]


@pytest.mark.parametrize(
    "example", FOREIGN, ids=lambda one: f"{one.name} {one.config and one.config.get('quant_method')}"
)
def test_a_foreign_quantisation_is_the_only_refusal(tmp_path: Path, example: ForeignCheckpoint) -> None:
    folder = save(example.make(), tmp_path)
    if example.file:
        (folder / example.file).write_text("{}")

    for any_model in (False, True):
        found = look(folder, any_model=any_model)
        assert codes(found) == ["ForeignQuantisation"]
        (refusal,) = found.refusals
        assert example.name in refusal.message
        assert "W4A16-FP8" in refusal.remedy
        assert "config.json" not in refusal.remedy, "the advice for a damaged checkpoint"


@pytest.mark.parametrize(
    "example", FOREIGN, ids=lambda one: f"{one.name} {one.config and one.config.get('quant_method')}"
)
def test_another_model_in_a_foreign_quantisation_is_never_refused_with_custom(
    tmp_path: Path, example: ForeignCheckpoint
) -> None:
    made = example.make()
    made.config["architectures"] = ["Qwen3MoeForCausalLM"]
    folder = save(made, tmp_path)
    if example.file:
        (folder / example.file).write_text("{}")

    assert codes(look(folder)) == ["OtherModel"]
    found = look(folder, any_model=True)
    assert found.refusals == ()
    assert codes(found) == ([] if example.in_vllm else ["ForeignQuantisation"])


@pytest.mark.parametrize("described", UNKNOWN_LAYOUTS)
def test_another_scheme_of_compressed_tensors_is_described(tmp_path: Path, described: str) -> None:
    config, parts = UNKNOWN_LAYOUTS[described]
    made = FakeCheckpoint.make("seed", quantization_config=config)
    made.tensors = repacked(made, parts)
    found = look(save(made, tmp_path))

    assert codes(found) == ["UnknownLayout"]
    assert described in found.findings[0].message


@pytest.mark.parametrize("row", QUANTISATIONS, ids=lambda row: row.name)
def test_each_quantisation_is_recognised_by_each_of_its_traces(row: ForeignQuantisation) -> None:
    methods = [{"quantization_config": {"quant_method": method.replace("*", "").upper()}} for method in row.methods]
    assert all(recognise_quantisation(raw, {}, ()) is row for raw in methods)
    parts = {f"layers.0.attn.wq_a.{part}": StoredTensor("U8", (1,), "model") for part in row.parts}
    assert not parts or recognise_quantisation({}, parts, ()) is row
    assert all(recognise_quantisation({}, {}, (file.replace("*", ""),)) is row for file in row.files)
    assert methods or parts


STRAY = (
    "input_scale", "input_global_scale", "k_scale", "weight_scale_2", "weight_global_scale", "scale", "weight_offset",
    "qweight", "scales", "biases", "SCB", "absmax", "weight_zero_point", "trellis",
)  # fmt: skip
MODULES = ("layers.0.attn.wq_a", "layers.1.ffn.experts.0.w1", "mtp.0.attn.wkv")


@pytest.mark.parametrize("kind", ["seed", "official", "NVFP4"])
def test_a_stray_tensor_flips_no_scheme(tmp_path: Path, kind: str) -> None:
    made = FakeCheckpoint.make(kind)
    usual = look(save(made, tmp_path)).layout
    assert usual is not None
    strays = (f"{module}.{suffix}" for suffix, module in zip(STRAY, MODULES * len(STRAY), strict=False))
    for name in strays:
        if name in made.tensors:
            continue
        made.tensors[name] = Tensor("F32", (1,))
        found = look(save(made, tmp_path))
        del made.tensors[name]

        assert found.layout is not None
        assert found.layout.name == usual.name
        assert [finding.tensors for finding in found.findings] == [(name,)]


@pytest.mark.parametrize("name", FILES)
def test_each_format_is_recognised_by_its_files(tmp_path: Path, name: str) -> None:
    row = next(row for row in FORMATS if row.name == name)
    recognised = recognise(FILES[name])
    assert recognised is not None
    assert recognised[0] is row

    strict = look(write_files(tmp_path / "strict", FILES[name], "DeepseekV4ForCausalLM"))
    assert codes(strict) == ["ForeignFormat"]
    assert name in strict.refusals[0].message
    custom = look(write_files(tmp_path / "custom", FILES[name]), any_model=True)
    if name == "Mistral's format":
        assert custom.findings == ()
        assert len(custom.tensors) == 1
        return
    assert codes(custom) == ["ForeignFormat"]
    assert bool(custom.refusals) == (row.served == "no")
    assert custom.stored_bytes == sum(
        file.stat().st_size for file in (tmp_path / "custom").rglob("*.*") if file.is_file()
    )


def test_each_format_has_an_example() -> None:
    assert sorted(FILES) == sorted(row.name for row in FORMATS)


def test_a_single_gguf_file_is_given_instead_of_a_folder(tmp_path: Path) -> None:
    file = write_files(tmp_path, ("v4.gguf",)) / "v4.gguf"
    assert codes(look(file)) == ["ForeignFormat"]
    assert look(file, any_model=True).refusals == ()
    shard = write_files(tmp_path, ("model.safetensors",)) / "model.safetensors"
    assert codes(look(shard, any_model=True)) == ["NotFound"]


def test_gguf_is_recognised_by_its_content(tmp_path: Path) -> None:
    (tmp_path / "sha256-0a1b2c").write_bytes(b"GGUF\x03\x00\x00\x00")
    (finding,) = look(tmp_path).findings
    assert finding.code == "ForeignFormat"
    assert "GGUF" in finding.message


@pytest.mark.parametrize("folder", ["models", "snapshots/0123abc", "models--owner--v4/snapshots/0123abc"])
def test_a_checkpoint_in_a_subfolder_is_found(tmp_path: Path, folder: str) -> None:
    save(FakeCheckpoint.make("seed"), tmp_path / folder)
    (tmp_path / "README.md").write_text("model")
    (finding,) = look(tmp_path).findings

    assert finding.code == "Subfolder"
    assert f"/{folder}" in finding.remedy


@pytest.mark.parametrize(
    ("architecture", "model_type", "named"),
    [
        ("DeepseekV41ForCausalLM", "deepseek_v41", "DeepSeek-V4.1"),
        ("DeepseekV5ForCausalLM", "deepseek_v5", "a later DeepSeek"),
        ("DeepseekV32ForCausalLM", "deepseek_v32", "DeepSeek-V3.2"),
        ("DeepseekV3ForCausalLM", "deepseek_v3", "DeepSeek-V3 or R1"),
        ("DeepseekV3ForCausalLM", "kimi_k2", "Kimi"),
        ("KimiK25ForConditionalGeneration", "kimi_k25", "Kimi"),
        ("Glm4MoeForCausalLM", "glm4_moe", "GLM"),
        ("GlmMoeDsaForCausalLM", "glm_moe_dsa", "GLM"),
        ("Qwen3_5MoeForConditionalGeneration", "qwen3_5_moe", "Qwen"),
        ("DeepSeekV4MTPModel", "deepseek_mtp", "a drafter"),
        ("LlamaForCausalLMEagle3", "llama", "a drafter"),
        ("DSparkDraftModel", "dspark", "a drafter"),
        ("NovelForCausalLM", "novel", "NovelForCausalLM"),
    ],
)
def test_another_model_is_called_by_its_name(tmp_path: Path, architecture: str, model_type: str, named: str) -> None:
    made = of_model("official", architecture, model_type=model_type)
    (finding,) = look(save(made, tmp_path)).findings

    assert finding.code == "OtherModel"
    assert named in finding.message
    assert architecture in finding.message


def test_custom_is_not_suggested_for_a_model_that_does_not_fit(tmp_path: Path) -> None:
    made = of_model("official", "DeepseekV41ForCausalLM")
    (refusal,) = look(save(made, tmp_path)).findings
    assert "475 GiB" in refusal.message
    assert "Custom" not in refusal.remedy
    (note,) = look(tmp_path, any_model=True).findings
    assert (note.code, note.severity) == ("TooLarge", "note")


def test_the_size_of_files_decides_and_not_the_models_name(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["Glm4MoeForCausalLM"]}))
    write_shard(tmp_path / "model.safetensors", {"a": Tensor("BF16", (1 << 18, 1 << 19))}, with_data=False)
    assert "256 GiB" in look(tmp_path).findings[0].message
    assert codes(look(tmp_path, any_model=True)) == ["TooLarge"]


def drafted(entry: object) -> FakeCheckpoint:
    made = FakeCheckpoint.make("stripped")
    del made.config["num_nextn_predict_layers"]
    if entry != "absent":
        made.config["num_nextn_predict_layers"] = entry
    return made


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (0, "has num_nextn_predict_layers 0"),
        (None, "has num_nextn_predict_layers null"),
        ("absent", "has no num_nextn_predict_layers"),
        (1, "no mtp.* tensor"),
    ],
)
def test_zero_and_absent_are_distinguished(tmp_path: Path, entry: object, said: str) -> None:
    (finding,) = look(save(drafted(entry), tmp_path)).findings
    assert finding.code == "MtpMissing"
    assert finding.message.endswith(said)
    assert look(tmp_path, "off").findings == ()


def test_copies_of_the_models_tensors_are_not_a_drafter(tmp_path: Path) -> None:
    made = FakeCheckpoint.make("stripped")
    made.tensors["mtp.0.head.weight"] = Tensor("BF16", (512, 256))
    assert "MtpMissing" in codes(look(save(made, tmp_path)))
    assert "MissingTensor" not in codes(look(tmp_path))


def test_nvfp4_weights_without_activation_scales_are_served_without_a_drafter(tmp_path: Path) -> None:
    made = FakeCheckpoint.make("NVFP4A16")
    found = look(save(made, tmp_path), "off")
    assert found.findings == ()
    assert codes(look(tmp_path, "mtp")) == ["MtpMissing"]
    for name in [name for name in made.tensors if name.endswith(".weight_global_scale")]:
        made.tensors[name.replace(".weight_global", ".input_global")] = Tensor("F32", (1,))
    (surplus,) = look(save(made, tmp_path / "with"), "off").findings
    assert (surplus.code, surplus.severity) == ("SurplusTensor", "repaired")


@pytest.mark.parametrize(
    ("kind", "config", "speculation", "code", "remedy"),
    [
        pytest.param("DSpark", {}, "mtp", "DsparkWanted", "Dspark or Disabled", id="DSpark as MTP"),
        pytest.param("seed", {}, "dspark", "MtpMissing", "Mtp or Disabled", id="MTP as DSpark"),
        pytest.param("DSpark", {"dspark_target_layer_ids": None}, "mtp", "DrafterMismatch", "copy config.json",
                     id="DSpark, described as MTP"),
        pytest.param("official", {"dspark_target_layer_ids": [0, 1, 2], "dspark_markov_rank": 256, "n_mtp_layers": 1},
                     "dspark", "DrafterMismatch", "copy config.json", id="MTP, described as DSpark"),
    ],
)  # fmt: skip
def test_a_drafter_of_another_kind_is_one_refusal(
    tmp_path: Path, kind: str, config: Mapping[str, Any], speculation: Speculation, code: str, remedy: str
) -> None:
    made = FakeCheckpoint.make(kind)
    made.config.update(config)
    (finding,) = look(save(made, tmp_path), speculation).findings

    assert (finding.code, finding.severity) == (code, "refused")
    assert remedy in finding.remedy


def stored_as(made: FakeCheckpoint, module: str, parts: Mapping[str, str]) -> None:
    """Replaces the tensors of a matrix."""
    kept = {name: one for name, one in made.tensors.items() if name.rpartition(".")[0] != module}
    made.tensors = {**kept, **{f"{module}.{part}": Tensor(kind, (4, 4)) for part, kind in parts.items()}}


@pytest.mark.parametrize(
    ("kind", "module", "parts"),
    [
        pytest.param("seed", "head", {"weight_packed": "I32", "weight_scale": "BF16"}, id="packed head"),
        pytest.param("seed", "layers.1.ffn.experts.2.w1", {"weight": "BF16"}, id="one expert in BF16"),
        pytest.param("seed", "layers.0.attn.wq_a", {"qweight": "I32", "scales": "F16"}, id="one GPTQ matrix"),
        pytest.param("official", "mtp.0.ffn.experts.1.w2", {"weight_packed": "I32"}, id="one of the drafter"),
    ],
)
def test_a_matrix_in_another_scheme_is_named_once(
    tmp_path: Path, kind: str, module: str, parts: dict[str, str]
) -> None:
    made = FakeCheckpoint.make(kind)
    stored_as(made, module, parts)
    (finding,) = look(save(made, tmp_path)).findings

    assert (finding.code, finding.severity, finding.tensors) == ("StoredOtherwise", "refused", (module,))


def in_bf16(made: FakeCheckpoint, part: str) -> None:
    scales = {name for name in made.tensors if part in name and name.endswith(".scale")}
    made.tensors = {
        name: Tensor("BF16", one.shape) if f"{name.removesuffix('weight')}scale" in scales else one
        for name, one in made.tensors.items()
        if name not in scales
    }


@pytest.mark.parametrize(("part", "named"), [("shared_experts", "shared experts"), ("_proj.", "projection")])
def test_bf16_where_an_fp8_config_asks_for_fp8(tmp_path: Path, part: str, named: str) -> None:
    made = FakeCheckpoint.make("official")
    in_bf16(made, part)
    assert set(codes(look(save(made, tmp_path)))) == {"QuantisationTargets"}
    assert all(named in finding.message for finding in look(tmp_path).findings)
    made.config["quantization_config"]["ignored_layers"] = [part]
    assert look(save(made, tmp_path)).findings == ()


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("official", {"expert_dtype": "fp8"}),
        ("official", {"expert_dtype": 4}),
        ("NVFP4", {"quantization_config": OFFICIAL}),
    ],
)
def test_experts_that_contradict_the_config(tmp_path: Path, kind: str, config: dict[str, Any]) -> None:
    made = FakeCheckpoint.make(kind)
    made.config.update(config)
    (finding,) = look(save(made, tmp_path)).findings
    assert finding.code == "QuantisationTargets"
    assert "expert_dtype" in finding.message


def test_a_packed_compressor_is_refused(tmp_path: Path) -> None:
    made = FakeCheckpoint.make("seed")
    for name in [name for name in made.tensors if ".compressor.w" in name]:
        rows, columns = made.tensors.pop(name).shape
        module = name.removesuffix(".weight")
        made.tensors[f"{module}.weight_packed"] = Tensor("I32", (rows, columns // 8))
        made.tensors[f"{module}.weight_scale"] = Tensor("BF16", (rows, columns // 128))
        made.tensors[f"{module}.weight_shape"] = Tensor("I64", (2,))
    (finding,) = look(save(made, tmp_path)).findings
    assert finding.code == "UnknownLayout"
    assert "compressor INT4" in finding.message


def test_a_model_in_bf16_is_too_large(tmp_path: Path) -> None:
    made = FakeCheckpoint.make("BF16 MTP")
    made.tensors = repacked(made, lambda rows, columns: {"weight": Tensor("BF16", (rows, columns))})
    del made.config["quantization_config"]
    (finding,) = look(save(made, tmp_path)).findings
    assert finding.code == "TooLarge"
    assert "529 GiB" in finding.message


def test_a_model_without_any_scale_keeps_its_layout(tmp_path: Path) -> None:
    made = FakeCheckpoint.make("seed")
    made.drop(".weight_scale")
    assert codes(look(save(made, tmp_path))) == ["MissingTensor", "MissingTensor"]


def test_a_drafter_alone_and_names_of_transformers(tmp_path: Path) -> None:
    made = FakeCheckpoint.make("seed")
    whole = dict(made.tensors)
    made.tensors = {name: one for name, one in whole.items() if name.startswith("mtp.")}
    assert "a drafter alone" in look(save(made, tmp_path / "drafter")).refusals[0].message
    made.tensors = {"model.layers.0.self_attn.q_a_proj.weight": Tensor("BF16", (4, 4))}
    assert "self_attn.q_a_proj" in look(save(made, tmp_path / "names")).refusals[0].message


def test_experts_that_were_pruned_unevenly(tmp_path: Path) -> None:
    made = FakeCheckpoint.make("seed")
    for layer, experts in enumerate((2, 3, 2)):
        made.tensors[f"layers.{layer}.ffn.gate.weight"] = Tensor("BF16", (experts, 256))
    (finding,) = look(save(made, tmp_path), "off").findings
    assert finding.code == "PrunedExperts"
    assert "2 to 3 experts" in finding.message


def test_fewer_experts_than_the_published_model_are_a_note() -> None:
    from flash_engine.checkpoint.layout import detect_layout  # noqa: PLC0415
    from flash_engine.checkpoint.model_findings import InspectedModel, _expert_findings  # noqa: PLC0415

    config = ModelConfig.parse({**COMMON, **REAL, **KINDS["stripped"].config, "n_routed_experts": 104})
    (note,) = _expert_findings(InspectedModel(config, detect_layout(config, {}), {}, "off", VOLUME))
    assert note.severity == "note"
    assert "104 of the 256" in note.message


@pytest.mark.parametrize("file", ["adapter_model.safetensors", "consolidated.safetensors", "extra/model.safetensors"])
def test_files_that_vllm_does_not_load_are_not_findings_for_another_model(tmp_path: Path, file: str) -> None:
    folder = of_model("seed", "MistralForCausalLM").save(tmp_path, shards=2)
    write_files(folder, (file,))
    assert look(folder, any_model=True).findings == ()


def test_an_adapter_beside_our_model_is_a_note_and_a_consolidated_file_a_refusal(tmp_path: Path) -> None:
    folder = FakeCheckpoint.make("seed").save(tmp_path, shards=2)
    write_files(folder, ("adapter_model.safetensors",))
    write_shard(folder / "adapter_model.safetensors", {"base_model.lora_A": Tensor("BF16", (4, 4))}, with_data=True)
    (note,) = look(folder).findings
    assert (note.code, note.severity) == ("UnlistedShard", "note")
    write_files(folder, ("consolidated.safetensors",))
    assert "ignore the 3 safetensors files" in look(folder).refusals[0].message


def test_a_damaged_file_in_mistrals_format_is_refused(tmp_path: Path) -> None:
    write_files(tmp_path, FILES["Mistral's format"])
    (tmp_path / "consolidated.safetensors").write_bytes(b"<html>")
    assert codes(look(tmp_path, any_model=True)) == ["BadHeader"]


@pytest.mark.parametrize(
    "paths", [("tokens.tmp", "pytorch_model.bin"), ("old.zip", "V4-Q4.GGUF"), ("a.part", "a.gguf")]
)
def test_leftovers_beside_weights_change_nothing(tmp_path: Path, paths: tuple[str, ...]) -> None:
    assert look(write_files(tmp_path, ("config.json", *paths)), any_model=True).refusals == ()


def test_odd_files_of_another_model_are_notes(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    for name in ("model.safetensors", "model.fp16.safetensors"):
        write_shard(tmp_path / name, {"a": Tensor("BF16", (4, 4))}, with_data=True)
    (note,) = look(tmp_path, any_model=True).findings
    assert (note.code, note.severity) == ("DuplicateTensor", "note")


@pytest.mark.parametrize("origin", [VOLUME, HUB, IMAGE], ids=["volume", "hub", "image"])
def test_remedies_for_other_formats_can_be_carried_out(tmp_path: Path, origin: Origin) -> None:
    for name, paths in FILES.items():
        folder = write_files(tmp_path / name.replace("/", " "), paths)
        for any_model in (False, True):
            assert_can_be_carried_out(look(folder, any_model=any_model, origin=origin).findings)
