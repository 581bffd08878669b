"""The real model's size: its numbers as people have told them, and what it costs to look at them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fake_checkpoint import COMMON, KINDS, REAL, Lookalike
from flash_engine.checkpoint.layout import expected_of
from flash_engine.checkpoint.memory import GIB, PROFILES, Weights, budget, weights
from flash_engine.checkpoint.model_config import ModelConfig
from flash_engine.checkpoint.tensors import Matrix, drafter, main_model
from flash_operator.core.resources.engine_args import DEFAULT_BATCHED_TOKENS
from flash_operator.core.resources.engine_args import PROFILES as OPERATORS

MEMORY_LIMIT = 100_000_000
SHARDS = 46

PEAK = """
import json, pathlib, re, sys
from flash_engine.checkpoint.__main__ import main
code = main(sys.argv[1:])
peak = re.search(r"VmHWM:\\s+(\\d+) kB", pathlib.Path("/proc/self/status").read_text())
print(json.dumps({"code": code, "peak": int(peak[1]) * 1024}), file=sys.stderr)
"""
"""What getrusage tells is never less than the parent's."""


def real_config(kind: str) -> ModelConfig:
    return ModelConfig.parse({**COMMON, **REAL, **KINDS[kind].config})


def counted(kind: str) -> dict[str, int]:
    names = [name for name, one in expected_of(real_config(kind), KINDS[kind].layout) if not one.optional]
    return {"all": len(names), "mtp": sum(name.startswith("mtp.") for name in names)}


@pytest.mark.parametrize(
    ("kind", "mtp"),
    [
        pytest.param("official", 1575, id="official: as counted in the checkpoint"),
        pytest.param("BF16 MTP", 797, id="BF16: 768 of experts and 29 others"),
        pytest.param("seed", 768 * 3 + 29 + 5, id="INT4: three for each matrix, five scales of attention"),
        pytest.param("stripped", 0, id="stripped"),
    ],
)
def test_the_head_has_as_many_tensors_as_people_counted(kind: str, mtp: int) -> None:
    assert counted(kind)["mtp"] == mtp


def test_the_model_has_as_many_matrices_of_experts_and_scales_of_attention() -> None:
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
def test_shapes_are_those_that_people_read_off(name: str, shape: tuple[int, ...]) -> None:
    assert dict(expected_of(real_config("seed"), KINDS["seed"].layout))[name].shape == shape


def test_every_entry_of_the_table_has_a_source() -> None:
    config = real_config("DSpark")
    for entry in (*main_model(config), *drafter(config)):
        assert entry.source.split()[0] in ("A", "C", "D", "M", "P"), entry
    for _, one in expected_of(config, KINDS["DSpark"].layout):
        assert one.source


def test_a_name_is_in_the_table_once() -> None:
    for kind in KINDS:
        names = [name for name, _ in expected_of(real_config(kind), KINDS[kind].layout)]
        assert len(names) == len(set(names))


def test_the_official_checkpoint_is_as_large_as_it_is() -> None:
    """148.66 GiB in 46 shards; each GPU holds half, and both what is not divided."""
    made = Lookalike.make("official", REAL)
    stored = sum(one.size_bytes for one in made.tensors.values())
    taken = weights(real_config("official"), KINDS["official"].layout)

    assert stored / GIB == pytest.approx(148.66, abs=0.1)
    assert 148.66 / 2 < taken.total / GIB < 148.66 / 2 + 1


def test_looking_at_46_shards_reads_headers_alone_and_stays_small(tmp_path: Path) -> None:
    folder = Lookalike.make("official", REAL).save(tmp_path, shards=SHARDS, with_data=False)
    done = subprocess.run(
        [sys.executable, "-c", PEAK, "inspect", str(folder), "--json"], check=True, capture_output=True, text=True
    )
    told, cost = json.loads(done.stdout), json.loads(done.stderr)

    assert cost["code"] == 0
    assert told["layout"] == "official FP4/FP8, FP4 MTP"
    assert told["findings"] == []
    assert told["storedBytes"] / GIB == pytest.approx(148.66, abs=0.1)
    assert cost["peak"] < MEMORY_LIMIT


def test_profiles_are_the_operators() -> None:
    ours = {one.name: (one.context_tokens, one.sequences, one.memory_percent) for one in PROFILES}
    theirs = {name: (p.context_tokens, p.max_sequences, p.memory_percent) for name, p in OPERATORS.items()}
    assert ours == theirs
    assert {one.batched_tokens for one in PROFILES} == {DEFAULT_BATCHED_TOKENS}


def test_more_weights_leave_fewer_tokens_and_at_last_none() -> None:
    config, layout = real_config("seed"), KINDS["seed"].layout
    taken = weights(config, layout)
    few = budget(config, layout, taken, PROFILES[1])
    more = budget(config, layout, Weights(taken.model, 0), PROFILES[1])
    none = budget(config, layout, Weights(100 * GIB, 0), PROFILES[1])

    assert more.tokens > few.tokens > none.tokens == 0
    assert not none.fits


def test_compressors_are_counted_as_the_bf16_that_they_become() -> None:
    wide = weights(real_config("seed"), KINDS["seed"].layout)
    narrow = weights(real_config("seed, FP8 compressor"), KINDS["seed, FP8 compressor"].layout)
    assert wide == narrow


def test_a_matrix_is_divided_only_where_vllm_divides_it() -> None:
    matrices = [entry for entry in main_model(real_config("seed")) if isinstance(entry, Matrix)]
    divided = {entry.name.rpartition(".")[2] for entry in matrices if entry.divided}
    assert divided == {"embed", "head", "wq_b", "wo_a", "wo_b", "w1", "w2", "w3"}
