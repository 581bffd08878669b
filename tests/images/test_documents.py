"""docs/images.md says what is so: its commands fit the Dockerfiles, and its way to read a bill works."""

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from image_builder.dockerfile import Dockerfile
from image_builder.layout import ROOT

PAGE = (ROOT / "docs/images.md").read_text()
DOCKERFILES = sorted(path for path in (ROOT / "images").glob("*/Dockerfile") if path.parent.name != "base")
HEADS = "\n".join(path.read_text().partition("\nARG ")[0] for path in DOCKERFILES)
BUILDS = re.findall(r"docker build (.+)", PAGE + re.sub(r" \\\n# +", " ", HEADS))


def options(command: str) -> dict[str, list[str]]:
    words = shlex.split(command)
    assert words[-1] == "."
    found: dict[str, list[str]] = {}
    for name, value in zip(words[:-1:2], words[1:-1:2], strict=True):
        found.setdefault(name, []).append(value)
    return found


@pytest.mark.parametrize("command", BUILDS)
def test_the_documented_build_commands_match_their_dockerfiles(command: str) -> None:
    given = options(command)
    source = Dockerfile.parse((ROOT / given["-f"][0]).read_text())
    assert source.stage(given["--target"][0]).setting("ENTRYPOINT")
    arguments = [argument.partition("=")[0] for argument in given.get("--build-arg", [])]
    assert arguments in ([], ["BASE_NAME", "BASE_DIGEST"])
    assert set(arguments) <= set(source.arguments)


def test_every_image_is_built_by_a_command_without_arguments() -> None:
    plain = {given["--target"][0] for given in map(options, BUILDS) if "--build-arg" not in given}
    assert plain == {"cuda", "cpu", "operator", "node", "quantiser"}


def test_the_bases_of_the_table_are_those_of_the_dockerfiles() -> None:
    for path in DOCKERFILES:
        base = str(Dockerfile.parse(path.read_text()).arguments["BASE_NAME"])
        (row,) = re.findall(rf"^\| \w+ \| `{path.relative_to(ROOT)}`.*$", PAGE, re.MULTILINE)
        assert f"`{base}`" in row


def test_the_bill_lies_where_the_page_says() -> None:
    paths = set(re.findall(r"/usr/share/sbom/[\w.]+", PAGE))
    labels = {re.search(r'dev\.deepseekflash\.sbom="([^"]+)"', path.read_text()) for path in DOCKERFILES}
    assert paths == {label[1] for label in labels if label}


def test_the_documented_command_lists_a_bill(tmp_path: Path) -> None:
    (typed,) = re.findall(r"^python3 -c .+$", PAGE, re.MULTILINE)
    bill = {"components": [{"name": "aiohttp", "version": "3.14.5"}, {"name": "libc6", "version": "2.36"}]}
    (tmp_path / "image.cdx.json").write_text(json.dumps(bill))
    done = subprocess.run(["bash", "-euc", typed], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert done.stdout == "aiohttp 3.14.5\nlibc6 2.36\n"
