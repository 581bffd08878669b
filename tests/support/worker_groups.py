"""pytest plugin: with several workers (pytest -n), what is dear to start is started once, on one of them.

Tests that share such a fixture go to the same worker; `--dist loadgroup` sees to it.
"""

import pytest

SHARED = {
    "api_server": "API server",
    "older_api_server": "API server",
    "walker": "vLLM walk",
    "cpu_walker": "vLLM walk",
    "older_walker": "vLLM walk",
    "cluster": "cluster",
}
"""A session's fixture, and the group of those who ask for it, themselves or through others."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Before pytest-xdist looks at the marks."""
    for item in items:
        names = getattr(item, "fixturenames", ())
        group = next((SHARED[name] for name in names if name in SHARED), None)
        if group:
            item.add_marker(pytest.mark.xdist_group(group))
