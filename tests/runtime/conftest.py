"""The CRD on the real API server, for the tests of this folder too."""

from pathlib import Path

import pytest

from cluster_fixtures import ControlPlane

CRD = Path(__file__).resolve().parents[2] / "crds" / "deepseekflashdeployments.yaml"


@pytest.fixture(scope="session")
def crd_server(api_server: ControlPlane) -> ControlPlane:
    """The API server with our CRD established."""
    api_server.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(CRD))
    api_server.kubectl("wait", "--for=condition=Established", "-f", str(CRD), "--timeout=30s")
    return api_server
