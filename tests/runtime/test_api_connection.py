"""The connection to the API server: which proxy it takes, and that it leaves nothing open."""

import asyncio
import gc
import warnings

import pytest

from cluster_fixtures import ControlPlane
from flash_operator.runtime.api_connection import ApiConnection, _proxy_for

PROXY = "http://proxy.example:3128"


@pytest.mark.parametrize(
    ("variables", "proxy"),
    [
        ({}, None),
        ({"HTTPS_PROXY": PROXY}, PROXY),
        ({"https_proxy": PROXY}, PROXY),
        ({"HTTP_PROXY": PROXY}, None),
        ({"HTTPS_PROXY": PROXY, "NO_PROXY": "10.96.0.1"}, None),
        ({"HTTPS_PROXY": PROXY, "NO_PROXY": "*"}, None),
        ({"HTTPS_PROXY": PROXY, "NO_PROXY": "other.example"}, PROXY),
    ],
)
def test_the_proxy_of_the_environment_is_taken(
    variables: dict[str, str], proxy: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert _proxy_for("https://10.96.0.1:443") == proxy


@pytest.mark.apiserver
def test_requests_that_are_cancelled_during_the_handshake_leave_no_connection_open(
    api_server: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their sockets would be left to the garbage collector, which warns of them in some later test."""
    monkeypatch.setenv("KUBECONFIG", str(api_server.kubeconfig))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)

    async def cancelled_after(seconds: float) -> None:
        connection = await ApiConnection.connect()
        try:
            async with asyncio.timeout(seconds):
                await connection.request("GET", "/version")
        except TimeoutError:
            assert connection.was_cancelled
        finally:
            await connection.close()

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for number in range(16):
            asyncio.run(cancelled_after(0.002 + number * 0.0003))
            gc.collect()
    assert [str(one.message) for one in caught if issubclass(one.category, ResourceWarning)] == []
