"""The CRD on the real API server, for the tests of this folder too."""

import pytest

from cluster_fixtures import ControlPlane
from custom_resource import install_crd


@pytest.fixture(scope="session")
def crd_server(api_server: ControlPlane) -> ControlPlane:
    """The API server with our CRD established."""
    install_crd(api_server)
    return api_server
