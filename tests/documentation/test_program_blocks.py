"""Blocks with this project's own programs: they are run, or their arguments are given to the program's own parser."""

import argparse
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import flash_engine.capture.__main__ as flash_capture
import mtp_quantiser.__main__ as mtp_quantise
from documentation.command_blocks import ROOT, Block, blocks_run_by

HERE = "tests/documentation/test_program_blocks.py"
PARSERS: dict[str, Callable[[], argparse.ArgumentParser]] = {
    "mtp-quantise": mtp_quantise.parser,
    "flash-capture": flash_capture.parser,
}
JUNIT = '<testsuites><testsuite><testcase classname="tests.a" name="test_b" time="1.5"/></testsuite></testsuites>'


def ids(block: Block) -> str:
    return block.name


@pytest.mark.parametrize("block", blocks_run_by(f"{HERE}::test_the_arguments_are_understood"), ids=ids)
def test_the_arguments_are_understood(block: Block) -> None:
    """Their runs take a checkpoint of 149 GB, and GPUs."""
    for command in block.commands:
        program, *arguments = shlex.split(command)
        assert PARSERS[program]().parse_args(arguments)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What the blocks read, as their pages say that it is there."""
    (tmp_path / "hack").symlink_to(ROOT / "hack")
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/python").symlink_to(sys.executable)
    reports = tmp_path / "build/reports"
    reports.mkdir(parents=True)
    (reports / "processes.xml").write_text(JUNIT)
    (reports / "fixtures.jsonl").write_text("")
    (tmp_path / "image.cdx.json").write_text('{"components": [{"name": "torch", "version": "2.13.0"}]}')
    return tmp_path


@pytest.mark.parametrize("block", blocks_run_by(f"{HERE}::test_the_block_runs"), ids=ids)
def test_the_block_runs(block: Block, folder: Path) -> None:
    shell = shutil.which("bash") or "bash"
    search = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        [shell, "-euo", "pipefail", "-c", block.text],
        cwd=folder,
        env={**os.environ, **search},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
