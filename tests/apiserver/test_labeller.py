"""The labeller's loop on a real API server: its patches, its events, and other writers of the same node."""

import json
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kubernetes import config

from cluster_fixtures import ControlPlane
from fake_node.readings import read_machine
from flash_node.assessment import assess
from flash_node.dump import NodeDump
from flash_node.labeller.cluster import ConflictError, NodeClient
from flash_node.labeller.loop import LabelLoop

pytestmark = pytest.mark.apiserver

P = "deepseekflash.dev/"
THEIRS = {
    "nvidia.com/gpu.product": "NVIDIA-RTX-PRO-6000-Blackwell-Workstation-Edition",
    "feature.node.kubernetes.io/cpu-model.vendor_id": "AMD",
}
LABELLERS, ROUNDS = 4, 5


class Site:
    """A node with the labels of GPU Feature Discovery and Node Feature Discovery."""

    def __init__(self, server: ControlPlane) -> None:
        self._server = server
        self.name = f"gpu-{uuid.uuid4().hex[:6]}"
        self.make()

    def make(self) -> None:
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": self.name, "labels": THEIRS}}
        self._server.kubectl("create", "-f", "-", stdin=json.dumps(node))

    def client(self) -> NodeClient:
        # The client reads KUBECONFIG only once, when it is imported.
        api = config.new_client_from_config(str(self._server.kubeconfig))  # type: ignore[no-untyped-call]
        return NodeClient(self.name, api)

    def kubectl(self, *arguments: str) -> str:
        return self._server.kubectl(*arguments).stdout

    @property
    def metadata(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.kubectl("get", "node", self.name, "-o", "json"))["metadata"]
        return found

    @property
    def labels(self) -> dict[str, str]:
        """Ours, without their prefix."""
        return {k.removeprefix(P): value for k, value in self.metadata["labels"].items() if k.startswith(P)}

    @property
    def notes(self) -> list[str]:
        raw = json.loads(self.kubectl("get", "events.events.k8s.io", "-n", "default", "-o", "json"))
        return sorted(event["note"] for event in raw["items"] if event["regarding"].get("name") == self.name)


@pytest.fixture
def site(api_server: ControlPlane) -> Iterator[Site]:
    made = Site(api_server)
    yield made
    made.kubectl("delete", "node", made.name, "--ignore-not-found")


@pytest.fixture
def pair(tmp_path: Path) -> NodeDump:
    return read_machine("ws-pair-node", tmp_path)


def always(dump: NodeDump) -> Callable[[], NodeDump]:
    return lambda: dump


def test_labels_are_added_to_those_of_others_and_a_second_round_writes_nothing(site: Site, pair: NodeDump) -> None:
    loop = LabelLoop(site.client(), always(pair))
    assert loop.run_once() is True
    assert site.labels == assess(pair).labels
    assert THEIRS.items() <= site.metadata["labels"].items()
    version = site.metadata["resourceVersion"]
    assert loop.run_once() is True
    assert site.metadata["resourceVersion"] == version


def test_concurrent_labellers_end_with_the_same_labels(site: Site, pair: NodeDump) -> None:
    begin = threading.Barrier(LABELLERS)

    def label() -> None:
        loop = LabelLoop(site.client(), always(pair))
        begin.wait()
        for _ in range(ROUNDS):
            # What another labeller with another reading may have left.
            site.kubectl("label", "node", site.name, f"{P}gpu-link=sys", "--overwrite")
            loop.run_once()

    labellers = [threading.Thread(target=label) for _ in range(LABELLERS)]
    for labeller in labellers:
        labeller.start()
    for labeller in labellers:
        labeller.join()
    assert LabelLoop(site.client(), always(pair)).run_once() is True
    assert site.labels == assess(pair).labels


def test_a_verdict_written_between_a_labellers_read_and_its_patch_is_kept(site: Site, pair: NodeDump) -> None:
    tested = {"gpu-p2p": "hang", "gpu-p2p-driver": str(pair.driver), "gpu-p2p-tested-by": "engine"}

    class Overtaken:
        """The labeller's client, with an operator that writes first once."""

        def __init__(self) -> None:
            self._client = site.client()
            self.read, self.emit_event = self._client.read, self._client.emit_event
            self.conflicts = 0

        def patch(self, body: dict[str, Any]) -> None:
            if not self.conflicts:
                labels = [f"{P}{name}={value}" for name, value in tested.items()]
                site.kubectl("label", "node", site.name, *labels)
            try:
                self._client.patch(body)
            except ConflictError:
                self.conflicts += 1
                raise

    client = Overtaken()
    assert LabelLoop(client, always(pair)).run_once() is True
    assert client.conflicts == 1
    assert site.labels == {**assess(pair).labels, **tested}


def test_a_driver_version_that_is_not_a_label_value_gives_a_warning(site: Site, pair: NodeDump) -> None:
    version = "9" * 64
    loop = LabelLoop(site.client(), always(pair.model_copy(update={"driver": version})))
    assert loop.run_once() is True
    assert site.labels["gpu-driver"] == "unknown"
    assert site.notes == [f"driver version '{version}' is not a valid label value."]


def test_a_fault_reported_by_several_labellers_is_one_event(site: Site, tmp_path: Path) -> None:
    lost = read_machine("card-off-the-bus", tmp_path)
    for _ in range(2):
        assert LabelLoop(site.client(), always(lost), retry_seconds=0.0).run_once() is True
    assert len(site.notes) == 2
    assert "GPU 1: GPU is lost." in site.notes
    assert (site.labels["gpu-link"], site.labels["gpu-p2p"]) == ("unknown", "unknown")


def test_a_node_that_is_deleted_and_created_again_is_labelled(site: Site, pair: NodeDump) -> None:
    loop = LabelLoop(site.client(), always(pair))
    site.kubectl("delete", "node", site.name)
    assert loop.run_once() is False
    site.make()
    assert loop.run_once() is True
    assert site.labels == assess(pair).labels
