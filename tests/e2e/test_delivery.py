"""A model from a hub on a real cluster: downloaded by its pod, shown in status, cached, or refused with a message.

The hub is a stub on the node, which is this machine. Everything else is real: the kubelet with its init containers and
Secrets, the operator, flash-fetch in the engine image, the gate, and vLLM in the first test. The cache is a claim for a
folder on the node.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster_fixtures import LocalCluster
from e2e_env import Flash, apply, wait_until
from engine_stubs import engine_stub_program, stub_spec
from fetched_models import START_SECONDS, cache_claim, download_status, node_address, serve
from hub_stub import COMMIT, HubStub, in_a_thread

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

TOKEN = "hf_notarealtokenbutlongenough00000"  # noqa: S105 - of the stub

MakeFetched = Callable[..., Flash]


@pytest.fixture
def hub(e2e_env: LocalCluster, models: Path) -> Iterator[tuple[HubStub, str]]:
    """The address at which pods reach it: the node's own."""
    stub = HubStub(models / "good")
    with in_a_thread(stub, node_address(e2e_env)) as endpoint:
        yield stub, endpoint


@pytest.fixture
def fetched(e2e_env: LocalCluster, namespace: str, hub: tuple[HubStub, str], tmp_path: Path) -> MakeFetched:
    """Serve a model from the hub, fetched into a claim that pods of user 65532 may write."""
    _, endpoint = hub

    def make(name: str = "fetched", spec: dict[str, Any] | None = None, **model: Any) -> Flash:
        cache = {"type": "Claim", "claimName": "hub-cache"}
        of_the_hub = {"source": "hf://owner/model", "revision": COMMIT, "hubEndpoint": endpoint, "cache": cache}
        return serve(e2e_env, namespace, name, {**of_the_hub, **model}, **(spec or {}))

    cache_claim(e2e_env, namespace, tmp_path / "cache", "hub-cache")
    return make


def test_a_model_is_fetched_with_progress_serves_and_is_kept_for_the_next_pod(
    e2e_env: LocalCluster, hub: tuple[HubStub, str], fetched: MakeFetched, namespace: str, tmp_path: Path
) -> None:
    stub, _ = hub
    stub.bytes_per_second = max(stub.total // 15, 1)
    secret = {"apiVersion": "v1", "kind": "Secret", "stringData": {"token": TOKEN}}
    apply(e2e_env, {**secret, "metadata": {"name": "hub-token", "namespace": namespace}})
    flash = fetched(credentialsSecret="hub-token")

    coming = wait_until(
        lambda: download_status(flash) if download_status(flash).get("phase") == "Downloading" else None,
        "the download is in the status", seconds=120, pause=0.2,
    )  # fmt: skip
    assert coming["totalBytes"] == stub.total
    assert "fetching" in flash.condition("Ready")["message"]
    flash.wait_for("Ready", "True", "Passed", seconds=START_SECONDS)

    assert (download_status(flash)["phase"], download_status(flash)["commit"]) == ("Complete", COMMIT)
    assert stub.tokens == {f"Bearer {TOKEN}"}
    fetched_bytes = stub.sent.total()
    assert fetched_bytes == stub.total
    slots = list((tmp_path / "cache" / "jit").glob("*/0"))
    assert len(slots) == 1, "what the engine compiles goes to the claim"

    first = flash.pod()["metadata"]
    e2e_env.kubectl("delete", "pod", first["name"], "-n", namespace)
    wait_until(
        lambda: [pod for pod in flash.pods() if pod["metadata"]["uid"] != first["uid"]], "another pod", seconds=120
    )
    flash.wait_for("Ready", "True", "Passed", seconds=START_SECONDS)
    assert stub.sent.total() == fetched_bytes, "the next pod found it in the cache"


def test_a_hub_that_denies_access_is_reported_and_tried_again(
    e2e_env: LocalCluster, hub: tuple[HubStub, str], fetched: MakeFetched, namespace: str
) -> None:
    stub, _ = hub
    stub.refuse = (403, "GatedRepo")
    apply(e2e_env, engine_stub_program(namespace))
    flash = fetched(spec=stub_spec())

    found = flash.wait_for("Ready", "False", "ModelUnavailable", seconds=120)
    assert "this token's owner has not accepted its terms" in found["message"]
    assert "model.credentialsSecret" in found["message"]
    assert flash.condition("Progressing")["status"] == "False"

    stub.refuse = None
    flash.wait_for("Ready", "True", "Passed", seconds=START_SECONDS)


def test_a_file_that_is_not_what_the_hub_lists_is_never_served(hub: tuple[HubStub, str], fetched: MakeFetched) -> None:
    stub, _ = hub
    (shard,) = [path.name for path in stub.folder.glob("*.safetensors")]
    stub.corrupt[shard] = 1000
    flash = fetched()

    found = flash.wait_for("Ready", "False", "ModelUnavailable", seconds=120)
    assert shard in found["message"]
    assert "expected SHA-256" in found["message"]


def test_a_missing_secret_is_reported_with_the_command_that_creates_it(fetched: MakeFetched) -> None:
    flash = fetched(credentialsSecret="forgotten")

    found = flash.wait_for("Ready", "False", "ModelUnavailable", seconds=120)
    assert "kubectl create secret generic forgotten" in found["message"]


def test_an_unwritable_folder_is_reported_with_the_command_that_creates_it(
    fetched: MakeFetched, tmp_path: Path
) -> None:
    os.chown(tmp_path / "cache", 0, 0)
    flash = fetched()

    found = flash.wait_for("Ready", "False", "ModelUnavailable", seconds=120)
    assert "user 65532 cannot write to the claim hub-cache" in found["message"]
