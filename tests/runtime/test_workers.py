"""The workers on a scripted API server: failures are retried, and a resync finds what watches lost."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import aiohttp
import pytest

from builders import SETTINGS, a_flash_object
from flash_contracts.names import DEPLOYMENT_LABEL, PLURAL
from flash_operator.runtime.cluster import Cluster
from flash_operator.runtime.gates import Gates
from flash_operator.runtime.keys import FlashKey, Key
from flash_operator.runtime.metrics import Metrics
from flash_operator.runtime.node_reconciler import NodeReconciler
from flash_operator.runtime.reconciler import Reconciler
from flash_operator.runtime.resync import Resync
from flash_operator.runtime.store import OURS, Store
from flash_operator.runtime.workers import Workers
from flash_operator.runtime.workqueue import WorkQueue
from runtime_site import LiveObserver
from scripted_api_stub import ScriptedApiStub, kubeconfig
from waiting import eventually_async

GONE = FlashKey("team", "gone")
LABELS = {**OURS, DEPLOYMENT_LABEL: "gone"}


class RunningWorkers:
    """Workers over the stub."""

    def __init__(self, stub: ScriptedApiStub, cluster: Cluster, session: aiohttp.ClientSession) -> None:
        self.stub = stub
        self.queue: WorkQueue[Key] = WorkQueue(jitter=lambda: 0.0)
        self.metrics = Metrics()
        self.store = Store()
        reconciler = Reconciler(cluster, LiveObserver(self.store, cluster, Gates(session), SETTINGS), "test")
        self.resync = Resync(self.store, self.queue, cluster, self.metrics)
        nodes = NodeReconciler(cluster, None, "test")
        self.workers = Workers(self.queue, reconciler, nodes, self.resync, self.metrics)

    def count(self, result: str) -> float:
        name = "flash_operator_reconcile_seconds_count"
        return self.metrics.registry.get_sample_value(name, {"kind": "Deployment", "result": result}) or 0


async def until(look: Callable[[], bool], seconds: float = 20) -> None:
    await eventually_async(look, "what the test waits for", seconds=seconds, pause=0.01)


@pytest.fixture
async def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[RunningWorkers]:
    stub = ScriptedApiStub()
    async with stub.serve() as address, aiohttp.ClientSession() as session:
        file = tmp_path / "kubeconfig"
        file.write_text(kubeconfig(address))
        monkeypatch.setenv("KUBECONFIG", str(file))
        monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
        api = await Cluster.connect()
        made = RunningWorkers(stub, api, session)
        yield made
        await made.workers.stop()
        await api.close()


async def test_a_failing_api_server_costs_a_retry_and_loses_nothing(running: RunningWorkers) -> None:
    running.workers.start(workers=2, resync_seconds=3600)
    await until(running.resync.loaded.is_set)
    running.stub.status = 503
    running.queue.add(GONE)
    await until(lambda: running.count("error") >= 2)
    assert running.queue.failures == 1

    running.stub.status = 200
    await until(lambda: running.count("success") >= 1)
    assert running.queue.failures == 0


async def test_a_spec_that_this_operator_cannot_read_does_not_end_the_worker(running: RunningWorkers) -> None:
    broken = a_flash_object("broken")
    broken["spec"] = {"model": 7}
    running.stub.put(PLURAL, broken)
    running.workers.start(workers=1, resync_seconds=3600)
    await until(lambda: running.count("error") >= 1)
    running.queue.add(GONE)
    await until(lambda: running.count("success") >= 1)
    assert running.queue.failures == 1, "only that deployment is tried again"


async def test_no_reconcile_runs_before_every_kind_is_loaded(
    running: RunningWorkers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An object missing from the store may exist: without its known template, a deployment would get a new one."""
    monkeypatch.setattr("flash_operator.runtime.resync.RETRY_SECONDS", 0.05)
    running.stub.status = 503
    running.queue.add(GONE)
    running.workers.start(workers=1, resync_seconds=3600)
    await until(lambda: running.stub.asked[f"list {PLURAL}"] > 2)
    assert (running.resync.loaded.is_set(), running.stub.asked["get gone"]) == (False, 0)
    running.stub.status = 200
    await until(lambda: running.count("success") >= 1)


