"""The checkpoint of benchmarks/gpu_trial in a small size: vLLM loads it, or the plugin reports its fault."""

import json
from pathlib import Path

import pytest

from fake_checkpoint import TINY
from flash_engine.checkpoint.inspection import inspect
from flash_engine.checkpoint.source import open_model
from flash_operator.core.resources.engine_args import vllm_arguments
from gpu_trial.cases import Scale, on_gpu
from gpu_trial.reciting_model import PROJECTION, VARIANTS, Variant, build
from vllm_walk.walk import Walker

HEAD = "model.layers.3.e_proj.weight"
GIVEN = {"good": [1.0, 0.0, 0.0, 0.0, 0.0, 0.0], "dead": [0.0] * 6}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("reciting"), TINY)


@pytest.mark.parametrize("variant", GIVEN)
def test_the_good_variants_load_completely(older_walker: Walker, walker: Walker, models: Path, variant: str) -> None:
    for one in (older_walker, walker):
        walk = one.walk(models / variant, plugin=True, show=(HEAD,))
        assert walk.message == ""
        assert walk.whole
        assert walk.draft.values[HEAD] == GIVEN[variant]


def test_a_tensor_that_is_missing_is_named(older_walker: Walker, models: Path) -> None:
    assert PROJECTION in older_walker.walk(models / "lacking", plugin=True).message


def test_a_nan_scale_is_found_while_loading_and_not_by_the_headers(older_walker: Walker, models: Path) -> None:
    folder = models / "poisoned"
    assert inspect(lambda: open_model(str(folder), None), speculation="mtp").refusals == ()
    assert "mtp.0.attn.wq_a.weight_scale" in older_walker.walk(folder, plugin=True).message


@pytest.mark.parametrize("variant", VARIANTS)
def test_all_but_the_head_is_stored_once(models: Path, variant: Variant) -> None:
    index = json.loads((models / variant / "model.safetensors.index.json").read_text())
    for file in set(index["weight_map"].values()) - {"model-head.safetensors"}:
        assert (models / variant / file).samefile(models / "good" / file)


def test_the_older_vllm_takes_the_arguments_of_the_profile(older_walker: Walker, models: Path) -> None:
    arguments = vllm_arguments(on_gpu(Scale(gpus=1, context=4096)).spec)
    arguments[1] = str(models / "good")
    assert older_walker.judge([arguments]) == [None]
