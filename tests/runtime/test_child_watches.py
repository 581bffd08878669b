"""Our own watches of children and pods: what they do for each answer that a watch or list can get."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from builders import a_flash_object, a_pod
from flash_contracts.names import DEPLOYMENT_LABEL, PLURAL
from flash_operator.runtime import child_watches
from flash_operator.runtime.child_watches import ChildWatches
from flash_operator.runtime.cluster import Cluster
from flash_operator.runtime.keys import FlashKey, Key
from flash_operator.runtime.metrics import Metrics
from flash_operator.runtime.resync import Resync
from flash_operator.runtime.store import MOST_BYTES_OF_DEPLOYMENT, OURS, Store
from flash_operator.runtime.watches import Watches
from flash_operator.runtime.workqueue import WorkQueue
from scripted_api_stub import ScriptedApiStub, kubeconfig
from waiting import eventually_async

LABELS = {**OURS, DEPLOYMENT_LABEL: "flash"}
KEY = FlashKey("team", "flash")


class Following:
    """Child watches on the stub."""

    def __init__(self, stub: ScriptedApiStub, cluster: Cluster) -> None:
        self.stub = stub
        self.cluster = cluster
        self.queue: WorkQueue[Key] = WorkQueue()
        self.store = Store()
        self.resync = Resync(self.store, self.queue, cluster, Metrics())
        watches = Watches(self.store, self.queue)
        self._children = ChildWatches(self.store, cluster, self.resync, watches.on_child)
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self._tasks = [asyncio.create_task(loop) for loop in (self._children.run(), self.resync.run(3600))]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def pods(self) -> list[str]:
        return [raw["metadata"]["name"] for raw in self.store.of(KEY, "Pod")]

    async def watches_pods(self, times: int = 1) -> None:
        await until(lambda: self.stub.asked["watch pods"] >= times)


async def until(look: Callable[[], bool]) -> None:
    await eventually_async(look, "what the test waits for", seconds=20, pause=0.01)


@pytest.fixture
async def following(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Following]:
    monkeypatch.setattr(child_watches, "FIRST_PAUSE_SECONDS", 0.02)
    monkeypatch.setattr(child_watches, "FORBIDDEN_SECONDS", 0.05)
    monkeypatch.setattr("flash_operator.runtime.resync.RETRY_SECONDS", 0.05)
    stub = ScriptedApiStub()
    stub.put(PLURAL, a_flash_object())
    async with stub.serve() as address:
        file = tmp_path / "kubeconfig"
        file.write_text(kubeconfig(address))
        monkeypatch.setenv("KUBECONFIG", str(file))
        monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
        cluster = await Cluster.connect()
        made = Following(stub, cluster)
        yield made
        await made.stop()
        await cluster.close()


def pod(name: str, **more: Any) -> dict[str, Any]:
    raw = a_pod(name, **more)
    raw["metadata"]["labels"] = LABELS
    return raw


async def test_a_watch_goes_on_from_the_last_version_that_it_saw(following: Following) -> None:
    following.start()
    await following.watches_pods()
    following.stub.put("pods", pod("a"))
    await until(lambda: following.pods() == ["a"])
    seen = following.stub.objects["pods"]["team/a"]["metadata"]["resourceVersion"]
    following.stub.end_watches()
    await following.watches_pods(2)
    assert following.stub.versions[1] == seen
    assert following.stub.asked["list pods"] == 1


GARBAGE = {
    "a page": b"<html>a proxy</html>\n",
    "half a line": b'{"type": "ADDED", "object"\n',
    "a list": b"[]\n",
    "no event": b'{"a": 1}\n',
    "no object": b'{"type": "ADDED", "object": []}\n',
    "no name": b'{"type": "ADDED", "object": {"metadata": {"resourceVersion": "7"}}}\n',
    "an endless line": b'{"a": "' + b"x" * (5 << 20),
}


@pytest.mark.parametrize("line", GARBAGE.values(), ids=GARBAGE)
async def test_after_garbage_a_whole_list_takes_the_place_of_the_watch(following: Following, line: bytes) -> None:
    following.start()
    await following.watches_pods()
    following.stub.objects["pods"]["team/a"] = pod("a")
    following.stub.notify("pods", {"raw": line})
    await until(lambda: following.pods() == ["a"])
    await following.watches_pods(2)
    assert following.stub.asked["list pods"] == 2


async def test_after_a_410_a_whole_list_finds_what_vanished(following: Following) -> None:
    following.stub.put("pods", pod("ghost"))
    following.start()
    await following.watches_pods()
    assert following.pods() == ["ghost"]
    following.stub.lose("pods", "ghost")
    following.stub.gone("pods")
    await until(lambda: following.pods() == [])
    await following.watches_pods(2)


@pytest.mark.parametrize("status", [401, 429, 500, 503])
async def test_any_other_answer_is_waited_out(following: Following, status: int) -> None:
    following.start()
    await following.watches_pods()
    following.stub.status = status
    with capture_logs() as logged:
        following.stub.end_watches()
        await until(lambda: any(str(status) in line["error"] for line in logged if line.get("kind") == "Pod"))
    assert {line["event"] for line in logged} == {"watch ended"}
    following.stub.put("pods", pod("a"))
    following.stub.status = 200
    await until(lambda: following.pods() == ["a"])


async def test_a_role_without_the_verb_watch_is_told_in_one_sentence_and_lists_take_its_place(
    following: Following,
) -> None:
    """An image that was upgraded without its chart: the former role has no `watch` for this kind."""
    following.stub.forbidden = {"watch configmaps"}
    with capture_logs() as logged:
        following.start()
        await until(lambda: following.stub.asked["watch configmaps"] > 2)
    (line,) = [line for line in logged if line["event"] == "not allowed to watch"]
    assert (line["log_level"], line["kind"]) == ("error", "ConfigMap")
    assert "upgrade the chart together with the image" in line["remedy"]
    assert "cannot watch configmaps" in line["error"]

    following.stub.objects["configmaps"]["team/x"] = {
        "kind": "ConfigMap",
        "metadata": {"name": "x", "namespace": "team", "labels": LABELS, "resourceVersion": "5000"},
    }
    await following.resync.load()
    assert len(following.store.of(KEY, "ConfigMap")) == 1
    following.stub.put("pods", pod("a"))
    await until(lambda: following.pods() == ["a"])

    with capture_logs() as logged:
        following.stub.forbidden = set()
        await until(lambda: following.stub.asked["watch configmaps"] > 3)
        following.stub.put("configmaps", following.stub.objects["configmaps"]["team/x"])
        await until(lambda: any(line["event"] == "watching again" for line in logged))


async def test_a_role_without_the_verb_list_starts_nothing_and_is_told(following: Following) -> None:
    """Nothing can be decided: what is missing in memory may exist. It goes on once the role has the verb."""
    following.stub.forbidden = {"list controllerrevisions"}
    with capture_logs() as logged:
        following.start()
        await until(lambda: following.stub.asked["list controllerrevisions"] > 1)
    line = next(line for line in logged if line["event"] == "not allowed to list")
    assert (line["log_level"], line["kind"]) == ("error", "ControllerRevision")
    assert "upgrade the chart together with the image" in line["remedy"]
    assert (following.resync.loaded.is_set(), following.stub.asked["watch pods"]) == (False, 0)
    following.stub.forbidden = set()
    await until(following.resync.loaded.is_set)


async def test_thousands_of_large_objects_are_never_in_memory_together(
    following: Following, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tenant's ConfigMaps with our labels, each as large as one may be: a page that is too large is not read."""
    monkeypatch.setattr("flash_operator.runtime.cluster.PAGE_BYTES", 1 << 20)
    for number in range(40):
        name = f"c-{number:02}"
        metadata = {"name": name, "namespace": "team", "labels": LABELS}
        following.stub.put("configmaps", {"kind": "ConfigMap", "metadata": metadata, "data": {"a": "x" * (100 << 10)}})
    following.start()
    await until(following.resync.loaded.is_set)
    assert following.stub.largest_page["configmaps"] < 1 << 20
    kept = following.store.of(KEY, "ConfigMap")
    assert 0 < len(kept) * (100 << 10) <= MOST_BYTES_OF_DEPLOYMENT
