"""Events on a real API server: repeated events are counted, and a rejected event does not stop the reconcile."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest

from cluster_fixtures import ControlPlane
from flash_operator.core.plan import ObjectRef
from flash_operator.core.status.events import EventSpec
from flash_operator.runtime.cluster import Cluster
from flash_operator.runtime.events import EventRecorder, node_event

pytestmark = pytest.mark.apiserver

NODE = {"metadata": {"name": "node-a"}}
READY = EventSpec("Normal", "PeerToPeerVerified", "gpu-p2p=verified", "P2pTest")


@pytest.fixture
async def cluster(api_server: ControlPlane, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Cluster]:
    monkeypatch.setenv("KUBECONFIG", str(api_server.kubeconfig))
    connected = await Cluster.connect()
    yield connected
    for event in await connected.list("Event", "default"):
        await connected.delete(ObjectRef("Event", "default", event["metadata"]["name"]))
    await connected.close()


def at(minute: int) -> datetime:
    return datetime(2026, 11, 24, 12, minute, tzinfo=UTC)


async def events(cluster: Cluster) -> list[dict[str, Any]]:
    return [e for e in await cluster.list("Event", "default") if e["regarding"].get("name") == "node-a"]


async def test_a_repeated_event_is_counted_whichever_operator_reports_it(cluster: Cluster) -> None:
    for minute, instance in ((0, "operator-a"), (1, "operator-a"), (2, "operator-b")):
        await EventRecorder(cluster).emit(node_event(NODE, READY, at(minute), instance))
    (event,) = await events(cluster)
    assert event["series"] == {"count": 3, "lastObservedTime": "2026-11-24T12:02:00.000000Z"}
    assert event["eventTime"] == "2026-11-24T12:00:00.000000Z"


async def test_a_different_message_is_another_event(cluster: Cluster) -> None:
    for note in ("gpu-p2p=verified", "gpu-p2p=hang"):
        await EventRecorder(cluster).emit(
            node_event(NODE, EventSpec("Normal", "A", note, "P2pTest"), at(0), "operator-a")
        )
    assert sorted(event["note"] for event in await events(cluster)) == ["gpu-p2p=hang.", "gpu-p2p=verified."]


async def test_a_rejected_event_is_not_a_failure(cluster: Cluster) -> None:
    await EventRecorder(cluster).emit(
        node_event(NODE, EventSpec("Normal", "A" * 2000, "words", "P2pTest"), at(0), "operator-a")
    )
    assert await events(cluster) == []
