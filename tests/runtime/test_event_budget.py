"""The limit of events for one object, because a tenant's pod can cause any number of changes."""

from typing import Any, cast

from flash_operator.runtime.cluster import Cluster
from flash_operator.runtime.events import BURST, SECONDS_PER_EVENT, EventRecorder


class CountingCluster:
    """Counts the events that are written."""

    def __init__(self) -> None:
        self.written: list[str] = []

    async def record_event(self, event: dict[str, Any]) -> None:
        self.written.append(event["regarding"]["uid"])


def an_event(uid: str, number: int) -> dict[str, Any]:
    regarding = {"name": uid, "uid": uid}
    return {"reason": f"Reason{number}", "note": f"words {number}", "type": "Warning", "regarding": regarding}


async def test_a_deployment_that_flaps_has_an_event_budget_of_its_own() -> None:
    now, cluster = 0.0, CountingCluster()
    recorder = EventRecorder(cast("Cluster", cluster), clock=lambda: now)
    for number in range(1000):
        await recorder.emit(an_event("flapping", number))
    assert len(cluster.written) == BURST
    await recorder.emit(an_event("quiet", 0))
    assert cluster.written[-1] == "quiet"
    now += 3 * SECONDS_PER_EVENT
    for number in range(1000):
        await recorder.emit(an_event("flapping", number))
    assert cluster.written.count("flapping") == BURST + 3
