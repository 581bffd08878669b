"""A model as an image, on a real cluster: pulled by its pod from a real registry, and mounted by the kubelet.

The registry runs on the node, which is this machine, without TLS and behind a password.
"""

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster_fixtures import LocalCluster
from e2e_env import Flash, apply, wait_until
from engine_stubs import engine_stub_program, stub_spec
from fetched_models import START_SECONDS, cache_claim, download_status, node_address, serve
from image_builder.archive import write_oci_archive
from image_registry import MANIFEST, ImageRegistry, image_of, tar_of

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

USER, PASSWORD = "puller", "secret-of-the-tests"
HTPASSWD = f"{USER}:$2b$04$S0/TreduGeKtthneX9ThkO47mJafilMTrAR4jd6tJvSAmCek/RDmC\n"
"""The bcrypt hash of the password, with the fewest rounds."""
MOUNTED = "localhost/flash/tiny-model:1"

MakeDeployment = Callable[..., Flash]


@pytest.fixture(scope="module")
def layers(models: Path) -> list[bytes]:
    """One file in each layer, as recommended for images of models."""
    return [tar_of({path.name: path.read_bytes()}) for path in sorted((models / "good").iterdir())]


@pytest.fixture
def registry(e2e_env: LocalCluster, layers: list[bytes], tmp_path: Path) -> Iterator[tuple[ImageRegistry, str]]:
    """Where pods reach it, at the node's own address; with the digest of the image in it."""
    host = node_address(e2e_env)
    root = tmp_path / "registry"
    with ImageRegistry(root, address=host).running() as opened:
        digest = opened.push_image("team/tiny", layers)
    (root / "htpasswd").write_text(HTPASSWD)
    auth = {"auth": {"htpasswd": {"realm": "Registry of the tests", "path": str(root / "htpasswd")}}}
    with ImageRegistry(root, auth, address=host).running() as closed:
        yield closed, digest


@pytest.fixture
def deploy(e2e_env: LocalCluster, namespace: str, tmp_path: Path) -> MakeDeployment:
    """Serve a model other than that of examples/tiny.yaml. The claim model-cache exists."""

    def make(name: str = "image", plain: str = "", spec: dict[str, Any] | None = None, **model: Any) -> Flash:
        variable = {"name": "FLASH_REGISTRY_PLAIN_HTTP", "value": plain}
        of_pods = (spec or {}).get("podTemplate", {}).get("spec", {})
        pods = {**of_pods, "initContainers": [{"name": "fetch", "env": [variable]}]} if plain else of_pods
        return serve(e2e_env, namespace, name, model, **{**(spec or {}), "podTemplate": {"spec": pods}})

    cache_claim(e2e_env, namespace, tmp_path / "cache", "model-cache")
    return make


def a_pull_secret(namespace: str, host: str, password: str) -> dict[str, Any]:
    auth = base64.b64encode(f"{USER}:{password}".encode()).decode()
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "kubernetes.io/dockerconfigjson",
        "metadata": {"name": "pull", "namespace": namespace},
        "stringData": {".dockerconfigjson": json.dumps({"auths": {host: {"auth": auth}}})},
    }


def test_an_image_is_pulled_by_its_pod_serves_and_is_kept_for_the_next_one(
    e2e_env: LocalCluster, registry: tuple[ImageRegistry, str], deploy: MakeDeployment, namespace: str, tmp_path: Path
) -> None:
    served, digest = registry
    apply(e2e_env, a_pull_secret(namespace, served.host, PASSWORD))
    flash = deploy(
        source=f"oci://{served.host}/team/tiny@{digest}",
        ociDelivery="Fetch",
        credentialsSecret="pull",
        cache={"type": "Claim", "claimName": "model-cache"},
        plain=served.host,
    )
    flash.wait_for("Ready", "True", "Passed", seconds=START_SECONDS)
    message = download_status(flash)
    assert (message["phase"], message["commit"], message.get("warning")) == ("Complete", digest, None)
    folders = list((tmp_path / "cache" / "hub").glob("*/sha256:*/model.safetensors"))
    assert len(folders) == 1
    assert not list((tmp_path / "cache" / "hub").rglob(".flash-layers")), "no layer is left beside what it came to"

    first = flash.pod()["metadata"]
    e2e_env.kubectl("delete", "pod", first["name"], "-n", namespace)
    wait_until(
        lambda: [pod for pod in flash.pods() if pod["metadata"]["uid"] != first["uid"]], "another pod", seconds=120
    )
    flash.wait_for("Ready", "True", "Passed", seconds=START_SECONDS)
    wait_until(
        lambda: download_status(flash).get("phase") == "Complete", "the next pod's model is in the status", seconds=60
    )


def test_a_wrong_password_is_reported_and_corrected_by_another_secret(
    e2e_env: LocalCluster, registry: tuple[ImageRegistry, str], deploy: MakeDeployment, namespace: str
) -> None:
    served, _ = registry
    apply(e2e_env, a_pull_secret(namespace, served.host, "wrong"), engine_stub_program(namespace))
    source = f"oci://{served.host}/team/tiny:1"
    flash = deploy(source=source, ociDelivery="Fetch", credentialsSecret="pull", plain=served.host, spec=stub_spec())
    found = flash.wait_for("Ready", "False", "ModelUnavailable", seconds=120)
    assert f"denies {USER} access to {served.host}/team/tiny" in found["message"]
    assert PASSWORD not in found["message"]

    apply(e2e_env, a_pull_secret(namespace, served.host, PASSWORD))
    flash.wait_for("Ready", "True", "Passed", seconds=START_SECONDS)
    assert "1 is a tag" in download_status(flash)["warning"]


def test_where_the_cluster_has_image_volumes_the_kubelet_mounts_the_image(
    e2e_env: LocalCluster, layers: list[bytes], deploy: MakeDeployment, tmp_path: Path
) -> None:
    """`Auto` chooses this because a dry run showed support for it. The image is in the node's store already."""
    manifest, blobs = image_of(layers)
    folder = tmp_path / "blobs"
    folder.mkdir()
    content = json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, **manifest})
    (folder / "manifest.json").write_text(content)
    for described, blob in zip([manifest["config"], *manifest["layers"]], blobs, strict=True):
        (folder / described["digest"].removeprefix("sha256:")).write_bytes(blob)
    write_oci_archive(folder, MOUNTED, tmp_path / "image.tar")
    e2e_env.import_image(tmp_path / "image.tar")

    flash = deploy(source=f"oci://{MOUNTED}")
    flash.wait_for("Ready", "True", "Passed", seconds=START_SECONDS)
    spec = flash.pod()["spec"]
    assert [volume["image"]["reference"] for volume in spec["volumes"] if "image" in volume] == [MOUNTED]
    assert [container["name"] for container in spec["initContainers"]] == ["gate"]
