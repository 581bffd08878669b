"""A real API server takes what the chart and the kustomize base hold, under strict validation."""

import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from cluster_fixtures import ControlPlane
from kustomize_base import BASE, NAMESPACE
from local_cluster.binaries import binary
from rendered_chart import bundle, parsed, render

pytestmark = pytest.mark.apiserver


VALUES: dict[str, list[str]] = {
    "the defaults": [],
    "one operator of a class": ["replicas=1", "operatorClass=blue"],
    "one namespace": ["watchNamespace=team", "labeller.enabled=false", "p2pTest.enabled=false"],
    "pinned images": [f"image.digest=sha256:{'a' * 64}", f"labeller.image.digest=sha256:{'b' * 64}"],
    "another place": [
        "nodeSelector.pool=system", "tolerations[0].operator=Exists", "priorityClassName=high",
        "topologySpreadConstraints[0].maxSkew=1", "topologySpreadConstraints[0].topologyKey=zone",
        "topologySpreadConstraints[0].whenUnsatisfiable=DoNotSchedule",
    ],
    "labels and annotations": ["commonLabels.team=search", "podLabels.a=b", "podAnnotations.c=d"],
    "as little as can be": [
        "rbac.create=false", "serviceAccount.create=false", "serviceAccount.name=mine", "metrics.service.enabled=false",
        "podTemplatePolicy.enabled=false", "podDisruptionBudget.enabled=false", "labeller.enabled=false",
    ],
    "network policies": [
        "networkPolicy.enabled=true", "networkPolicy.deploymentNamespaces={team}",
        "networkPolicy.engineFrom[0].ipBlock.cidr=10.0.0.0/8",
        "networkPolicy.engineFrom[0].ipBlock.except={10.1.0.0/16}",
        "networkPolicy.metricsFrom[0].namespaceSelector.matchLabels.team=monitoring",
    ],
    "private images": [
        "imagePullSecrets[0].name=pull", "labeller.runtimeClassName=nvidia", "p2pTest.runtimeClassName=nvidia",
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def server(crd_server: ControlPlane) -> Iterator[ControlPlane]:
    for namespace in (NAMESPACE, "team"):
        crd_server.kubectl("create", "namespace", namespace, check=False)
    yield crd_server
    crd_server.kubectl("delete", "namespace", NAMESPACE, "--wait=false")


def dry_run(server: ControlPlane, documents: list[dict[str, Any]]) -> "subprocess.CompletedProcess[str]":
    strict = ("--server-side", "--force-conflicts", "--validate=strict", "--dry-run=server")
    return server.kubectl("apply", *strict, "-f", "-", stdin=bundle(documents), check=False)


@pytest.mark.parametrize("name", VALUES)
def test_the_chart_with_these_values(name: str, server: ControlPlane) -> None:
    documents = render(*VALUES[name], namespace=NAMESPACE)
    done = dry_run(server, documents)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(documents)


def test_the_kustomize_base(server: ControlPlane) -> None:
    built = subprocess.run([str(binary("kubectl")), "kustomize", str(BASE)], capture_output=True, text=True, check=True)
    documents = parsed(built.stdout)
    done = dry_run(server, documents)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(documents)
