"""The labels of the images, read from the Dockerfiles; test_built_images.py reads them from the images."""

import re
import shlex
import tomllib

import pytest

from image_builder.dockerfile import Dockerfile
from image_builder.layout import ROOT

SBOM = "/usr/share/sbom/image.cdx.json"
STAGES = [
    pytest.param("engine", "cuda", "images/engine", id="engine, cuda"),
    pytest.param("engine", "cpu", "images/engine", id="engine, cpu"),
    pytest.param("operator", "operator", "operator", id="operator"),
    pytest.param("node", "node", "images/node", id="node"),
    pytest.param("quantiser", "quantiser", "images/quantiser", id="quantiser"),
    pytest.param("quantiser", "quantiser-cpu", "images/quantiser", id="quantiser, cpu"),
]


def dockerfile(image: str) -> Dockerfile:
    return Dockerfile.parse((ROOT / "images" / image / "Dockerfile").read_text())


def labels(image: str, stage: str) -> dict[str, str]:
    words = shlex.split(dockerfile(image).stage(stage).setting("LABEL") or "")
    return dict(word.split("=", 1) for word in words)


def project(folder: str) -> dict[str, str]:
    found: dict[str, str] = tomllib.loads((ROOT / folder / "pyproject.toml").read_text())["project"]
    return found


@pytest.mark.parametrize(("image", "stage", "folder"), STAGES)
def test_version_and_licence_are_those_of_our_own_code_in_the_image(image: str, stage: str, folder: str) -> None:
    given = labels(image, stage)
    assert given["org.opencontainers.image.version"] == project(folder)["version"]
    assert given["org.opencontainers.image.licenses"] == project(folder)["license"]


@pytest.mark.parametrize(("image", "stage", "folder"), STAGES)
def test_an_image_is_labelled_with_its_base_and_the_path_of_its_bill(image: str, stage: str, folder: str) -> None:
    del folder
    given = labels(image, stage)
    assert given["org.opencontainers.image.base.name"] == "${BASE_NAME}"
    assert given["org.opencontainers.image.base.digest"] == "${BASE_DIGEST}"
    assert given["dev.deepseekflash.sbom"] == SBOM
    instructions = dockerfile(image).stage(stage).instructions
    before = instructions[: [line.split()[0] for line in instructions].index("LABEL")]
    assert {"ARG BASE_NAME", "ARG BASE_DIGEST"} <= set(before)  # else Docker puts nothing in their place


def test_no_two_images_say_the_same_of_themselves() -> None:
    said = [labels(*stage.values[:2]) for stage in STAGES]  # type: ignore[arg-type]
    for key in ("title", "description"):
        assert len({one[f"org.opencontainers.image.{key}"] for one in said}) == len(said)


@pytest.mark.parametrize(("image", "stage", "folder"), STAGES)
def test_the_bill_is_that_of_the_image(image: str, stage: str, folder: str) -> None:
    """It is written on the same parent with the same code, and only the file is copied."""
    source = dockerfile(image)
    final, bill = source.stage(stage), source.stage(f"{stage}-sbom")
    ours, copied = (line for line in final.instructions if line.startswith("COPY"))
    laid_over, tools, run = bill.instructions
    assert (bill.parent, laid_over) == (final.parent, ours)
    assert copied == f"COPY --from={bill.name} /sbom {SBOM.rpartition('/')[0]}"
    assert tools == "COPY --from=sbom-tools /opt/sbom /opt/sbom"
    program = shlex.split(run.removeprefix("RUN "))
    options = dict(zip(program[2:-1:2], program[3:-1:2], strict=True))
    assert program[:2] == ["/opt/sbom/bin/python", "/opt/sbom/bill_of_materials.py"]
    assert program[-1] == "/sbom/" + SBOM.rpartition("/")[2]
    assert options == {
        "--environment": "/opt/venv",
        "--distribution": project(folder)["name"],
        "--title": labels(image, stage)["org.opencontainers.image.title"],
    }


def test_every_image_of_the_dockerfiles_is_looked_at() -> None:
    found = {
        (path.parent.name, stage.name)
        for path in (ROOT / "images").glob("*/Dockerfile")
        if path.parent.name != "base"
        for stage in Dockerfile.parse(path.read_text()).stages
        if stage.setting("ENTRYPOINT")
    }
    assert found == {stage.values[:2] for stage in STAGES}


def test_the_same_bases_are_named_wherever_one_is_given_by_hand() -> None:
    """The heads of the Dockerfiles give commands for targets on another base than the file's own."""
    digests: dict[str, set[str]] = {}
    for path in (ROOT / "images").glob("*/Dockerfile"):
        for name, digest in re.findall(
            r"BASE_NAME=(\S+)[\s\S]{0,60}?BASE_DIGEST=(sha256:[0-9a-f]{64})", path.read_text()
        ):
            digests.setdefault(name, set()).add(digest)
    assert "python:3.11-slim-bookworm" in digests
    assert {name: found for name, found in digests.items() if len(found) > 1} == {}
