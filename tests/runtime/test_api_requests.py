"""What requests to the API server are counted as."""

from pathlib import Path

import pytest

from flash_contracts.names import KIND
from flash_operator.runtime.api_requests import verb_and_resource
from flash_operator.runtime.cluster import ApiError, Cluster, UnreachableError
from flash_operator.runtime.metrics import Metrics
from operator_requests import Requests
from scripted_api_stub import ScriptedApiStub, kubeconfig

FLASH = "/apis/inference.deepseekflash.dev/v1alpha1"
OURS = f"{FLASH}/namespaces/team/deepseekflashdeployments"


@pytest.mark.parametrize(
    ("method", "path", "query", "counted"),
    [
        ("GET", f"{FLASH}/deepseekflashdeployments", {"limit": "500"}, ("list", "deepseekflashdeployments")),
        ("GET", OURS, {"watch": "true"}, ("watch", "deepseekflashdeployments")),
        ("GET", f"{OURS}/flash", {}, ("get", "deepseekflashdeployments")),
        ("PATCH", f"{OURS}/flash/status", {"force": "true"}, ("patch", "deepseekflashdeployments/status")),
        ("POST", OURS, {"dryRun": "All"}, ("dry-run", "deepseekflashdeployments")),
        ("PATCH", "/apis/apps/v1/namespaces/team/deployments/flash", {"dryRun": "All"}, ("dry-run", "deployments")),
        ("POST", "/api/v1/namespaces/team/pods/flash-a/eviction", {}, ("create", "pods/eviction")),
        ("DELETE", "/api/v1/namespaces/team/pods/namespaces", {}, ("delete", "pods")),
        ("PATCH", "/api/v1/nodes/node-1", {}, ("patch", "nodes")),
        ("POST", "/api/v1/namespaces", {}, ("create", "namespaces")),
        ("GET", "/api/v1/namespaces/team", {}, ("get", "namespaces")),
        ("GET", "/version", {}, ("get", "version")),
        ("GET", "/openapi/v3", {}, ("get", "openapi")),
        ("PUT", "/apis/coordination.k8s.io/v1/namespaces/system/leases/flash-operator", {}, ("update", "leases")),
    ],
)
def test_the_verb_is_that_of_kubernetes(
    method: str, path: str, query: dict[str, str], counted: tuple[str, str]
) -> None:
    assert verb_and_resource(method, path, query) == counted


async def test_each_request_is_counted_once_with_its_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stub, metrics = ScriptedApiStub(), Metrics()
    (tmp_path / "kubeconfig").write_text("")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    async with stub.serve() as address:
        (tmp_path / "kubeconfig").write_text(kubeconfig(address))
        cluster = await Cluster.connect()
        cluster.count_with(metrics.requested)
        assert await cluster.list("Pod") == []
        assert await cluster.get("Pod", "gone", "team") is None
        stub.status = 503
        with pytest.raises(ApiError):
            await cluster.list(KIND)
        with pytest.raises(ApiError):
            await cluster.patch_node("node-1", {})
    with pytest.raises(UnreachableError):
        await cluster.list("Pod")
    await cluster.close()

    def count(verb: str, resource: str, code: str) -> float | None:
        labels = {"verb": verb, "resource": resource, "code": code}
        return metrics.registry.get_sample_value("flash_operator_api_requests_total", labels)

    assert count("list", "pods", "200") == 1
    assert count("get", "pods", "404") == 1
    assert count("list", "deepseekflashdeployments", "503") == 1
    assert count("patch", "nodes", "405") == 1
    assert count("list", "pods", "unanswered") == 1
    assert Requests.of((await metrics.text()).decode()) == Requests(reads=4, writes=1)
