"""Tables of a test run's times, from pytest's reports.

    python hack/report_test_run.py JUNIT.xml [JUNIT.xml ...] [--fixtures FILE] [--slowest N]
    python hack/report_test_run.py JUNIT.xml ... --record "make test-long" --seconds 5400

Prints how many tests each folder has and how long they took, and with `--fixtures` (a file of
`pytest --fixture-times=FILE`) how long set-up and teardown took by fixture. `--record` keeps the run's date, commit,
machine, counts and minutes as one row of docs/measurements/tests.md, in place of the last row of that name.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree as ET

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "measurements" / "tests.md"
START_OF_RECORDS = "## Recorded runs"
END_OF_RECORDS = "<!-- end of recorded runs -->"
LEAST_FIXTURE_SECONDS = 1.0


class ReportError(Exception):
    """A file is missing or is not what it should be; the message names it."""


@dataclass(frozen=True)
class TestCase:
    folder: str
    name: str
    seconds: float
    outcome: str
    """passed, failed or skipped"""


def read_cases(junit: Path) -> list[TestCase]:
    """All tests of one JUnit file. Raises ReportError."""
    try:
        root = ET.parse(junit).getroot()  # noqa: S314 - written by our own pytest
    except (OSError, ET.ParseError) as error:
        raise ReportError(f"{junit} is no JUnit file of a finished run: {error}") from error
    return [_case(element) for element in root.iter("testcase")]


def _case(element: ET.Element) -> TestCase:
    module = element.get("classname", "").split(".")
    # tests/quantiser runs from its own folder, so its modules have no path.
    folder = module[1] if module[0] == "tests" and len(module) > 1 else "quantiser"
    bad = any(element.find(tag) is not None for tag in ("failure", "error"))
    outcome = "failed" if bad else "skipped" if element.find("skipped") is not None else "passed"
    return TestCase(folder, element.get("name", ""), float(element.get("time", 0)), outcome)


def by_folder(cases: Iterable[TestCase]) -> list[str]:
    groups: dict[str, list[TestCase]] = defaultdict(list)
    for case in cases:
        groups[case.folder].append(case)
    seconds = {folder: sum(case.seconds for case in found) for folder, found in groups.items()}
    ordered = sorted(groups, key=lambda folder: -seconds[folder])
    rows = [f"| `{folder}` | {len(groups[folder])} | {seconds[folder]:.0f} |" for folder in ordered]
    total = f"| all | {sum(map(len, groups.values()))} | {sum(seconds.values()):.0f} |"
    return ["| folder | tests | seconds |", "| --- | ---: | ---: |", *rows, total]


def by_fixture(lines: Iterable[str]) -> list[str]:
    """Of `--fixture-times`; fixtures that took less than a second in all are left out."""
    seconds: dict[tuple[str, str], list[float]] = defaultdict(list)
    for line in lines:
        entry = json.loads(line)
        seconds[entry["fixture"], entry["phase"]].append(entry["seconds"])
    ordered = sorted(seconds.items(), key=lambda item: -sum(item[1]))
    rows = [
        f"| `{fixture}` | {phase} | {len(times)} | {sum(times):.0f} |"
        for (fixture, phase), times in ordered
        if sum(times) >= LEAST_FIXTURE_SECONDS
    ]
    return ["| fixture | phase | times | seconds |", "| --- | --- | ---: | ---: |", *rows]


def slowest(cases: Iterable[TestCase], count: int) -> list[str]:
    ordered = sorted(cases, key=lambda case: -case.seconds)[:count]
    rows = [f"| `{case.folder}`: `{case.name}` | {case.seconds:.0f} |" for case in ordered]
    return ["| test | seconds |", "| --- | ---: |", *rows]


def recorded(page: str, name: str, cases: Sequence[TestCase], seconds: float) -> str:
    """The page with this run's row, which replaces the last one of that name among the recorded runs."""
    lines = page.splitlines()
    if not {START_OF_RECORDS, END_OF_RECORDS} <= set(lines):
        raise ReportError(f"{PAGE} has no section from {START_OF_RECORDS!r} to {END_OF_RECORDS!r}")
    counts = {word: sum(case.outcome == word for case in cases) for word in ("passed", "failed", "skipped")}
    results = ", ".join(f"{count} {word}" for word, count in counts.items() if count)
    row = f"| `{name}` | {datetime.now(UTC):%Y-%m-%d} | {_commit()} | {_machine()} | {results} | {seconds / 60:.0f} |"
    start, end = lines.index(START_OF_RECORDS), lines.index(END_OF_RECORDS)
    kept = [line for line in lines[start:end] if not line.startswith(f"| `{name}` | ")]
    return "\n".join([*lines[:start], *kept, row, *lines[end:], ""])


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


def _machine() -> str:
    return f"{os.cpu_count()} cores, {platform.machine()}"


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    try:
        cases = [case for junit in options.junit for case in read_cases(junit)]
        if options.record:
            PAGE.write_text(recorded(PAGE.read_text(), options.record, cases, options.seconds))
    except (ReportError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    tables = [by_folder(cases)]
    if options.slowest:
        tables.append(slowest(cases, options.slowest))
    if options.fixtures:
        tables.append(by_fixture(options.fixtures.read_text().splitlines()))
    print("\n\n".join("\n".join(table) for table in tables))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hack/report_test_run.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("junit", nargs="+", type=Path, help="files of pytest --junitxml=FILE")
    parser.add_argument("--fixtures", type=Path, metavar="FILE", help="a file of pytest --fixture-times=FILE")
    parser.add_argument("--slowest", type=int, default=0, metavar="N", help="the N slowest tests too")
    parser.add_argument("--record", metavar="NAME", help="keep this run as a row of docs/measurements/tests.md")
    parser.add_argument("--seconds", type=float, default=0, help="what the whole command took, for --record")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
