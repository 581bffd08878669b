"""pytest plugin: with several workers (pytest -n), expensive fixtures are started once, on one worker.

`--dist loadgroup` sends the tests of an entry of the table to one worker, and all others to any free worker. The marks
of pytest-xdist 3.8 for this purpose do not work with pytest 9.2, which renamed the attribute that they use.
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
    "tests/runtime/test_api_connection.py": "API server",
    "tests/runtime/test_children.py": "API server",
    "tests/runtime/test_engine_update.py": "API server",
    "tests/runtime/test_image_delivery.py": "API server",
    "tests/runtime/test_lease.py": "API server",
    "tests/runtime/test_node_reconciler.py": "API server",
    "tests/runtime/test_reconciler.py": "API server",
    "tests/runtime/test_scaling.py": "API server",
    "tests/runtime/test_stored_specs.py": "API server",
    "tests/runtime/test_to_zero.py": "API server",
    "tests/runtime/test_writes.py": "API server",
    "tests/cluster/test_control_plane.py": "API server",
    "tests/documentation/test_flux_example.py": "API server",
    "tests/documentation/test_kubectl_blocks.py": "pages",
    "tests/documentation/test_site.py": "site",
    "tests/plugin": "vLLM walk",
}
"""Groups by folder or file, because the scheduler knows only the ids of tests."""


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
