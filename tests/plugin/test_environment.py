"""The environment of the walks: what the locks pin, and nothing that the tests do not need."""

import re
import subprocess
from pathlib import Path

from image_builder.layout import cache_root
from torch_environments.recipes import engine
from torch_environments.vllm_sources import CUDA_LOCK, FROM_CUDA, cuda_pins, cuda_vllm
from vllm_walk.environment import Environment


def test_packages_from_the_cuda_lock_keep_their_hashes() -> None:
    pins = cuda_pins()
    assert [name for name, _ in re.findall(r"^([a-z-]+)==(\S+)", pins, re.MULTILINE)] == list(FROM_CUDA)
    assert pins.count("--hash=sha256:") >= len(FROM_CUDA)
    assert all(line in CUDA_LOCK.read_text() for line in pins.splitlines())


def test_an_environment_is_named_by_its_content(environment: Environment) -> None:
    assert environment.folder.name == f"torch-engine-{engine(cache_root()).key}"
    assert environment.cuda_vllm.name == f"torch-cuda-vllm-{cuda_vllm(cache_root()).key}"


def test_files_changed_by_a_build_step_are_not_linked_to_the_installers_cache(environment: Environment) -> None:
    """Everything else is: a step that wrote through a link would corrupt the next image."""
    (packages,) = environment.folder.glob("lib/*/site-packages")
    changed = [
        *packages.glob("vllm/*.so"),
        *packages.glob("torch/lib/libtorch_*.so"),
        packages / "vllm/platforms/cpu.py",
        packages / "vllm/model_executor/models/registry.py",
    ]
    assert len(changed) > 5
    assert [file.name for file in changed if file.stat().st_nlink != 1] == []
    assert "setdefault(" in (packages / "vllm/platforms/cpu.py").read_text()


def test_the_cuda_images_vllm_comes_first_and_without_kernels(environment: Environment) -> None:
    asked = "import importlib.metadata as m, vllm; print(m.version('vllm'), vllm.__file__)"
    for cuda, version in ((True, "0.33.0"), (False, "0.32.0+cpu")):
        message = subprocess.run(
            [environment.python, "-c", asked],
            env=environment.variables(cuda=cuda), check=True, capture_output=True, text=True,
        ).stdout.split()  # fmt: skip
        assert message[0] == version
        assert Path(message[1]).is_relative_to(environment.cuda_vllm if cuda else environment.folder)
    assert list(environment.cuda_vllm.rglob("*.so")) == []


def test_a_variable_of_the_caller_does_not_reach_it(environment: Environment, tmp_path: Path) -> None:
    variables = environment.variables(tmp_path)
    assert variables["PYTHONPATH"].split(":")[0] == str(tmp_path)
    assert variables["HF_HUB_OFFLINE"] == "1"
    assert "HF_TOKEN" not in variables
