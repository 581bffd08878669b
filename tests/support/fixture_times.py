"""A pytest plugin that writes how long each fixture took to set up and to tear down: `pytest --fixture-times=FILE`.

One JSON object a line: {"fixture": NAME, "scope": SCOPE, "phase": "setup" or "teardown", "seconds": SECONDS}. Workers
of one run append to the same file. A fixture's seconds leave out the fixtures that it asks for.
"""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

OPTION = "--fixture-times"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(OPTION, metavar="FILE", help="append the seconds of every fixture to this file")


def pytest_configure(config: pytest.Config) -> None:
    target = config.getoption(OPTION)
    if target:
        config.pluginmanager.register(FixtureTimes(Path(target).absolute()), "fixture-times-writer")


class FixtureTimes:
    """Times every fixture's set-up, and its teardown by a finalizer on either side of its own."""

    def __init__(self, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        self._target = target
        self._ends_began: dict[int, float] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any]) -> Iterator[None]:
        fixturedef.addfinalizer(lambda: self._teardown_ended(fixturedef))
        began = time.monotonic()
        try:
            return (yield)
        finally:
            self._write(fixturedef, "setup", time.monotonic() - began)
            # Finalizers run last in, first out: this one goes before the fixture's own.
            fixturedef.addfinalizer(lambda: self._teardown_begins(fixturedef))

    def _teardown_begins(self, fixture: pytest.FixtureDef[Any]) -> None:
        self._ends_began[id(fixture)] = time.monotonic()

    def _teardown_ended(self, fixture: pytest.FixtureDef[Any]) -> None:
        self._write(fixture, "teardown", time.monotonic() - self._ends_began.pop(id(fixture)))

    def _write(self, fixture: pytest.FixtureDef[Any], phase: str, seconds: float) -> None:
        line = {"fixture": fixture.argname, "scope": fixture.scope, "phase": phase, "seconds": round(seconds, 4)}
        with self._target.open("a") as out:
            out.write(f"{json.dumps(line)}\n")
