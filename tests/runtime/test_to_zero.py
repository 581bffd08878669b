"""The activator's EndpointSlice on a real API server: made, kept up to date, and deleted with what it is for."""

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import aiohttp
import pytest

from builders import SETTINGS
from flash_contracts.activation import FIRST_PORT, PORTS
from flash_operator.core.scaling.activation import SLICE
from flash_operator.runtime.activators import Activators
from flash_operator.runtime.keys import FlashKey
from runtime_site import Site

pytestmark = pytest.mark.apiserver

TO_ZERO = {"minReplicas": 0, "maxReplicas": 3}
WITH_URL = replace(SETTINGS, demand_url="http://flash-metrics.system.svc:8080")


def activators_at(site: Site, *addresses: str) -> None:
    """The endpoints of the activators' Service, as Kubernetes' controller writes them."""
    labels = {"kubernetes.io/service-name": "flash-activator"}
    site.apply(
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": SLICE,
            "metadata": {"name": "flash-activator-x1", "namespace": site.namespace, "labels": labels},
            "addressType": "IPv4",
            "endpoints": [{"addresses": [address], "conditions": {"ready": True}} for address in addresses],
            "ports": [{"name": "health", "port": 8080, "protocol": "TCP"}],
        }
    )


@pytest.fixture
async def activators(site: Site) -> AsyncIterator[Activators]:
    async with aiohttp.ClientSession() as session:
        service = (site.namespace, "flash-activator")
        yield Activators(site.cluster, session, service, lambda: (FlashKey(site.namespace, "flash"),), port=1)


def made_slices(site: Site) -> list[dict[str, Any]]:
    selector = "-l=endpointslice.kubernetes.io/managed-by=flash-operator"
    found: list[dict[str, Any]] = site.get("endpointslices", selector)["items"]
    return found


def addresses(site: Site) -> list[str]:
    (made,) = made_slices(site)
    return [address for endpoint in made["endpoints"] or [] for address in endpoint["addresses"]]


def scaling(site: Site) -> dict[str, Any]:
    conditions = site.get("dsf", "flash")["status"]["conditions"]
    found: dict[str, Any] = next(c for c in conditions if c["type"] == "ScalingActive")
    return found


async def test_the_slice_follows_the_activators_and_goes_with_the_wish_for_zero(
    site: Site, activators: Activators
) -> None:
    activators_at(site, "10.1.0.4", "10.1.0.5")
    key = site.apply_flash(replicas=0, scaling=TO_ZERO)
    with site.operator(WITH_URL, activators=activators):
        await site.reconcile(key)
        (made,) = made_slices(site)
        assert addresses(site) == ["10.1.0.4", "10.1.0.5"]
        assert made["metadata"]["labels"]["kubernetes.io/service-name"] == "flash"
        assert FIRST_PORT <= made["ports"][0]["port"] < FIRST_PORT + PORTS
        await site.reconcile(key)
        assert await site.reconcile(key) == 0, "what the server has added is no difference"

        activators_at(site, "10.1.0.6")
        await activators.find()
        await site.reconcile(key)
        assert addresses(site) == ["10.1.0.6"]
        assert made_slices(site)[0]["ports"] == made["ports"], "the port stays"
        activators_at(site)
        await activators.find()
        await site.reconcile(key)
        assert addresses(site) == []

        site.apply_flash(replicas=1, scaling={"maxReplicas": 3})
        await site.reconcile(key)
    assert made_slices(site) == []


def a_ready_replica(site: Site) -> None:
    labels = {"app.kubernetes.io/managed-by": "flash-operator", "deepseekflash.dev/deployment": "flash"}
    metadata = {"name": "flash-a", "namespace": site.namespace, "labels": labels}
    account = {"name": "default", "namespace": site.namespace}
    site.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": account})
    containers = [{"name": "engine", "image": "registry.example/engine"}]
    site.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": containers}})
    ready = {"phase": "Running", "podIP": "10.1.0.9", "conditions": [{"type": "Ready", "status": "True"}]}
    status = json.dumps({"status": ready})
    place = ("-n", site.namespace, "pod/flash-a", "--subresource=status", "--type=merge")
    site.server.kubectl("patch", *place, "-p", status)


async def test_the_activator_is_in_the_service_before_the_last_replica_is_stopped(
    site: Site, activators: Activators
) -> None:
    activators_at(site, "10.1.0.4")
    key = site.apply_flash(replicas=1, scaling=TO_ZERO)
    a_ready_replica(site)
    with site.operator(WITH_URL, activators=activators):
        await site.reconcile(key)
        assert addresses(site) == [], "out of the way"
        site.server.kubectl("-n", site.namespace, "scale", "dsf/flash", "--replicas=0")
        await site.reconcile(key)
    deployment = site.get("deployment", "flash")
    assert (addresses(site), deployment["spec"]["replicas"]) == (["10.1.0.4"], 0)
    (made,) = made_slices(site)
    assert int(made["metadata"]["resourceVersion"]) < int(deployment["metadata"]["resourceVersion"])


async def test_an_operator_without_activators_takes_their_addresses_out_of_the_service(
    site: Site, activators: Activators
) -> None:
    activators_at(site, "10.1.0.4")
    key = site.apply_flash(replicas=0, scaling=TO_ZERO)
    with site.operator(WITH_URL, activators=activators):
        await site.reconcile(key)
    assert addresses(site) == ["10.1.0.4"]
    with site.operator(WITH_URL):
        await site.reconcile(key)
    assert made_slices(site) == []


async def test_a_second_deployment_has_another_port_and_the_next_operator_the_same_ones(
    site: Site, activators: Activators
) -> None:
    activators_at(site, "10.1.0.4")
    keys = [site.apply_flash(name, replicas=0, scaling=TO_ZERO) for name in ("flash", "other")]
    ports = []
    for _ in range(2):
        with site.operator(WITH_URL, activators=activators):
            for key in keys:
                await site.reconcile(key)
        ports.append({one["metadata"]["name"]: one["ports"][0]["port"] for one in made_slices(site)})
    assert len(set(ports[0].values())) == 2
    assert ports[0] == ports[1]


async def test_somebody_elses_slice_of_that_name_is_left_alone(site: Site, activators: Activators) -> None:
    activators_at(site, "10.1.0.4")
    metadata = {"name": "flash-activator", "namespace": site.namespace}
    theirs = {"apiVersion": "discovery.k8s.io/v1", "kind": SLICE, "metadata": metadata, "addressType": "IPv4"}
    site.apply({**theirs, "endpoints": [{"addresses": ["10.9.9.9"]}]})
    key = site.apply_flash(replicas=0, scaling=TO_ZERO)
    with site.operator(WITH_URL, activators=activators):
        await site.reconcile(key)
    found = site.get("endpointslice", "flash-activator")
    assert found["endpoints"] == [{"addresses": ["10.9.9.9"], "conditions": {}}]
    conditions = {c["type"]: c["reason"] for c in site.get("dsf", "flash")["status"]["conditions"]}
    assert conditions["Ready"] == "NameTaken"
