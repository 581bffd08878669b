"""The labeller's rounds on a real API server: its patches, its events, and others who write on the same node."""

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
from flash_node.labeller.loop import Rounds

pytestmark = pytest.mark.apiserver

P = "deepseekflash.dev/"
THEIRS = {
    "nvidia.com/gpu.product": "NVIDIA-RTX-PRO-6000-Blackwell-Workstation-Edition",
    "feature.node.kubernetes.io/cpu-model.vendor_id": "AMD",
}
LABELLERS, LOOKS = 4, 5


class Site:
    """A node as GPU Feature Discovery and Node Feature Discovery leave it."""

    def __init__(self, server: ControlPlane) -> None:
        self._server = server
        self.name = f"gpu-{uuid.uuid4().hex[:6]}"
        self.make()

    def make(self) -> None:
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": self.name, "labels": THEIRS}}
        self._server.kubectl("create", "-f", "-", stdin=json.dumps(node))

    def client(self) -> NodeClient:
        # Where KUBECONFIG points the client asks only once, when it is imported.
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


def test_labels_come_beside_those_of_others_and_a_second_round_writes_nothing(site: Site, pair: NodeDump) -> None:
    rounds = Rounds(site.client(), always(pair))
    assert rounds.look() is True
    assert site.labels == assess(pair).labels
    assert THEIRS.items() <= site.metadata["labels"].items()
    version = site.metadata["resourceVersion"]
    assert rounds.look() is True
    assert site.metadata["resourceVersion"] == version


def test_labellers_at_once_end_with_the_labels_of_any_of_them(site: Site, pair: NodeDump) -> None:
    begin = threading.Barrier(LABELLERS)

    def label() -> None:
        rounds = Rounds(site.client(), always(pair))
        begin.wait()
        for _ in range(LOOKS):
            # What another labeller with another reading may have left.
            site.kubectl("label", "node", site.name, f"{P}gpu-link=sys", "--overwrite")
            rounds.look()

    labellers = [threading.Thread(target=label) for _ in range(LABELLERS)]
    for labeller in labellers:
        labeller.start()
    for labeller in labellers:
        labeller.join()
    assert Rounds(site.client(), always(pair)).look() is True
    assert site.labels == assess(pair).labels


def test_a_verdict_that_comes_between_a_labellers_look_and_its_patch_is_kept(site: Site, pair: NodeDump) -> None:
    tested = {"gpu-p2p": "hang", "gpu-p2p-driver": str(pair.driver), "gpu-p2p-probe": "engine"}

    class Overtaken:
        """The labeller's client, and an operator that is faster once."""

        def __init__(self) -> None:
            self._client = site.client()
            self.read, self.tell = self._client.read, self._client.tell
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
    assert Rounds(client, always(pair)).look() is True
    assert client.conflicts == 1
    assert site.labels == {**assess(pair).labels, **tested}


def test_a_driver_version_that_no_label_may_hold_is_told_and_refused_by_nobody(site: Site, pair: NodeDump) -> None:
    version = "9" * 64
    rounds = Rounds(site.client(), always(pair.model_copy(update={"driver": version})))
    assert rounds.look() is True
    assert site.labels["gpu-driver"] == "unknown"
    assert site.notes == [f"driver version '{version}' is no label value"]


def test_a_fault_is_one_event_however_many_labellers_tell_of_it(site: Site, tmp_path: Path) -> None:
    lost = read_machine("card-off-the-bus", tmp_path)
    for _ in range(2):
        assert Rounds(site.client(), always(lost), again_seconds=0.0).look() is True
    assert site.notes == ["GPU 1: GPU is lost"]
    assert (site.labels["gpu-link"], site.labels["gpu-p2p"]) == ("unknown", "unknown")


def test_a_node_that_goes_is_waited_for_and_labelled_when_it_comes_back(site: Site, pair: NodeDump) -> None:
    rounds = Rounds(site.client(), always(pair))
    site.kubectl("delete", "node", site.name)
    assert rounds.look() is False
    site.make()
    assert rounds.look() is True
    assert site.labels == assess(pair).labels
