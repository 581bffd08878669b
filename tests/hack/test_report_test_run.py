"""The tables of a test run, from the files that a real pytest writes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import report_test_run
from report_test_run import (
    END_OF_RECORDS,
    START_OF_RECORDS,
    ReportError,
    by_fixture,
    by_folder,
    main,
    read_cases,
    recorded,
    slowest,
)

RUN = """\
import time
import pytest

@pytest.fixture
def inner():
    time.sleep(0.3)
    yield
    time.sleep(0.2)

@pytest.fixture
def outer(inner):
    yield

def test_passes(outer):
    pass

def test_fails():
    assert False

@pytest.mark.skip(reason="to be counted")
def test_is_skipped():
    pass
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files of a run: junit.xml and fixtures.jsonl."""
    root = tmp_path_factory.mktemp("run")
    module = root / "tests" / "unit" / "test_some.py"
    module.parent.mkdir(parents=True)
    module.write_text(RUN)
    (root / "pytest.ini").write_text("[pytest]\n")
    options = (
        "-p",
        "fixture_times",
        "--junitxml=junit.xml",
        "--fixture-times=fixtures.jsonl",
        "-p",
        "no:cacheprovider",
    )
    done = subprocess.run([sys.executable, "-m", "pytest", *options], cwd=root, check=False, capture_output=True)
    assert done.returncode == 1, done.stdout.decode()
    return root


def test_tests_are_counted_by_folder_and_outcome(run: Path) -> None:
    cases = read_cases(run / "junit.xml")
    assert [(case.folder, case.outcome) for case in cases] == [
        ("unit", "passed"),
        ("unit", "failed"),
        ("unit", "skipped"),
    ]
    assert by_folder(cases)[2].startswith("| `unit` | 3 | ")
    assert by_folder(cases)[-1].startswith("| all | 3 | ")
    assert slowest(cases, 1)[2].startswith("| `unit`: `test_passes` | ")


def test_a_fixtures_seconds_leave_out_the_fixtures_that_it_asks_for(run: Path) -> None:
    lines = [json.loads(line) for line in (run / "fixtures.jsonl").read_text().splitlines()]
    seconds = {(line["fixture"], line["phase"]): line["seconds"] for line in lines}
    assert seconds["inner", "setup"] >= 0.3
    assert seconds["inner", "teardown"] >= 0.2
    assert seconds["outer", "setup"] < 0.3
    assert seconds["outer", "teardown"] < 0.2


def test_fixtures_are_summed_and_small_ones_left_out() -> None:
    entries = [("cluster", "setup", 20.0), ("namespace", "teardown", 12.0), ("namespace", "teardown", 11.0)]
    lines = [json.dumps({"fixture": f, "scope": "x", "phase": p, "seconds": s}) for f, p, s in entries]
    small = json.dumps({"fixture": "tmp", "scope": "x", "phase": "setup", "seconds": 0.1})
    assert by_fixture([*lines, small])[2:] == [
        "| `namespace` | teardown | 2 | 23 |",
        "| `cluster` | setup | 1 | 20 |",
    ]


def test_a_recorded_run_replaces_the_last_one_of_its_name(run: Path) -> None:
    cases = read_cases(run / "junit.xml")
    levels = ["# Tests", "| `make test-long` | what it runs |"]
    others = [START_OF_RECORDS, "| `make test` | old |"]
    page = "\n".join([*levels, *others, "| `make test-long` | old |", END_OF_RECORDS, "more", ""])
    lines = recorded(page, "make test-long", cases, 5400).splitlines()
    assert lines[:4] == [*levels, *others]
    assert "1 passed, 1 failed, 1 skipped | 90 |" in lines[4]
    assert lines[5:] == [END_OF_RECORDS, "more"]
    with pytest.raises(ReportError, match="has no section"):
        recorded("# Tests\n", "make test-long", cases, 5400)


def test_an_unfinished_run_is_rejected_with_a_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    half = tmp_path / "half.xml"
    half.write_text("<testsuites><testsuite>")
    assert main([str(half)]) == 1
    assert main([str(tmp_path / "missing.xml")]) == 1
    errors = capsys.readouterr().err.splitlines()
    assert [error.partition(" is no JUnit file")[0] for error in errors] == [
        f"error: {half}",
        f"error: {tmp_path}/missing.xml",
    ]


def test_the_page_has_room_for_records() -> None:
    assert END_OF_RECORDS in report_test_run.PAGE.read_text()
