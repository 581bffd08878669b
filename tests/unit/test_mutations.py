"""The mutation tool itself, on a repository of three files."""

import subprocess
import sys
from pathlib import Path

import pytest

from mutations.__main__ import ROOT, main
from mutations.breaks import out_of_date, read_lists

SOURCE = "def double(number: int) -> int:\n    return 2 * number\n"
TEST = "from double import double\n\n\ndef test_of_one() -> None:\n    assert double({}) == {}\n"
MAKEFILE = """\
export PYTHONPATH := source
setup:
\t@mkdir -p .venv/bin
\t@printf '#!/bin/sh\\nexec {python} "$$@"\\n' > .venv/bin/python
\t@chmod +x .venv/bin/python
"""
ENTRY = """\
[[break]]
id = "sums/twice"
harm = "Twice two is no more than two"
file = "source/double.py"
before = 'return 2 * number'
after = 'return number'
tests = ["tests/test_double.py::test_of_one"]
"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository without commits, whose only test checks twice two."""
    root = tmp_path / "repository"
    _write(root / "source" / "double.py", SOURCE)
    _write(root / "tests" / "test_double.py", TEST.format(2, 4))
    _write(root / "Makefile", MAKEFILE.format(python=sys.executable))
    _write(root / "hack" / "mutations" / "sums.toml", ENTRY)
    subprocess.run(["git", "init", "--quiet", str(root)], check=True)
    return root


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_a_break_is_caught_or_survives_or_proves_nothing(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    survivor = ENTRY.replace("sums/twice", "sums/zero").replace("return number'", "return number * 2 + 0'")
    senseless = ENTRY.replace("sums/twice", "sums/none").replace("return number'", "return ('")
    _write(repository / "hack" / "mutations" / "sums.toml", ENTRY + survivor + senseless)

    assert main([], repository) == 1

    message = capsys.readouterr()
    assert "Twice two is no more than two: test_double::test_of_one" in message.out
    assert "1 of 3 breaks were caught" in message.out
    assert "sums/zero survived: Twice two is no more than two, and tests/test_double.py::test_of_one" in message.err
    assert "sums/none: its tests could not run with it, which proves nothing: pytest ended with" in message.err
    assert (repository / "source" / "double.py").read_text() == SOURCE, "only the copy is broken"


def test_tests_that_fail_as_they_are_prove_nothing(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _write(repository / "tests" / "test_double.py", TEST.format(2, 5))
    assert main([], repository) == 2
    assert "must pass before anything is broken, and they do not: test_double::test_of_one" in capsys.readouterr().err


REFUSED = {
    "a line that is not there": (
        ENTRY.replace("2 * number'", "3 * number'"),
        "the list is out of date: in source/double.py this line is not there: return 3 * number",
    ),
    "a line that is there twice": (ENTRY.replace("source/double.py", "twice.txt"), "this line is there 2 times"),
    "a file that is gone": (ENTRY.replace("double.py", "triple.py"), "source/triple.py: No such file"),
    "a test that is gone": (ENTRY.replace("of_one", "of_two"), "there is no test tests/test_double.py::test_of_two"),
    "a break that changes nothing": (ENTRY.replace("'return number'", "'return 2 * number'"), "it changes nothing"),
    "a word that is no field": (ENTRY.replace("harm", "harms"), "harms: Extra inputs"),
    "a list that is no TOML": (ENTRY.replace("[[break]]", "[[break]"), "sums.toml"),
    "one name for two": (ENTRY + ENTRY, "listed twice: sums/twice"),
    "no list at all": ("", "no break is listed"),
}


@pytest.mark.parametrize(("entry", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_an_unusable_list_is_rejected_before_anything_is_copied(
    repository: Path, entry: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _write(repository / "twice.txt", "return 2 * number\n" * 2)
    _write(repository / "hack" / "mutations" / "sums.toml", entry)
    (repository / "Makefile").unlink()
    assert main([], repository) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["sum"], ["sums/thrice"], ["sums", "twice"]], ids=" ".join)
def test_an_unknown_name_is_rejected(
    repository: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments, repository) == 2
    assert "no break is called" in capsys.readouterr().err


def test_the_list_of_this_repository_fits_its_files() -> None:
    """A changed line is found here, and not only by the next complete run."""
    breaks = read_lists(ROOT)
    assert out_of_date(breaks, ROOT) == []
    assert len(breaks) >= 30
