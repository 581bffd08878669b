"""The Dockerfiles, checked as text, because the CUDA image cannot be built without its base."""

import re
import tomllib
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from flash_engine.launcher.jit_cache import environment
from image_builder.dockerfile import Dockerfile
from image_builder.layout import BASE_FILES, BASE_STAGE, ROOT
from lock_file import pins

ENGINE = Dockerfile.parse((ROOT / "images/engine/Dockerfile").read_text())
OPERATOR = Dockerfile.parse((ROOT / "images/operator/Dockerfile").read_text())
NODE = Dockerfile.parse((ROOT / "images/node/Dockerfile").read_text())
QUANTISER = Dockerfile.parse((ROOT / "images/quantiser/Dockerfile").read_text())
EACH = [
    pytest.param(ENGINE, id="engine"),
    pytest.param(OPERATOR, id="operator"),
    pytest.param(NODE, id="node"),
    pytest.param(QUANTISER, id="quantiser"),
]
FINAL = [
    pytest.param(ENGINE, "cuda", '["flash-launch"]', id="engine, cuda"),
    pytest.param(ENGINE, "cpu", '["flash-launch"]', id="engine, cpu"),
    pytest.param(OPERATOR, "operator", '["python", "-m", "flash_operator"]', id="operator"),
    pytest.param(NODE, "node", '["flash-labeller"]', id="node"),
    pytest.param(QUANTISER, "quantiser", '["mtp-quantise"]', id="quantiser"),
    pytest.param(QUANTISER, "quantiser-cpu", '["mtp-quantise"]', id="quantiser, cpu"),
]
LOCKS = [
    "images/base/requirements-build.lock",
    "images/engine/requirements-cpu.lock",
    "images/engine/requirements-cuda.lock",
    "images/quantiser/requirements-cpu.lock",
    "images/quantiser/requirements-cpu-image.lock",
    "images/quantiser/requirements-cuda.lock",
    "images/sbom/requirements.lock",
    "requirements/operator.lock",
    "requirements/node.lock",
]


def installed_packages(dockerfile: Dockerfile, stage: str) -> set[str]:
    installs = [line for line in dockerfile.stage(stage).instructions if "apt-get install" in line]
    lists = [re.split(r"&&", line.split("--no-install-recommends")[1])[0].split() for line in installs]
    return {package for packages in lists for package in packages}


@pytest.mark.parametrize(("dockerfile", "stage", "entry_point"), FINAL)
def test_an_image_runs_as_a_numbered_user_and_starts_our_program(
    dockerfile: Dockerfile, stage: str, entry_point: str
) -> None:
    assert dockerfile.stage(stage).setting("USER") == "65532:65532"
    assert dockerfile.stage(stage).setting("ENTRYPOINT") == entry_point


@pytest.mark.parametrize(("dockerfile", "stage", "entry_point"), FINAL)
def test_the_last_stage_adds_only_our_own_code(dockerfile: Dockerfile, stage: str, entry_point: str) -> None:
    """A change of our code is then one small layer; larger parts belong to an earlier stage."""
    del entry_point
    lines = dockerfile.stage(stage).instructions
    bill = f"COPY --from={stage}-sbom /sbom /usr/share/sbom"
    assert [line.split()[-1] for line in lines if line.startswith("COPY") and line != bill] == ["/opt/venv"]
    assert "RUN" not in [line.split()[0] for line in lines]


@pytest.mark.parametrize("dockerfile", EACH)
def test_every_stage_starts_from_a_stage_but_the_base_which_has_a_digest(dockerfile: Dockerfile) -> None:
    names = {stage.name for stage in dockerfile.stages}
    (foreign,) = [stage for stage in dockerfile.resolved({}).stages if stage.parent not in names]
    assert foreign.name == BASE_STAGE
    assert foreign.instructions == ()
    assert re.fullmatch(r"[a-z]+(/[a-z]+)?:[a-z0-9.-]+@sha256:[0-9a-f]{64}", foreign.parent)


@pytest.mark.parametrize("dockerfile", EACH)
def test_a_base_without_a_digest_cannot_be_named(dockerfile: Dockerfile) -> None:
    assert dockerfile.stage(BASE_STAGE).parent == "${BASE_NAME}@${BASE_DIGEST}"


CUDA_PARTS = ("nvidia-cuda-nvcc", "nvidia-cuda-crt", "nvidia-nvvm", "nvidia-cuda-cccl", "nvidia-cuda-runtime")


def test_compiler_headers_and_runtime_of_cuda_have_one_version() -> None:
    """CUDA's headers refuse a compiler of another version, and torch pins the runtime."""
    lock = (ROOT / "images/engine/requirements-cuda.lock").read_text()
    versions = {part: re.search(rf"^{part}==(\d+\.\d+)", lock, re.MULTILINE) for part in CUDA_PARTS}
    assert {part: found and found[1] for part, found in versions.items()} == dict.fromkeys(CUDA_PARTS, "13.0")


