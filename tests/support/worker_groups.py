"""pytest plugin: with several workers (pytest -n), what is dear to start is started once, on one of them.

`--dist loadgroup` sends the tests of a place in the table to one worker, and every other test to whoever is free. The
marks that pytest-xdist 3.8 has for this reach nobody with pytest 9.2: they go by a name that is no more.
"""

from pathlib import PurePosixPath

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

SHARED = {
    "api_server": "API server",
    "older_api_server": "API server",
    "walker": "vLLM walk",
    "cpu_walker": "vLLM walk",
    "older_walker": "vLLM walk",
}
"""A fixture of the session, and the group of all who ask for it."""

PLACES = {
    "tests/apiserver": "API server",
    "tests/runtime/test_engine_update.py": "API server",
    "tests/runtime/test_image_delivery.py": "API server",
    "tests/runtime/test_lease.py": "API server",
    "tests/runtime/test_node_reconciler.py": "API server",
    "tests/runtime/test_reconciler.py": "API server",
    "tests/cluster/test_control_plane.py": "API server",
    "tests/plugin": "vLLM walk",
}
"""Where they are: who gives out the tests knows their names alone."""


def group_of(nodeid: str) -> str | None:
    file = PurePosixPath(nodeid.partition("::")[0])
    return next((group for place, group in PLACES.items() if file.is_relative_to(place)), None)


class GroupScheduling(LoadScopeScheduling):  # type: ignore[misc] # pytest-xdist has no types
    """The largest group first."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid) or nodeid


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling | None:
    return GroupScheduling(config, log) if config.getoption("dist") == "loadgroup" else None
