"""Checkpoints walked through vLLM's real loader classes, with the plugin and without it.

Nothing is computed: the tests check which parameters are built and loaded, and what is reported. Without the plugin
each row must fail as documented; otherwise the tests would credit the plugin with something else.
"""

from pathlib import Path

import numpy as np
import pytest

from bf16_safetensors import from_bf16
from broken_checkpoints import BROKEN_CHECKPOINTS, BrokenCheckpoint, Outcome
from fake_checkpoint import KINDS, FakeCheckpoint
from flash_contracts.engine_record import PLUGIN_LINE
from vllm_walk.walk import DSPARK, MTP, Walk, Walker

LEAST_ROWS = 20

COMPRESSOR = "model.layers.1.attn.compressor.fused_wkv_wgate.weight"
EXPERTS = "model.layers.3.mtp_block.ffn.experts.routed_experts.w13_weight_scale"
E_PROJ = "model.layers.3.e_proj.weight"
SHOWN = (COMPRESSOR, EXPERTS, E_PROJ)

pytestmark = pytest.mark.timeout(300)
"""The first walk makes the environment where `python -m torch_environments` did not."""


def outcome(walk: Walk, row: BrokenCheckpoint) -> Outcome:
    """The outcome is good without an error only if the checkpoint is intact."""
    if walk.message:
        return "error"
    return "silent" if row.severity == "refused" or not walk.whole else "loads"


@pytest.mark.parametrize("row", BROKEN_CHECKPOINTS, ids=lambda row: row.name)
def test_vllm_without_the_plugin_behaves_as_documented(walker: Walker, tmp_path: Path, row: BrokenCheckpoint) -> None:
    walk = walker.walk(row.save(tmp_path), plugin=False)

    assert outcome(walk, row) == row.without_plugin, walk
    assert row.error_without_plugin in walk.message


@pytest.mark.parametrize("row", BROKEN_CHECKPOINTS, ids=lambda row: row.name)
def test_with_the_plugin_it_is_loaded_completely_or_rejected_by_name(
    walker: Walker, tmp_path: Path, row: BrokenCheckpoint
) -> None:
    walk = walker.walk(row.save(tmp_path), plugin=True)

    assert outcome(walk, row) != "silent", walk
    assert walk.whole == row.served, walk
    if row.served:
        assert walk.message == ""
    else:
        assert row.names in walk.message
    assert walk.said == ((row.code,) if row.severity == "repaired" else ()), "what is mended is said, once"


def test_the_table_has_enough_rows() -> None:
    """And one for each way in which vLLM is silent: an unexercised check proves nothing."""
    assert len([row for row in BROKEN_CHECKPOINTS if row.severity in ("refused", "repaired")]) >= LEAST_ROWS
    assert len([row for row in BROKEN_CHECKPOINTS if row.without_plugin == "silent"]) >= LEAST_ROWS // 2


@pytest.mark.parametrize("kind", KINDS)
def test_every_known_layout_is_loaded_whole(walker: Walker, tmp_path: Path, kind: str) -> None:
    drafter = {"DSpark": DSPARK, "stripped": None, "NVFP4A16": None}.get(kind, MTP)
    walk = walker.walk(FakeCheckpoint.make(kind).save(tmp_path), plugin=True, speculation=drafter)

    assert walk.message == ""
    assert walk.main.is_whole_but_for("_input_global_scale") if kind == "NVFP4A16" else walk.main.whole
    assert walk.draft.whole or drafter is None


def test_a_compressor_is_widened_to_the_numbers_that_it_stands_for(walker: Walker, tmp_path: Path) -> None:
    made = FakeCheckpoint.make("seed, FP8 compressor")
    weight, scale = (made.tensors[f"layers.1.attn.compressor.wkv.{part}"] for part in ("weight", "weight_scale"))
    # 0x38 is 1.0 as e4m3, 0x3F40 is 0.75 as BF16.
    weight.data = b"\x38" * (weight.shape[0] * weight.shape[1])
    scale.data = b"\x40\x3f" * (scale.shape[0] * scale.shape[1])
    walk = walker.walk(made.save(tmp_path), plugin=True, show=SHOWN)

    assert set(walk.main.values[COMPRESSOR]) == {0.75}


