"""pytest plugin: --faults, how many random fault runs the long form plays, and --fault-seed, to play one again."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--faults", type=int, default=300, help="random fault runs in the long form")
    parser.addoption("--fault-seed", type=int, default=None, help="play the fault run of this seed, and no other")
