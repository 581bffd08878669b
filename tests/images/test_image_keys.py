"""An image is built again when what goes into it changes, and only then."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from image_builder.layout import (
    BASE_FILES,
    IMAGES,
    ROOT,
    base_reference,
    cache_root,
    files_below,
    image_named,
    steps_of,
)

Change = Callable[[Path], None]


def append(path: str, text: str) -> Change:
    def change(root: Path) -> None:
        with (root / path).open("a") as file:
            file.write(text)

    return change


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """A copy of the files that go into the images."""
    paths = {path for image in IMAGES for step in steps_of(image) for path in step.context_paths}
    for file in files_below(ROOT, [*paths, *BASE_FILES, *(image.dockerfile for image in IMAGES)]):
        copy = tmp_path / file.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, copy)
    return tmp_path


def keys(root: Path) -> dict[str, str]:
    return {f"{image.name} {step.stage}": step.key for image in IMAGES for step in steps_of(image, root)}


def reference_of(stage: str, image: str) -> str:
    return next(step.reference for step in steps_of(image_named(image)) if step.stage == stage)


LAST = {"engine-cpu cpu", "operator operator", "node node", "quantiser-cpu quantiser-cpu"}
BILL = LAST | {f"{image.name} sbom-tools" for image in IMAGES}
EVERYTHING = BILL | {
    "engine-cpu tools",
    "engine-cpu cpu-deps",
    "operator tools",
    "operator operator-deps",
    "node tools",
    "node node-deps",
    "quantiser-cpu tools",
    "quantiser-cpu cpu-deps",
}
CPU_DEPS = {"engine-cpu cpu-deps", "engine-cpu cpu", "quantiser-cpu cpu-deps", "quantiser-cpu quantiser-cpu"}


@pytest.mark.parametrize(
    ("change", "rebuilt"),
    [
        pytest.param(append("images/engine/flash_engine/new.py", "x = 1"), {"engine-cpu cpu"}, id="a launcher module"),
        pytest.param(append("operator/flash_operator/new.py", "x = 1"), {"operator operator"}, id="an operator module"),
        pytest.param(append("operator/flash_operator/core/new.py", "x = 1"), {"operator operator"}, id="a decision"),
        pytest.param(
            append("contracts/flash_contracts/new.py", "x = 1"),
            {"engine-cpu cpu", "node node", "operator operator", "quantiser-cpu quantiser-cpu"},
            id="what all parts agree on",
        ),
        pytest.param(append("images/node/flash_node/new.py", "x = 1"), {"node node"}, id="a labeller module"),
        pytest.param(
            append("images/engine/requirements-cpu.lock", "\n# x"),
            CPU_DEPS,
            id="the engine's lock, which the quantiser's image for CPUs stands on",
        ),
        pytest.param(append("images/engine/cpu/prune.py", "\n"), CPU_DEPS, id="a build step"),
        pytest.param(
            append("images/quantiser/mtp_quantiser/new.py", "x = 1"),
            {"quantiser-cpu quantiser-cpu"},
            id="a module of the quantiser",
        ),
        pytest.param(
            append("requirements/operator.lock", "\n# x"),
            {"operator operator-deps", "operator operator"},
            id="the operator's lock",
        ),
        pytest.param(append("requirements/node.lock", "\n# x"), {"node node-deps", "node node"}, id="the node's lock"),
        pytest.param(append("images/sbom/bill_of_materials.py", "\n"), BILL, id="what writes the bill of materials"),
        pytest.param(append("images/sbom/requirements.lock", "\n# x"), BILL, id="its lock"),
        pytest.param(append("images/base/requirements-build.lock", "\n# x"), EVERYTHING, id="the build tools"),
        pytest.param(append("images/base/rootfs.sh", "\n# x"), EVERYTHING, id="the base"),
        pytest.param(append("images/engine/Dockerfile", "\n# a comment\n"), set(), id="a comment in a Dockerfile"),
        pytest.param(
            append("images/engine/requirements-cuda.lock", "\n# x"), set(), id="what only the CUDA image installs"
        ),
        pytest.param(append("images/engine/README.md", "x"), set(), id="a file that no image copies"),
    ],
)
def test_a_change_rebuilds_exactly_what_holds_it(sources: Path, change: Change, rebuilt: set[str]) -> None:
    before = keys(sources)
    change(sources)
    after = keys(sources)
    assert {name for name in before if before[name] != after[name]} == rebuilt


def test_the_copy_has_the_keys_of_the_original(sources: Path) -> None:
    assert keys(sources) == keys(ROOT)
    assert base_reference(sources) == base_reference()


def test_bytecode_does_not_change_the_key(sources: Path) -> None:
    before = keys(sources)
    cached = sources / "images/engine/flash_engine/__pycache__/launcher.cpython-311.pyc"
    cached.parent.mkdir(exist_ok=True)
    cached.write_bytes(b"bytecode")
    assert keys(sources) == before


@pytest.mark.parametrize("stage", ["tools", "sbom-tools"])
def test_all_images_share_one_image_of_tools(stage: str) -> None:
    assert len({reference_of(stage, image.name) for image in IMAGES}) == 1


def test_engine_and_quantiser_for_cpus_share_the_image_with_torch() -> None:
    """It takes minutes to build and a gigabyte to keep."""
    assert reference_of("cpu-deps", "engine-cpu") == reference_of("cpu-deps", "quantiser-cpu")


def test_no_two_images_have_a_last_stage_of_the_same_name() -> None:
    """Building one would delete the other."""
    names = [image.kept[-1] for image in IMAGES]
    assert len(set(names)) == len(names)


def test_a_path_that_a_dockerfile_copies_must_be_there(sources: Path) -> None:
    shutil.rmtree(sources / "images/engine/flash_engine")
    with pytest.raises(FileNotFoundError, match="a Dockerfile copies images/engine/flash_engine, which is not there"):
        steps_of(image_named("engine-cpu"), sources)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        pytest.param(
            {"FLASH_CACHE": "/own", "XDG_CACHE_HOME": "/xdg", "HOME": "/home/me"}, "/own", id="its own variable"
        ),
        pytest.param(
            {"XDG_CACHE_HOME": "/xdg", "HOME": "/home/me"}, "/xdg/deepseek-flash-operator", id="the user's caches"
        ),
        pytest.param({"HOME": "/home/me"}, "/home/me/.cache/deepseek-flash-operator", id="the home folder"),
    ],
)
def test_the_cache_is_where_the_user_wants_it(environment: dict[str, str], expected: str) -> None:
    assert cache_root(environment) == Path(expected)
