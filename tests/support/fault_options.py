"""pytest plugin: --faults, how many seeds of random faults there are, and --fault-seed, to play one again."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--faults", type=int, default=60, help="seeds of random fault runs, those of the short form among them"
    )
    parser.addoption("--fault-seed", type=int, default=None, help="play the fault run of this seed, and no other")
