"""Order and images for the tests of the local cluster itself."""

from pathlib import Path

import pytest

from local_cluster.binaries import binary
from local_cluster.oci_archive import write_archive

WEB_IMAGE = "localhost/web:1"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that start and stop clusters of their own go before those that share one: a machine holds one only."""
    items.sort(key=lambda item: item.path.name != "test_leaving_nothing.py")


@pytest.fixture(scope="session")
def web_archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small image: it serves its pod's name on port 8080, and fetches."""
    archive = tmp_path_factory.mktemp("images") / "web.tar"
    write_archive(archive, WEB_IMAGE, binary("web"))
    return archive
