"""Autoscalers of deployments on a real API server: an HPA, and a ScaledObject by CRDs that are like KEDA's."""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from builders import SETTINGS
from cluster_fixtures import ControlPlane
from flash_contracts.names import KIND
from keda_api import NEW, OLD, a_keda_crd
from runtime_site import Site
from waiting import eventually

pytestmark = pytest.mark.apiserver

HPA = {"maxReplicas": 3, "by": "Hpa"}
WITH_URL = replace(SETTINGS, demand_url="http://flash-metrics.system.svc:8080")


def scaling(site: Site) -> tuple[str, str]:
    """Status and reason of the condition."""
    conditions = site.get("dsf", "flash")["status"]["conditions"]
    return next(((c["status"], c["reason"]) for c in conditions if c["type"] == "ScalingActive"), ("", ""))


def hpas(site: Site) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = site.get("hpa")["items"]
    return found


def a_foreign_hpa(site: Site) -> None:
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "flash"}
    spec = {"scaleTargetRef": target, "maxReplicas": 9}
    metadata = {"name": "theirs", "namespace": site.namespace}
    site.apply({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": metadata, "spec": spec})


async def test_an_hpa_is_made_kept_and_deleted(site: Site) -> None:
    key = site.apply_flash(scaling=HPA)
    await site.reconcile(key)
    (made,) = hpas(site)
    assert made["metadata"]["ownerReferences"][0]["kind"] == KIND
    assert (made["spec"]["minReplicas"], made["spec"]["maxReplicas"]) == (1, 3)

    await site.reconcile(key)
    assert await site.reconcile(key) == 0, "what the server has added is no difference"
    assert scaling(site) == ("Unknown", "ScalerPending")

    site.server.kubectl("-n", site.namespace, "patch", "hpa/flash", "--type=merge", "-p", '{"spec":{"maxReplicas":50}}')
    await site.reconcile(key)
    assert hpas(site)[0]["spec"]["maxReplicas"] == 3

    site.server.kubectl("-n", site.namespace, "delete", "hpa/flash")
    await site.reconcile(key)
    assert len(hpas(site)) == 1
    events = site.get("events")["items"]
    assert "ScalerRecreated" in [event["reason"] for event in events]

    site.server.kubectl("-n", site.namespace, "patch", "dsf/flash", "--type=merge", "-p", '{"spec":{"scaling":null}}')
    await site.reconcile(key)
    assert hpas(site) == []
    assert scaling(site) == ("", "")


async def test_the_demand_is_known_from_the_first_look_until_the_deployment_is_gone(site: Site) -> None:
    key = site.apply_flash(scaling=HPA)
    store = await site.stored()
    reconciler = site.reconciler_of(store)
    assert reconciler.demand.report(key) is None
    await reconciler.reconcile(key)
    report = reconciler.demand.report(key)
    assert report is not None
    assert (report.wanted, report.loading, report.target_replicas) == (1, 1, 1.0)

    store.discard(KIND, key.name, key.namespace)
    await reconciler.reconcile(key)
    assert reconciler.demand.report(key) is None


async def test_somebody_elses_hpa_is_left_alone_and_so_are_the_replicas_it_sets(site: Site) -> None:
    key = site.apply_flash(scaling=HPA)
    await site.reconcile(key)
    a_foreign_hpa(site)
    site.server.kubectl("-n", site.namespace, "scale", "deployment/flash", "--replicas=4")
    await site.reconcile(key)
    assert scaling(site) == ("False", "ScalerConflict")
    assert [hpa["metadata"]["name"] for hpa in hpas(site)] == ["theirs"]
    assert site.get("deployment", "flash")["spec"]["replicas"] == 4

    site.server.kubectl("-n", site.namespace, "delete", "hpa/theirs")
    await site.reconcile(key)
    assert [hpa["metadata"]["name"] for hpa in hpas(site)] == ["flash"]
    assert site.get("deployment", "flash")["spec"]["replicas"] == 1


async def test_an_hpa_on_the_deployment_is_not_fought_without_scaling_either(site: Site) -> None:
    key = site.apply_flash()
    await site.reconcile(key)
    a_foreign_hpa(site)
    site.server.kubectl("-n", site.namespace, "scale", "deployment/flash", "--replicas=4")
    await site.reconcile(key)
    await site.reconcile(key)
    assert site.get("deployment", "flash")["spec"]["replicas"] == 4
    assert scaling(site) == ("False", "ScalerConflict")


@pytest.fixture
def keda(crd_server: ControlPlane) -> Iterator[Any]:
    """Installs the API of a KEDA whose fallback has these fields, and takes it away again."""

    def is_served() -> bool:
        return crd_server.kubectl("get", "--raw=/apis/keda.sh/v1alpha1/scaledobjects", check=False).returncode == 0

    def install(fallback: dict[str, Any]) -> None:
        crd = json.dumps(a_keda_crd(fallback))
        crd_server.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=crd)
        eventually(is_served, "KEDA's API is served")

    yield install
    crd_server.kubectl("delete", "crd", "scaledobjects.keda.sh", "--ignore-not-found")
    eventually(lambda: not is_served(), "KEDA's API is gone")


async def test_a_scaled_object_where_kedas_api_is(site: Site, keda: Any) -> None:
    keda(NEW)
    key = site.apply_flash(scaling={"maxReplicas": 3})
    with site.operator(WITH_URL):
        await site.reconcile(key)
        (made,) = site.get("scaledobjects")["items"]
        assert made["spec"]["triggers"][0]["metadata"]["url"].endswith(f"/demand/{site.namespace}/flash")
        assert hpas(site) == []
        await site.reconcile(key)
        assert await site.reconcile(key) == 0
    assert scaling(site) == ("Unknown", "ScalerPending")


async def test_a_keda_that_is_too_old_is_called_that_and_stops_nothing(site: Site, keda: Any) -> None:
    keda(OLD)
    key = site.apply_flash(scaling={"maxReplicas": 3})
    with site.operator(WITH_URL):
        await site.reconcile(key)
        await site.reconcile(key)
    assert scaling(site) == ("False", "KedaTooOld")
    assert site.get("deployment", "flash")["spec"]["replicas"] == 1
    conditions = {c["type"]: c["reason"] for c in site.get("dsf", "flash")["status"]["conditions"]}
    assert conditions["Ready"] in ("PodsMissing", "RollingOut")


async def test_a_keda_that_is_missing_is_said(site: Site) -> None:
    key = site.apply_flash(scaling={"maxReplicas": 3, "by": "Keda"})
    with site.operator(WITH_URL):
        await site.reconcile(key)
    assert scaling(site) == ("False", "KedaMissing")
