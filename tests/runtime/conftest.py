"""The CRD on the real API server, for the tests of this folder too."""

import uuid
from collections.abc import AsyncIterator

import aiohttp
import pytest

from cluster_fixtures import ControlPlane
from custom_resource import install_crd
from flash_operator.runtime.cluster import Cluster
from flash_operator.runtime.gates import Gates
from runtime_site import Site


@pytest.fixture(scope="session")
def crd_server(api_server: ControlPlane) -> ControlPlane:
    """The API server with our CRD established."""
    install_crd(api_server)
    return api_server


@pytest.fixture
async def site(crd_server: ControlPlane, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    monkeypatch.setenv("KUBECONFIG", str(crd_server.kubeconfig))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    namespace = f"site-{uuid.uuid4().hex[:6]}"
    crd_server.kubectl("create", "namespace", namespace)
    cluster = await Cluster.connect()
    async with aiohttp.ClientSession() as session:
        yield Site(crd_server, cluster, Gates(session), namespace)
    await cluster.close()
