"""A stranger's path: a fresh clone, and nothing but the commands of docs/quickstart.md."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from documentation.command_blocks import ROOT, Block, blocks_run_by

BLOCKS = blocks_run_by("tests/e2e/test_quickstart.py::test_a_stranger_follows_the_page")
OURS = ("PYTHONPATH", "VIRTUAL_ENV", "KUBECONFIG", "MAKEFLAGS", "MAKELEVEL")
"""Variables that a stranger does not have."""


@pytest.fixture
def clone(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "deepseek-flash-operator"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
    yield folder
    follow("make demo-down", folder)


def follow(commands: str, folder: Path) -> str:
    """Run the commands of a block in bash. Returns what they printed."""
    environment = {name: value for name, value in os.environ.items() if name not in OURS}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


@pytest.mark.cluster
@pytest.mark.alone
@pytest.mark.long
@pytest.mark.timeout(3600)
def test_a_stranger_follows_the_page(clone: Path) -> None:
    demo, question, end = (follow(block.text, clone) for block in BLOCKS)

    assert "POST /v1/chat/completions" in demo
    assert "-> " in demo.partition("POST /v1/chat/completions")[2], "an answer"
    header, row = question.splitlines()[:2]
    assert header.split()[-4:] == ["NODES", "LINK", "P2P", "ROW"]
    assert row.split()[:3] == ["tiny", "True", "1/1"]
    assert "Smoke Test Passed" in question or "SmokeTestPassed" in question
    assert "Traceback" not in demo + end
    status = subprocess.run(
        [".venv/bin/python", "-m", "local_cluster", "status"], cwd=clone, capture_output=True, text=True, check=False
    )
    assert "not running" in status.stdout


def test_the_page_begins_with_the_demo_and_ends_without_it() -> None:
    """The extraction, without a cluster."""
    assert [block.page for block in BLOCKS] == ["docs/quickstart.md"] * 3
    first, second, third = (block.commands for block in BLOCKS)
    assert (first, third) == (["make demo"], ["make demo-down"])
    assert all(command.startswith(".venv/bin/python -m local_cluster kubectl ") for command in second)


def test_a_command_that_fails_ends_the_path(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="no such target"):
        follow("echo no such target; false\necho went on", tmp_path)


def test_the_blocks_are_run_in_the_order_of_the_page() -> None:
    lines = [block.line for block in BLOCKS if isinstance(block, Block)]
    assert lines == sorted(lines)
