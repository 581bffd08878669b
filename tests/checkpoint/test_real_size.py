"""A checkpoint of real size: its published numbers, and what inspecting it costs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fake_checkpoint import COMMON, KINDS, REAL, FakeCheckpoint
from flash_contracts.profiles import PROFILES
from flash_engine.checkpoint.layout import expected_of
from flash_engine.checkpoint.memory import GIB, WeightBytes, kv_cache_budget, weight_bytes
from flash_engine.checkpoint.model_config import ModelConfig
from flash_engine.checkpoint.tensors import WeightMatrix, drafter, main_model

MEMORY_LIMIT = 100_000_000
SHARDS = 46

PEAK = """
import json, pathlib, re, sys
from flash_engine.checkpoint.__main__ import main
code = main(sys.argv[1:])
peak = re.search(r"VmHWM:\\s+(\\d+) kB", pathlib.Path("/proc/self/status").read_text())
print(json.dumps({"code": code, "peak": int(peak[1]) * 1024}), file=sys.stderr)
"""
"""Not getrusage, whose value is never below the parent's."""


def real_config(kind: str) -> ModelConfig:
    return ModelConfig.parse({**COMMON, **REAL, **KINDS[kind].config})


def counted(kind: str) -> dict[str, int]:
    names = [name for name, one in expected_of(real_config(kind), KINDS[kind].layout) if not one.optional]
    return {"all": len(names), "mtp": sum(name.startswith("mtp.") for name in names)}


@pytest.mark.parametrize(
    ("kind", "mtp"),
    [
        pytest.param("official", 1575, id="official: counted in the checkpoint"),
        pytest.param("BF16 MTP", 797, id="BF16: 768 expert tensors and 29 others"),
        pytest.param("seed", 768 * 3 + 29 + 5, id="INT4: three for each expert matrix, five attention scales"),
        pytest.param("stripped", 0, id="stripped"),
    ],
)
def test_the_head_has_the_published_number_of_tensors(kind: str, mtp: int) -> None:
    assert counted(kind)["mtp"] == mtp


def test_the_model_has_the_expected_number_of_expert_matrices_and_attention_scales() -> None:
    names = [name for name, _ in expected_of(real_config("official"), KINDS["official"].layout)]
    main = [name for name in names if name.startswith("layers.")]

    assert len([name for name in main if ".ffn.experts." in name and name.endswith(".weight")]) == 43 * 256 * 3
    scales = [name for name in main if name.endswith(".scale") and ".attn." in name and "indexer" not in name]
    assert len(scales) == 43 * 5


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("layers.2.ffn.experts.7.w1.weight_packed", (2048, 512)),
        ("layers.2.ffn.experts.7.w2.weight_packed", (4096, 256)),
        ("mtp.0.ffn.experts.7.w1.weight_scale", (2048, 32)),
        ("mtp.0.ffn.experts.7.w2.weight_scale", (4096, 16)),
        ("mtp.0.hc_head_fn", (4, 16384)),
        ("mtp.0.attn.wkv.weight", (512, 4096)),
        ("layers.0.ffn.gate.tid2eid", (129280, 6)),
    ],
)
def test_shapes_match_the_published_checkpoints(name: str, shape: tuple[int, ...]) -> None:
    assert dict(expected_of(real_config("seed"), KINDS["seed"].layout))[name].shape == shape


def test_every_entry_of_the_table_has_a_source() -> None:
    config = real_config("DSpark")
    for entry in (*main_model(config), *drafter(config)):
        assert entry.source.split()[0] in ("A", "C", "D", "M", "P"), entry
    for _, one in expected_of(config, KINDS["DSpark"].layout):
        assert one.source


def test_a_name_is_in_the_table_only_once() -> None:
    for kind in KINDS:
        names = [name for name, _ in expected_of(real_config(kind), KINDS[kind].layout)]
        assert len(names) == len(set(names))


def test_the_official_checkpoint_has_its_published_size() -> None:
    """148.66 GiB in 46 shards. Each GPU holds half, and both hold what is not split."""
    made = FakeCheckpoint.make("official", REAL)
    stored = sum(one.size_bytes for one in made.tensors.values())
    weights = weight_bytes(real_config("official"), KINDS["official"].layout)

    assert stored / GIB == pytest.approx(148.66, abs=0.1)
    assert 148.66 / 2 < weights.total / GIB < 148.66 / 2 + 1


def test_inspecting_46_shards_takes_little_memory(tmp_path: Path) -> None:
    folder = FakeCheckpoint.make("official", REAL).save(tmp_path, shards=SHARDS, with_data=False)
    done = subprocess.run(
        [sys.executable, "-c", PEAK, "inspect", str(folder), "--json"], check=True, capture_output=True, text=True
    )
    document, cost = json.loads(done.stdout), json.loads(done.stderr)

    assert cost["code"] == 0
    assert document["layout"] == "official FP4/FP8, FP4 MTP"
    assert document["findings"] == []
    assert document["storedBytes"] / GIB == pytest.approx(148.66, abs=0.1)
    assert cost["peak"] < MEMORY_LIMIT


def test_more_weights_leave_fewer_tokens_and_finally_none() -> None:
    config, layout = real_config("seed"), KINDS["seed"].layout
    weights = weight_bytes(config, layout)
    few = kv_cache_budget(config, layout, weights, PROFILES["Balanced"])
    more = kv_cache_budget(config, layout, WeightBytes(weights.model, 0), PROFILES["Balanced"])
    none = kv_cache_budget(config, layout, WeightBytes(100 * GIB, 0), PROFILES["Balanced"])

    assert more.tokens > few.tokens > none.tokens == 0
    assert not none.fits


def test_fp8_compressors_are_counted_as_bf16() -> None:
    wide = weight_bytes(real_config("seed"), KINDS["seed"].layout)
    narrow = weight_bytes(real_config("seed, FP8 compressor"), KINDS["seed, FP8 compressor"].layout)
    assert wide == narrow


def test_only_the_matrices_that_vllm_splits_are_counted_as_split() -> None:
    matrices = [entry for entry in main_model(real_config("seed")) if isinstance(entry, WeightMatrix)]
    is_split = {entry.name.rpartition(".")[2] for entry in matrices if entry.is_split}
    assert is_split == {"embed", "head", "wq_b", "wo_a", "wo_b", "w1", "w2", "w3"}
