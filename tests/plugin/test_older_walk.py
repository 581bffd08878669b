"""The rows of test_walk with vLLM 0.26, the last one for torch 2.11: with the plugin the outcome must be the same.

vLLM without the plugin is not tested again. It differs in one row, the unsupported activation order, which 0.26 accepts
silently. DSpark is left out: 0.26 needs Triton to build its configuration, and there is none without a GPU.
"""

from pathlib import Path

import pytest

from broken_checkpoints import BROKEN_CHECKPOINTS, BrokenCheckpoint
from fake_checkpoint import KINDS, FakeCheckpoint
from flash_contracts.engine_record import PLUGIN_LINE
from vllm_walk.walk import MTP, Walker

pytestmark = pytest.mark.timeout(300)


@pytest.mark.parametrize("row", BROKEN_CHECKPOINTS, ids=lambda row: row.name)
def test_a_checkpoint_is_loaded_completely_or_rejected_by_name(
    older_walker: Walker, tmp_path: Path, row: BrokenCheckpoint
) -> None:
    walk = older_walker.walk(row.save(tmp_path), plugin=True)

    assert walk.whole == row.served, walk
    assert walk.message == "" if row.served else row.names in walk.message
    assert walk.said == ((row.code,) if row.severity == "repaired" else ())


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "DSpark"])
def test_every_known_layout_is_loaded_whole(older_walker: Walker, tmp_path: Path, kind: str) -> None:
    drafter = None if kind in ("stripped", "NVFP4A16") else MTP
    walk = older_walker.walk(FakeCheckpoint.make(kind).save(tmp_path), plugin=True, speculation=drafter)

    assert walk.message == ""
    assert walk.main.is_whole_but_for("_input_global_scale") if kind == "NVFP4A16" else walk.main.whole
    assert walk.draft.whole or drafter is None


@pytest.mark.parametrize("name", ["mtp.0.ffn.experts.1.w3.weight_scale", "layers.2.ffn.experts.3.w2.weight_packed"])
def test_a_tensor_lost_while_loading_ends_the_start(older_walker: Walker, tmp_path: Path, name: str) -> None:
    """Parameters that 0.26 leaves empty on purpose must not hide others."""
    message = older_walker.walk(FakeCheckpoint.make("seed").save(tmp_path), plugin=True, lose=(name,)).message

    assert message.startswith("IncompleteError: 1 tensors of")
    assert name in message


def test_the_walk_uses_the_older_vllm(older_walker: Walker, tmp_path: Path) -> None:
    older_walker.walk(FakeCheckpoint.make("seed").save(tmp_path), plugin=True)
    assert f"{PLUGIN_LINE}: vLLM 0.26.0" in older_walker.log


@pytest.mark.parametrize("kind", ["seed", "official"])
def test_the_output_projections_scale_has_the_name_that_is_read(
    older_walker: Walker, tmp_path: Path, kind: str
) -> None:
    """0.26 multiplies wo_a by itself, and knows no name but that of the official checkpoint: a GPU's first step ended
    in an AttributeError, and loading cannot show that."""
    names = {"main": "model.layers.1.attn.wo_a", "draft": "model.layers.3.mtp_block.attn.wo_a"}
    show = tuple(f"{name}.{scale}" for name in names.values() for scale in ("weight_scale", "weight_scale_inv"))

    walk = older_walker.walk(FakeCheckpoint.make(kind).save(tmp_path), plugin=True, show=show)

    assert walk.whole
    assert set(walk.main.values) == {f"{names['main']}.weight_scale_inv"}
    assert set(walk.draft.values) == {f"{names['draft']}.weight_scale_inv"}
