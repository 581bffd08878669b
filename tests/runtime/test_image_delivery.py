"""A whole reconcile of an oci:// model on API servers with and without image volumes."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import aiohttp
import pytest

from builders import SETTINGS, a_flash_object
from cluster_fixtures import ControlPlane
from custom_resource import install_crd
from flash_operator.runtime.cluster import Cluster
from flash_operator.runtime.gates import Gates
from flash_operator.runtime.keys import FlashKey
from flash_operator.runtime.reconciler import Reconciler
from flash_operator.runtime.store import Store
from runtime_site import LiveObserver

pytestmark = pytest.mark.apiserver

KEY = FlashKey("default", "flash")


@pytest.fixture(scope="module")
def older_server(older_api_server: ControlPlane) -> ControlPlane:
    """With our CRD established."""
    install_crd(older_api_server)
    return older_api_server


@asynccontextmanager
async def reconciling(server: ControlPlane, patch: pytest.MonkeyPatch, **model: Any) -> AsyncIterator[Reconciler]:
    """With a deployment of an image, which is deleted afterwards."""
    patch.setenv("KUBECONFIG", str(server.kubeconfig))
    patch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    apply_model(server, **model)
    cluster = await Cluster.connect()
    async with aiohttp.ClientSession() as session:
        observer = LiveObserver(Store(), cluster, Gates(session), SETTINGS)
        yield Reconciler(cluster, observer, "test", clock=count(step=60).__next__)
    await cluster.close()
    server.kubectl("delete", "dsf,deployments,services,configmaps,poddisruptionbudgets", "--all", "-n", "default")


def apply_model(server: ControlPlane, **model: Any) -> None:
    raw = a_flash_object(model={"source": "oci://images.example/v4:1", **model})
    raw["metadata"] = {"name": KEY.name, "namespace": KEY.namespace}
    server.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=json.dumps(raw))


def live(server: ControlPlane, kind: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(server.kubectl("get", kind, KEY.name, "-o", "json").stdout)
    return found


def how(server: ControlPlane) -> set[str]:
    spec = live(server, "deployment")["spec"]["template"]["spec"]
    mounted = {"ImageVolume" for volume in spec["volumes"] if "image" in volume}
    return mounted | {"Fetch" for container in spec["initContainers"] if container["name"] == "fetch"}


async def test_with_image_volumes_the_image_is_mounted(
    crd_server: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with reconciling(crd_server, monkeypatch) as reconciler:
        await reconciler.reconcile(KEY)
        assert how(crd_server) == {"ImageVolume"}


async def test_without_image_volumes_the_image_is_fetched_and_that_stays(
    older_server: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with reconciling(older_server, monkeypatch, cache={"type": "Node"}) as reconciler:
        await reconciler.reconcile(KEY)
        assert how(older_server) == {"Fetch"}
        deployment = live(older_server, "deployment")
        for _ in range(3):
            await reconciler.reconcile(KEY)
        assert live(older_server, "deployment")["metadata"]["generation"] == deployment["metadata"]["generation"] == 1
        assert "ImageVolumesAbsent" not in json.dumps(live(older_server, "dsf")["status"])


async def test_an_impossible_delivery_is_reported_and_corrected_by_another(
    older_server: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with reconciling(older_server, monkeypatch, ociDelivery="ImageVolume") as reconciler:
        for _ in range(2):
            await reconciler.reconcile(KEY)
        assert how(older_server) == set()
        conditions = {found["type"]: found for found in live(older_server, "dsf")["status"]["conditions"]}
        assert conditions["Ready"]["reason"] == "ImageVolumesAbsent"
        assert "set it to Auto or Fetch" in conditions["Ready"]["message"]

        apply_model(older_server, ociDelivery="Auto")
        await reconciler.reconcile(KEY)
        assert how(older_server) == {"Fetch"}


async def test_a_rejected_dry_run_decides_nothing_and_the_apply_reports_the_rejection(
    crd_server: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with reconciling(crd_server, monkeypatch):
        cluster = await Cluster.connect()
        before = cluster.writes
        no_deployment = {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "a", "namespace": "default"},
        }
        assert await cluster.dry_run({**no_deployment, "spec": {"replicas": -1}}) is None
        assert cluster.writes == before
        assert crd_server.kubectl("get", "deployment", "a", check=False).returncode != 0
        await cluster.close()
