"""Progress where nobody looks at a terminal."""

import re
import time

import pytest

from mtp_quantiser import console


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "LINE_SECONDS", 0.02)


def test_the_end_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(console.logged(range(5), "quantising", 5, "experts")) == [0, 1, 2, 3, 4]
    assert capsys.readouterr().err.splitlines()[-1] == "quantising: 5 of 5 experts"


def test_progress_is_told_while_one_item_takes_long(capsys: pytest.CaptureFixture[str]) -> None:
    items = console.logged(range(2), "quantising", 2, "experts")
    next(items)
    time.sleep(0.3)
    list(items)
    lines = capsys.readouterr().err.splitlines()
    assert sum(bool(re.fullmatch(r"quantising: 1 of 2 experts, about \d+ s left", line)) for line in lines) >= 2


def test_before_the_first_item_nothing_is_estimated() -> None:
    assert console.remaining(7.2, 0, 5) == ", 7 s so far"
    assert console.remaining(6.0, 2, 5) == ", about 9 s left"


def test_a_long_step_says_that_it_goes_on_and_then_how_long_it_took(capsys: pytest.CaptureFixture[str]) -> None:
    with console.step("verifying"):
        time.sleep(0.3)
    *meanwhile, last = capsys.readouterr().err.splitlines()
    assert meanwhile
    assert all(line.startswith("verifying: going on for ") for line in meanwhile)
    assert re.fullmatch(r"verifying: \d+\.\d s", last)


def test_a_failed_step_stops_its_reminders(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ZeroDivisionError), console.step("verifying"):
        raise ZeroDivisionError
    time.sleep(0.1)
    assert capsys.readouterr().err == ""
