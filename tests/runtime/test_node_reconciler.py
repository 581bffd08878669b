"""The p2p test of a node on a real API server. There is no scheduler: the tests create and end the pods."""

import json
import re
import shlex
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from cluster_fixtures import ControlPlane
from flash_contracts.names import P2P_TEST_LABEL
from flash_operator.core.p2p_test.job import P2pTestSettings, p2p_test_name
from flash_operator.runtime.cluster import Cluster
from flash_operator.runtime.keys import NodeKey
from flash_operator.runtime.node_reconciler import NodeReconciler

pytestmark = pytest.mark.apiserver

PAGE = Path(__file__).resolve().parents[2] / "docs" / "topology.md"
PREFIX = "deepseekflash.dev/"
LABELS = {
    f"{PREFIX}gpu-link": "node",
    f"{PREFIX}gpu-p2p": "granted",
    f"{PREFIX}gpu-driver": "595.84",
    f"{PREFIX}gpu-cards": "3fa9c21b07",
}
HEALTHY = json.dumps({"version": 1, "verdict": "healthy", "reason": "all variants agree", "schema": "v1-abcdef"})


@dataclass
class Site:
    """One node with two GPUs, and the reconciler for it."""

    server: ControlPlane
    cluster: Cluster
    namespace: str
    node: str
    reconciler: NodeReconciler = field(init=False)

    def __post_init__(self) -> None:
        settings = P2pTestSettings(self.namespace, "registry.example/engine:1")
        self.reconciler = NodeReconciler(self.cluster, settings, "test")

    def kubectl(self, *args: str, stdin: str | None = None) -> str:
        return self.server.kubectl(*args, stdin=stdin).stdout

    def make_node(self) -> None:
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": self.node, "labels": LABELS}}
        self.kubectl("create", "-f", "-", stdin=json.dumps(node))
        gpus = {"status": {"allocatable": {"nvidia.com/gpu": "2"}}}
        self.kubectl("patch", "node", self.node, "--subresource=status", "--type=merge", "-p", json.dumps(gpus))

    def labels(self) -> dict[str, str]:
        raw = json.loads(self.kubectl("get", "node", self.node, "-o", "json"))
        return {key.removeprefix(PREFIX): value for key, value in raw["metadata"]["labels"].items()}

    def jobs(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.kubectl("get", "jobs", "-n", self.namespace, "-o", "json"))[
            "items"
        ]
        return found

    def make_pod(self, name: str, *, of_job: dict[str, Any] | None = None, node: str | None = None) -> None:
        owners = (
            [{"apiVersion": "batch/v1", "kind": "Job", "name": "j", "uid": of_job["metadata"]["uid"]}] if of_job else []
        )
        labels = {P2P_TEST_LABEL: p2p_test_name(self.node)} if of_job else {}
        container = {"name": "p2p-test", "image": "i", "resources": {"limits": {"nvidia.com/gpu": "2"}}}
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": self.namespace, "labels": labels, "ownerReferences": owners},
            "spec": {"containers": [container], **({"nodeName": node} if node else {})},
        }
        self.kubectl("create", "-f", "-", stdin=json.dumps(pod))

    def end_pod(self, name: str, message: str) -> None:
        ended = {"exitCode": 0, "message": message, "startedAt": None, "finishedAt": None}
        container = {"name": "p2p-test", "image": "i", "imageID": "", "ready": False, "restartCount": 0}
        status = {"phase": "Succeeded", "containerStatuses": [{**container, "state": {"terminated": ended}}]}
        patch = json.dumps({"status": status})
        self.kubectl("patch", "pod", name, "-n", self.namespace, "--subresource=status", "--type=merge", "-p", patch)

    def events(self) -> list[str]:
        raw = json.loads(self.kubectl("get", "events.events.k8s.io", "-n", "default", "-o", "json"))
        return [event["reason"] for event in raw["items"] if event["regarding"].get("name") == self.node]

    async def reconcile(self) -> float | None:
        return await self.reconciler.reconcile(NodeKey(self.node))