@pytest.mark.parametrize(
    "name", [row.name for row in BROKEN_CHECKPOINTS if row.code == "MisnamedTensor" and not row.after]
)
def test_a_renamed_tensor_has_its_values(walker: Walker, tmp_path: Path, name: str) -> None:
    row = next(row for row in BROKEN_CHECKPOINTS if row.name == name)
    right = walker.walk(FakeCheckpoint.make("seed").save(tmp_path / "right"), plugin=True, show=SHOWN)
    renamed = walker.walk(row.save(tmp_path / "renamed"), plugin=True, show=SHOWN)

    assert right.draft.values.keys() == {EXPERTS, E_PROJ}
    assert renamed.draft.values == right.draft.values


def test_the_head_holds_what_is_in_the_file(walker: Walker, tmp_path: Path) -> None:
    made = FakeCheckpoint.make("seed")
    values = (np.arange(256 * 256) % 251 * 2.0**-8).astype(np.float32)
    bits = (values.view(np.uint32) >> 16).astype(np.uint16)
    made.tensors["mtp.0.e_proj.weight"].data = bits.tobytes()
    walk = walker.walk(made.save(tmp_path), plugin=True, show=SHOWN)

    assert walk.draft.values[E_PROJ] == from_bf16(bits)[:6].tolist()


LOST = {
    "a tensor of its own": "mtp.0.e_proj.weight",
    "a scale of one matrix of one expert": "mtp.0.ffn.experts.1.w3.weight_scale",
    "a half of what vLLM joins": "mtp.0.attn.wkv.weight",
    "an expert of the model": "layers.2.ffn.experts.3.w2.weight_packed",
}


@pytest.mark.parametrize("name", LOST.values(), ids=LOST.keys())
def test_a_tensor_lost_between_files_and_model_ends_the_start(walker: Walker, tmp_path: Path, name: str) -> None:
    """The files are complete, so the headers do not show it."""
    checkpoint = FakeCheckpoint.make("seed").save(tmp_path)

    assert walker.walk(checkpoint, plugin=False, lose=(name,)).message == "", "vLLM alone says nothing"
    message = walker.walk(checkpoint, plugin=True, lose=(name,)).message
    assert message.startswith("IncompleteError: 1 tensors of")
    assert name in message


def test_experts_of_other_ranks_are_not_missed_where_vllm_does_not_read_them(walker: Walker, tmp_path: Path) -> None:
    checkpoint = FakeCheckpoint.make("seed").save(tmp_path)
    divided = {"enable_expert_parallel": True, "enable_ep_weight_filter": True}
    lost = (LOST["an expert of the model"], LOST["a scale of one matrix of one expert"])

    assert walker.walk(checkpoint, plugin=True, lose=lost, arguments=divided).whole
    message = walker.walk(checkpoint, plugin=True, lose=(LOST["a tensor of its own"],), arguments=divided).message
    assert LOST["a tensor of its own"] in message


def test_each_process_says_once_that_the_plugin_is_there(walker: Walker, tmp_path: Path) -> None:
    checkpoint = FakeCheckpoint.make("seed").save(tmp_path)
    before = walker.log.count(PLUGIN_LINE)
    walker.walk(checkpoint, plugin=True)
    assert walker.log.count(f"{PLUGIN_LINE}: vLLM 0.33.0") == before + 1
    walker.walk(checkpoint, plugin=False)
    assert walker.log.count(PLUGIN_LINE) == before + 1


def test_hf_overrides_count_like_config_json(walker: Walker, tmp_path: Path) -> None:
    made = FakeCheckpoint.make("seed")
    del made.config["topk_method"]
    overrides = {"topk_method": "noaux_tc"}
    walk = walker.walk(made.save(tmp_path), plugin=True, speculation=None, overrides=overrides)

    assert walk.main.whole
    assert walk.said == ()


ON_CPU = ("intact", "MTP without one matrix of one expert", "MTP experts under other names", "FP8 compressor")


@pytest.mark.parametrize("name", ON_CPU)
def test_the_older_vllm_of_the_range_is_treated_alike(cpu_walker: Walker, tmp_path: Path, name: str) -> None:
    row = next(row for row in BROKEN_CHECKPOINTS if row.name == name)
    walk = cpu_walker.walk(row.save(tmp_path), plugin=True)

    assert walk.whole == row.served, walk
    assert row.served or row.names in walk.message
    assert f"{PLUGIN_LINE}: vLLM 0.32.0" in cpu_walker.log
