"""Every `kubectl dsf` command that the documentation or a remedy names exists, with its options."""

import re
import shlex
from pathlib import Path

import pytest
import typer.main

from flashctl.__main__ import app
from flashctl.explain import remedies
from flashctl.explain.explanation import POD_REMEDIES

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]
SHOWN = [
    line.removeprefix("kubectl dsf ")
    for block in re.findall(r"```sh\n(.*?)```", (ROOT / "docs/kubectl-dsf.md").read_text(), re.DOTALL)
    for line in block.splitlines()
    if line.startswith("kubectl dsf ")
]


@pytest.mark.parametrize("line", SHOWN)
def test_a_documented_command_line_is_one_that_the_program_takes(line: str) -> None:
    name, *words = shlex.split(line, comments=True)
    context = COMMANDS[name].make_context(name, words)
    assert context.params


def test_each_command_is_documented_with_an_example() -> None:
    assert {*COMMANDS} == {line.split()[0] for line in SHOWN}


def test_remedies_name_only_commands_that_exist() -> None:
    texts = " ".join([*remedies.VERDICTS.values(), *remedies.CONDITIONS.values(), *remedies.KUBERNETES.values()])
    named = {*re.findall(r"kubectl dsf ([a-z]+)", f"{texts} {' '.join(POD_REMEDIES.values())} {remedies.NO_GPUS}")}
    assert {"logs", "topology", "check"} <= named
    assert named <= {*COMMANDS}
