"""A client of the API server that a module of tests has for itself."""

from collections.abc import AsyncIterator

import pytest

from flash_operator.runtime.api_connection import ApiConnection
from local_cluster.control_plane import ControlPlane


@pytest.fixture
async def api(plane: ControlPlane, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ApiConnection]:
    monkeypatch.setenv("KUBECONFIG", str(plane.kubeconfig))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    connection = await ApiConnection.connect()
    yield connection
    await connection.close()