@pytest.fixture
async def site(api_server: ControlPlane, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    monkeypatch.setenv("KUBECONFIG", str(api_server.kubeconfig))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    unique = uuid.uuid4().hex[:6]
    api_server.kubectl("create", "namespace", f"p2p-tests-{unique}")
    # No controller creates it here, and pods are refused without it.
    api_server.kubectl("create", "serviceaccount", "default", "-n", f"p2p-tests-{unique}")
    cluster = await Cluster.connect()
    made = Site(api_server, cluster, f"p2p-tests-{unique}", f"gpu-{unique}.example")
    made.make_node()
    yield made
    # Nothing ends pods here, and a pod that waits for GPUs would disturb every other test.
    api_server.kubectl("delete", "pods", "--all", "-n", made.namespace, "--grace-period=0", "--force")
    api_server.kubectl("delete", "node", made.node, "--ignore-not-found")
    await cluster.close()


async def test_from_a_granted_pair_to_a_verdict_with_one_job_at_most(site: Site) -> None:
    assert await site.reconcile() == 2.0
    assert await site.reconcile() == 2.0
    (job,) = site.jobs()
    site.make_pod("p2p-test-pod", of_job=job, node=site.node)
    assert await site.reconcile() == 2.0, "its own pod holds the GPUs, and that is no reason to give up"
    site.end_pod("p2p-test-pod", HEALTHY)

    assert await site.reconcile() is None

    labels = site.labels()
    assert (labels["gpu-p2p"], labels["gpu-p2p-driver"], labels["gpu-p2p-tested-by"]) == (
        "verified",
        "595.84",
        "v1-abcdef",
    )
    assert labels["gpu-p2p-cards"] == "3fa9c21b07"
    assert labels["gpu-link"] == "node"
    assert site.jobs() == []
    assert site.events() == ["PeerToPeerVerified"]
    writes = site.cluster.writes
    assert await site.reconcile() is None
    assert site.cluster.writes == writes


async def test_the_command_of_the_documentation_shows_the_report_behind_a_verdict(site: Site) -> None:
    await site.reconcile()
    (job,) = site.jobs()
    site.make_pod("p2p-test-pod", of_job=job, node=site.node)
    site.end_pod("p2p-test-pod", HEALTHY)
    await site.reconcile()

    (command,) = re.findall(r"`kubectl (get node NODE .*gpu-p2p-report.*?)`", PAGE.read_text())

    assert site.kubectl(*shlex.split(command.replace("NODE", site.node))) == HEALTHY


async def test_a_waiting_engine_ends_the_p2p_test(site: Site) -> None:
    await site.reconcile()
    (job,) = site.jobs()
    site.make_pod("p2p-test-pod", of_job=job, node=site.node)
    site.make_pod("engine")

    await site.reconcile()

    assert site.jobs() == []
    assert site.events() == ["P2pTestCancelled"]
    assert site.labels()["gpu-p2p"] == "granted"
    await site.reconcile()
    assert site.jobs() == [], "no new test while the engine waits"


async def test_the_report_of_an_earlier_job_is_not_taken_for_that_of_this_one(site: Site) -> None:
    await site.reconcile()
    (job,) = site.jobs()
    earlier = {"metadata": {**job["metadata"], "uid": "another"}}
    site.make_pod("p2p-test-before", of_job=earlier, node=site.node)
    site.end_pod("p2p-test-before", HEALTHY)

    await site.reconcile()

    assert site.labels()["gpu-p2p"] == "granted"
    assert site.jobs()


async def test_a_node_deleted_during_its_test_takes_the_job_with_it(site: Site) -> None:
    await site.reconcile()
    site.kubectl("delete", "node", site.node)

    with capture_logs() as reported:
        assert await site.reconcile() is None

    assert site.jobs() == []
    assert [(line["node"], line["reason"]) for line in reported] == [(site.node, "node was deleted")]


async def test_a_p2p_test_with_an_invalid_schema_name_still_ends(site: Site) -> None:
    await site.reconcile()
    (job,) = site.jobs()
    site.make_pod("p2p-test-pod", of_job=job, node=site.node)
    site.end_pod("p2p-test-pod", json.dumps({**json.loads(HEALTHY), "schema": "v" * 64}))

    await site.reconcile()

    labels = site.labels()
    assert (labels["gpu-p2p"], labels["gpu-p2p-tested-by"]) == ("verified", "p2p-test")
    assert site.jobs() == []


async def test_no_node_is_tested_if_p2p_tests_are_off(site: Site) -> None:
    assert await NodeReconciler(site.cluster, None, "test").reconcile(NodeKey(site.node)) is None
    assert site.jobs() == []
