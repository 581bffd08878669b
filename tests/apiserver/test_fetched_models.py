"""The Deployment of a fetched model on a real API server: it is accepted, and not written a second time."""

import json
from typing import Any

import pytest

from builders import a_flash, an_observed
from cluster_fixtures import ControlPlane
from flash_operator.core.observed.snapshot import RawObject
from flash_operator.core.plan import desired_children
from flash_operator.core.resources.drift import needs_apply

pytestmark = pytest.mark.apiserver

MODELS: dict[str, dict[str, Any]] = {
    "in the pod": {"revision": "main"},
    "on the node, with a token": {"cache": {"type": "Node", "maxGibibytes": 400}, "credentialsSecret": "hub"},
    "on a claim, from a mirror": {
        "cache": {"type": "Claim", "claimName": "models"},
        "hubEndpoint": "https://mirror.example/hub",
    },
    "an image, with a password": {
        "source": "oci://images.example/v4:1",
        "ociDelivery": "Fetch",
        "credentialsSecret": "pull",
        "cache": {"type": "Node"},
    },
    "an image that is mounted, with a password": {
        "source": "oci://images.example/v4:1",
        "ociDelivery": "ImageVolume",
        "credentialsSecret": "pull",
    },
}


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS.keys())
def test_the_deployment_is_accepted_unchanged(api_server: ControlPlane, model: dict[str, Any]) -> None:
    flash = a_flash(model={"source": "hf://owner/name", **model})
    wanted = next(child for child in desired_children(an_observed(flash)) if child["kind"] == "Deployment")
    metadata: dict[str, Any] = {**wanted["metadata"], "namespace": "default"}
    del metadata["ownerReferences"]
    wanted = {**wanted, "metadata": metadata}

    done = api_server.kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps(wanted), check=False)
    assert done.returncode == 0, done.stderr
    live: RawObject = json.loads(api_server.kubectl("get", "deployment", "flash", "-o", "json").stdout)
    api_server.kubectl("delete", "deployment", "flash")

    assert not needs_apply(wanted, live)


@pytest.mark.parametrize("level", ["restricted", "privileged"])
def test_a_node_cache_needs_a_namespace_that_allows_host_paths(api_server: ControlPlane, level: str) -> None:
    """As docs/model-delivery.md says; the other caches live under the strictest level."""
    namespace = f"level-{level}"
    labels = {"pod-security.kubernetes.io/enforce": level}
    made = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": labels}}
    api_server.kubectl("apply", "-f", "-", stdin=json.dumps(made))
    # No controller runs here to create it.
    api_server.kubectl("create", "serviceaccount", "default", "-n", namespace)
    taken = {}
    for kind in ("Pod", "Node"):
        flash = a_flash(model={"source": "hf://owner/name", "cache": {"type": kind}, "credentialsSecret": "hub"})
        wanted = next(child for child in desired_children(an_observed(flash)) if child["kind"] == "Deployment")
        template = wanted["spec"]["template"]
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "a", "namespace": namespace},
            "spec": template["spec"],
        }
        done = api_server.kubectl("create", "--dry-run=server", "-f", "-", stdin=json.dumps(pod), check=False)
        taken[kind] = done.returncode == 0
        assert done.returncode == 0 or "hostPath" in done.stderr, done.stderr

    assert taken == {"Pod": True, "Node": level == "privileged"}