@pytest.mark.parametrize("dockerfile", EACH)
def test_every_installation_is_from_a_lock_with_hashes_or_offline(dockerfile: Dockerfile) -> None:
    commands = [part for stage in dockerfile.stages for line in stage.instructions for part in line.split("&&")]
    installs = [command for command in commands if "pip install" in command]
    assert installs
    assert [command for command in installs if "--require-hashes" not in command and "--offline" not in command] == []
    assert [command for command in installs if "--no-deps" not in command] == []


def test_the_cuda_image_has_what_compiles_kernels_when_the_engine_starts() -> None:
    assert {"g++", "ninja-build", "numactl", "python3-dev"} <= installed_packages(ENGINE, "cuda-deps")


def test_the_cuda_image_keeps_compiled_kernels_on_the_pods_cache_volume() -> None:
    """The launcher would keep them in a node's cache; here a restart of the container finds them again."""
    said = ENGINE.stage("cuda").setting("ENV")
    assert said is not None
    settings = dict(pair.split("=", 1) for pair in said.split())
    assert settings["CUDA_HOME"] == "/opt/venv/cuda"
    kept = environment(Path("/var/cache/flash"))
    assert {name: settings.get(name) for name in kept} == kept


def test_the_cuda_image_does_not_inherit_the_settings_of_a_test_machine() -> None:
    environment = ENGINE.stage("cuda").setting("ENV") or ""
    assert [name for name in ("VLLM_CPU", "HF_HUB_OFFLINE") if name in environment] == []


@pytest.mark.parametrize(
    ("lock", "package", "version"),
    [
        ("images/engine/requirements-cuda.lock", "vllm", "0.33.0"),
        ("images/engine/requirements-cuda.lock", "torch", "2.14.0"),
        ("images/engine/requirements-cpu.lock", "vllm-cpu", "0.32.0"),
        ("images/engine/requirements-cpu.lock", "torch", "2.13.0"),
        ("images/engine/requirements-cpu.lock", "setuptools", "78.1.1"),
    ],
)
def test_the_version_of_what_matters_is_the_one_that_was_tried(lock: str, package: str, version: str) -> None:
    assert pins(lock)[package] == version


@pytest.mark.parametrize(
    ("lock", "package"),
    [
        pytest.param("images/engine/requirements-cuda.lock", "deep-gemm", id="shadows the DeepGEMM inside vLLM"),
        pytest.param("images/engine/requirements-cpu.lock", "triton", id="a gigabyte that a CPU never imports"),
        pytest.param("images/engine/requirements-cpu.lock", "torchvision", id="a CUDA build that breaks transformers"),
    ],
)
def test_forbidden_packages_are_not_locked(lock: str, package: str) -> None:
    assert package not in pins(lock)


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_has_a_hash_for_every_package_and_names_no_index(lock: str) -> None:
    text = (ROOT / lock).read_text()
    blocks = re.split(r"\n(?=\S)", text.strip())
    assert len(blocks) == len(pins(lock))
    assert [block.split()[0] for block in blocks if "--hash=sha256:" not in block] == []
    assert "://" not in text


@pytest.mark.parametrize("lock", ["images/engine/requirements-cpu.lock", "images/engine/requirements-cuda.lock"])
def test_the_launcher_finds_its_own_requirements_among_the_engines(lock: str) -> None:
    """It is installed with --no-deps."""
    project = tomllib.loads((ROOT / "images/engine/pyproject.toml").read_text())["project"]
    required = [Requirement(text) for text in project["dependencies"]]
    assert {"aiohttp", "huggingface-hub"} <= {one.name for one in required}
    locked = pins(lock)
    assert [str(one) for one in required if not one.specifier.contains(locked.get(one.name, "0"))] == []


def test_the_quantiser_finds_its_own_requirements_on_top_of_the_engines() -> None:
    """It is installed with --no-deps, too."""
    project = tomllib.loads((ROOT / "images/quantiser/pyproject.toml").read_text())["project"]
    required = [Requirement(text) for text in project["dependencies"]]
    there = pins("images/engine/requirements-cpu.lock") | pins("images/quantiser/requirements-cpu-image.lock")
    assert {"torch", "matplotlib"} <= {one.name for one in required}
    assert [str(one) for one in required if not one.specifier.contains(there.get(one.name, "0"))] == []


@pytest.mark.parametrize(
    ("group", "name"),
    [
        ("console_scripts", "flash-launch"),
        ("console_scripts", "flash-gate"),
        ("console_scripts", "flash-checkpoint"),
        ("vllm.general_plugins", "flash_engine"),
    ],
)
def test_names_used_by_the_engine_image_exist(group: str, name: str) -> None:
    """vLLM continues without a plugin that it cannot import, so a mistyped name would be silent."""
    (entry,) = entry_points(group=group, name=name)
    assert callable(entry.load())


def test_the_base_is_made_of_files_that_are_there() -> None:
    assert [path for path in BASE_FILES if not Path(ROOT, path).is_file()] == []