async def test_a_resync_finds_changes_that_no_watch_reported(running: RunningWorkers) -> None:
    running.workers.start(workers=1, resync_seconds=0.05)
    await until(lambda: running.stub.asked[f"list {PLURAL}"] > 1)
    running.stub.put(PLURAL, a_flash_object("unheard-of"))
    await until(lambda: running.stub.asked["get unheard-of"] > 0)
    assert running.count("bug") == 0


async def test_a_list_after_a_lost_deletion_enqueues_whom_it_concerns(
    running: RunningWorkers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flash_operator.runtime.resync.RELIST_SECONDS", 0.0)
    service = {"kind": "Service", "metadata": {"name": "x", "namespace": "team", "labels": LABELS}}
    running.stub.put(PLURAL, a_flash_object("gone"))
    running.stub.put("services", service)
    running.workers.start(workers=1, resync_seconds=3600)
    await until(lambda: running.store.get("Service", "x", "team") is not None)
    await until(lambda: running.stub.asked["get gone"] > 0)
    running.stub.asked.clear()
    running.stub.lose("services", "x")
    running.resync.relist("Service")
    await until(lambda: running.stub.asked["get gone"] > 0)
    assert running.store.get("Service", "x", "team") is None


async def test_a_kind_that_was_just_listed_is_not_listed_again(running: RunningWorkers) -> None:
    """kopf lists every kind when it starts, and reports each object of it."""
    running.workers.start(workers=1, resync_seconds=3600)
    await until(running.resync.loaded.is_set)
    for _ in range(1000):
        running.resync.relist("Service")
    running.queue.add(GONE)
    await until(lambda: running.count("success") >= 1)
    assert running.stub.asked["list services"] == 2, "once at the start, and once for the deployment itself"


async def test_stopping_waits_for_a_reconcile_that_is_under_way(running: RunningWorkers) -> None:
    running.stub.answer_after = 0.5
    running.workers.start(workers=1, resync_seconds=3600)
    running.queue.add(GONE)
    await until(lambda: running.stub.asked["get gone"] > 0)
    await running.workers.stop()
    assert running.count("success") == 1


async def test_no_reconcile_begins_after_stop(running: RunningWorkers) -> None:
    running.stub.answer_after = 0.2
    for number in range(50):
        running.queue.add(FlashKey("team", f"gone-{number}"))
    running.workers.start(workers=2, resync_seconds=3600)
    await until(lambda: running.stub.asked["get gone-0"] > 0)
    await running.workers.stop()
    assert running.count("success") <= 4, "those that had begun, and no other"


async def test_a_key_that_was_triggered_during_its_work_is_not_begun_by_an_idle_worker_after_stop(
    running: RunningWorkers,
) -> None:
    """The lease may be lost by then, and another operator may be writing."""
    running.stub.answer_after = 0.3
    running.workers.start(workers=2, resync_seconds=3600)
    await until(running.resync.loaded.is_set)
    running.queue.add(GONE)
    await until(lambda: running.stub.asked["get gone"] > 0)
    running.queue.add(GONE)
    await running.workers.stop()
    assert (running.count("success"), running.stub.asked["get gone"]) == (1, 1)


async def test_a_worker_that_ends_is_reported(running: RunningWorkers, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_key: Key, _at_least: float = 0.0) -> float:
        raise OverflowError("no pause")

    monkeypatch.setattr(running.queue, "retry", broken)
    running.workers.start(workers=2, resync_seconds=3600)
    await until(running.resync.loaded.is_set)
    running.stub.status = 503
    running.queue.add(GONE)
    await until(running.workers.failed.is_set)
    assert isinstance(running.workers.failure, OverflowError)
