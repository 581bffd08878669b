"""Runs tests in a tree and classifies the outcome."""

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mutations.processes import ended
from mutations.tree import Tree

QUANTISER = "tests/quantiser/"
"""These tests have a script of their own, in an environment with torch."""

FAILED, NONE_SELECTED = 1, 5
"""Exit codes of pytest."""


@dataclass(frozen=True)
class Outcome:
    """The outcome of all runners together."""

    red: tuple[str, ...] = ()
    """Tests that ran and failed."""
    failure: str | None = None
    """Why they could not run: a missing test, or a module that cannot be imported."""
    selected: bool = True
    """Whether the requested marks selected any test."""


async def run_tests(tree: Tree, tests: Sequence[str], *, marks: str | None, until_red: bool = False) -> Outcome:
    """Runs the quantiser's tests last, because they are the slowest. `until_red` stops at the first failure."""
    ours = [test for test in tests if not test.startswith(QUANTISER)]
    theirs = [test.removeprefix(QUANTISER) for test in tests if test.startswith(QUANTISER)]
    outcomes = []
    if ours:
        # They are selected by folder and mark, and all tests of the quantiser have one level.
        marked = ["-m", marks] if marks else []
        command = [".venv/bin/python", "-m", "pytest", *marked]
        outcomes.append(await _run(tree, command, ours, until_red=until_red))
    if theirs and not (until_red and outcomes and outcomes[0].red):
        outcomes.append(await _run(tree, ["scripts/quantiser-tests"], theirs, until_red=until_red))
    return Outcome(
        tuple(name for outcome in outcomes for name in outcome.red),
        next((outcome.failure for outcome in outcomes if outcome.failure), None),
        any(outcome.selected for outcome in outcomes),
    )


async def _run(tree: Tree, command: Sequence[str], tests: Sequence[str], *, until_red: bool) -> Outcome:
    report = tree.folder.parent / f"{tree.folder.name}.xml"
    report.unlink(missing_ok=True)
    options = ["-q", "-p", "no:cacheprovider", f"--junitxml={report}", *(["-x"] if until_red else [])]
    code, said = await ended([*command, *options, *tests], tree.folder, tree.environment)
    if code == 0:
        return Outcome()
    if code == NONE_SELECTED:
        return Outcome(selected=False)
    red = _red(report) if code == FAILED else ()
    return Outcome(red) if red else Outcome(failure=_last_lines(said, code))


def _red(report: Path) -> tuple[str, ...]:
    """Tests that failed, or whose fixtures failed."""
    cases = ET.parse(report).iter("testcase")  # noqa: S314 - pytest wrote it a moment ago
    failed = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    return tuple(f"{case.get('classname', '').rpartition('.')[2]}::{case.get('name')}" for case in failed)


def _last_lines(said: str, code: int) -> str:
    lines = [line for line in said.splitlines() if line.startswith(("ERROR", "E  ", "error"))] or said.splitlines()
    return f"pytest ended with {code}: {' '.join(' '.join(lines[-4:]).split())[:600]}"
