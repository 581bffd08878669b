"""kopf as an informer: each test covers one of its pitfalls."""

import asyncio
import inspect
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import kopf
import pytest
from structlog.testing import capture_logs

import flash_operator
from builders import a_flash_object, a_node, a_pod
from flash_contracts.names import DEPLOYMENT_LABEL, KIND, PLURAL, RESTORE_LABEL
from flash_operator.runtime.child_watches import KINDS, ChildWatches
from flash_operator.runtime.cluster import RESOURCES, Cluster
from flash_operator.runtime.keys import FlashKey, Key, NodeKey
from flash_operator.runtime.metrics import Metrics
from flash_operator.runtime.resync import Resync
from flash_operator.runtime.store import OURS, Store
from flash_operator.runtime.watches import Watches, kopf_settings
from flash_operator.runtime.workqueue import WorkQueue
from scripted_api_stub import ScriptedApiStub, kubeconfig
from waiting import eventually_async

KEY = FlashKey("team", "flash")
OURS_SELECTOR = ",".join(f"{name}={value}" for name, value in OURS.items())


@pytest.fixture
def stub() -> ScriptedApiStub:
    return ScriptedApiStub()


class Informer:
    """Watches on the stub, and what they enqueued."""

    def __init__(self, store: Store, queue: WorkQueue[Key], relisted: list[str], running: "asyncio.Task[None]") -> None:
        self.store = store
        self.relisted = relisted
        """Kinds whose watch began anew."""
        self.queue = queue
        self.running = running
        self.worked: list[FlashKey] = []
        self.nodes: list[NodeKey] = []

    async def work(self) -> None:
        """A worker that only records keys."""
        while True:
            key = await self.queue.get()
            if isinstance(key, NodeKey):
                self.nodes.append(key)
            else:
                self.worked.append(key)
            await asyncio.sleep(0.01)
            self.queue.done(key)

    async def settle(self) -> None:
        """Waits until nothing was enqueued for a while."""
        seen = -1
        while seen != len(self.worked) + len(self.nodes):
            seen = len(self.worked) + len(self.nodes)
            await asyncio.sleep(0.3)


@asynccontextmanager
async def watching(
    stub: ScriptedApiStub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    settings: kopf.OperatorSettings | None = None,
) -> AsyncIterator[Informer]:
    async with stub.serve() as address:
        file = tmp_path / "kubeconfig"
        file.write_text(kubeconfig(address))
        monkeypatch.setenv("KUBECONFIG", str(file))
        monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
        queue: WorkQueue[Key] = WorkQueue()
        store = Store()
        relisted: list[str] = []
        watches = Watches(store, queue, relisted.append)
        cluster = await Cluster.connect()
        resync = Resync(store, queue, cluster, Metrics())
        children = ChildWatches(store, cluster, resync, watches.on_child)
        following = asyncio.create_task(children.run())
        loading = asyncio.create_task(resync.run(3600))
        stop, ready = asyncio.Event(), asyncio.Event()
        running = asyncio.create_task(
            kopf.operator(
                registry=watches.registry,
                settings=settings or kopf_settings(),
                standalone=True,
                clusterwide=True,
                stop_flag=stop,
                ready_flag=ready,
            )
        )
        informer = Informer(store, queue, relisted, running)
        working = asyncio.create_task(informer.work())
        try:
            yield informer
        finally:
            working.cancel()
            stop.set()
            stub.end_watches()
            following.cancel()
            loading.cancel()
            await asyncio.gather(running, working, following, loading, return_exceptions=True)
            await cluster.close()
            queue.close()


async def until(look: Callable[[], bool], seconds: float = 20) -> None:
    await eventually_async(look, "what the test waits for", seconds=seconds, pause=0.01)


def an_engine_pod(name: str = "flash-a") -> dict[str, Any]:
    pod = a_pod(name)
    pod["metadata"]["labels"] = {**OURS, DEPLOYMENT_LABEL: "flash"}
    return pod


async def test_a_pods_event_enqueues_its_deployment(
    stub: ScriptedApiStub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub.put(PLURAL, a_flash_object())
    async with watching(stub, tmp_path, monkeypatch) as informer:
        await until(lambda: stub.asked["watch pods"] > 0 and informer.worked == [KEY])
        stub.put("pods", an_engine_pod())
        await until(lambda: informer.worked == [KEY, KEY])
    assert informer.nodes == [], "it holds its GPUs"


@pytest.mark.parametrize(
    ("plural", "kind", "label"),
    [
        ("jobs", "Job", DEPLOYMENT_LABEL),
        ("pods", "Pod", RESTORE_LABEL),
        ("services", "Service", DEPLOYMENT_LABEL),
        ("configmaps", "ConfigMap", DEPLOYMENT_LABEL),
        ("controllerrevisions", "ControllerRevision", DEPLOYMENT_LABEL),
        ("poddisruptionbudgets", "PodDisruptionBudget", DEPLOYMENT_LABEL),
    ],
)
async def test_a_child_and_the_pod_of_a_restoring_job_enqueue_their_deployment(
    plural: str, kind: str, label: str, stub: ScriptedApiStub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub.put(PLURAL, a_flash_object())
    async with watching(stub, tmp_path, monkeypatch) as informer:
        await until(lambda: stub.asked[f"watch {plural}"] > 0 and informer.worked == [KEY])
        labels = {**OURS, label: "flash"}
        stub.put(plural, {"kind": kind, "metadata": {"name": "x", "namespace": "team", "labels": labels}})
        await until(lambda: informer.worked == [KEY, KEY])
    assert informer.nodes == []


@pytest.mark.parametrize("labels", [{}, {DEPLOYMENT_LABEL: "other"}])
async def test_a_pod_whose_label_is_changed_enqueues_the_deployment_that_it_is_taken_from(
    labels: dict[str, str],
) -> None:
    store, queue, pod = Store(), WorkQueue[Key](), a_pod()
    for name in ("flash", "other"):
        store.put(a_flash_object(name))
    watches = Watches(store, queue)
    for version, own in enumerate(({DEPLOYMENT_LABEL: "flash"}, labels), start=1):
        pod["metadata"] |= {"labels": {**OURS, **own}, "resourceVersion": str(version)}
        watches.on_child("MODIFIED", pod)
    assert store.of(KEY, "Pod") == []
    others = [FlashKey("team", name) for name in labels.values()]
    assert sorted([await queue.get() for _ in range(len(queue))]) == sorted([KEY, *others])


async def test_a_pod_that_releases_its_gpus_enqueues_its_node(
    stub: ScriptedApiStub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub.put(PLURAL, a_flash_object())
    stub.put("pods", an_engine_pod())
    async with watching(stub, tmp_path, monkeypatch) as informer:
        await until(lambda: informer.worked == [KEY] and stub.asked["watch pods"] > 0)
        assert informer.nodes == []
        stub.remove("pods", "flash-a")
        await until(lambda: informer.nodes == [NodeKey("node-1")])


async def test_thousands_of_events_of_one_deployment_are_a_handful_of_reconciles(
    stub: ScriptedApiStub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub.put(PLURAL, a_flash_object())
    async with watching(stub, tmp_path, monkeypatch) as informer:
        await until(lambda: stub.asked["watch pods"] > 0)
        for _ in range(2000):
            stub.put("pods", an_engine_pod())
        await until(lambda: len(informer.worked) > 0)
        await informer.settle()
    assert len(informer.worked) < 400


def a_pod_of(flash: str, node: str | None) -> dict[str, Any]:
    pod = a_pod(f"{flash}-a", node=node)
    pod["metadata"]["labels"] = {**OURS, DEPLOYMENT_LABEL: flash}
    return pod


async def test_a_node_enqueues_the_deployments_with_pods_there_or_pods_that_wait_but_not_for_a_heartbeat(
    stub: ScriptedApiStub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, node in (("here", "node-1"), ("waits", None), ("elsewhere", "node-2")):
        stub.put(PLURAL, a_flash_object(name))
        stub.put("pods", a_pod_of(name, node))
    stub.put("nodes", a_node())
    async with watching(stub, tmp_path, monkeypatch) as informer:
        await until(lambda: stub.asked["watch nodes"] > 0 and len({key.name for key in informer.worked}) == 3)
        await informer.settle()
        assert informer.nodes == [NodeKey("node-1")], "a node with GPUs may want its links tested"
        informer.worked.clear()
        for beat in range(100):
            beating = a_node()
            beating["status"]["conditions"] = [{"type": "Ready", "lastHeartbeatTime": str(beat)}]
            stub.put("nodes", beating)
        await informer.settle()
        assert (informer.worked, len(informer.nodes)) == ([], 1)

        stub.put("nodes", a_node(gpu_link="phb", gpu_p2p="verified"))
        await until(lambda: len(informer.worked) == 2)
        await informer.settle()
        assert {key.name for key in informer.worked} == {"here", "waits"}


async def test_a_label_that_means_nothing_is_logged_once_with_its_node_and_its_value() -> None:
    watches = Watches(Store(), WorkQueue())
    mistyped: Any = a_node(gpu_link="pbh", gpu_p2p="x" * 63)
    with capture_logs() as message:
        for _ in range(2):
            await watches.on_node({"type": "MODIFIED", "object": mistyped})
    assert [(line["event"], line["node"]) for line in message] == [("label not understood", "node-1")] * 2
    assert ["'pbh'" in message[0]["label"], "xxx" in message[1]["label"]] == [True, True]


async def test_a_410_asks_for_a_whole_list(
    stub: ScriptedApiStub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a 410 kopf lists again and reports only existing objects: deleted ones would stay in the store."""
    stub.put(PLURAL, a_flash_object("ghost"))
    stub.put(PLURAL, a_flash_object("flash"))
    async with watching(stub, tmp_path, monkeypatch) as informer:
        await until(lambda: {key.name for key in informer.worked} == {"ghost", "flash"})
        await until(lambda: stub.asked[f"watch {PLURAL}"] > 0)
        await informer.settle()
        informer.relisted.clear()
        stub.lose(PLURAL, "ghost")
        stub.gone(PLURAL)
        await until(lambda: KIND in informer.relisted)
        assert informer.store.get(KIND, "ghost", "team") is not None, "kopf reports it now: is the list still needed?"


async def test_a_deleted_deployment_is_forgotten(
    stub: ScriptedApiStub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub.put(PLURAL, a_flash_object())
    async with watching(stub, tmp_path, monkeypatch) as informer:
        await until(lambda: informer.worked == [KEY] and stub.asked[f"watch {PLURAL}"] > 0)
        stub.remove(PLURAL, "flash")
        await until(lambda: informer.worked == [KEY, KEY])
        assert informer.store.get(KIND, "flash", "team") is None
        stub.put("nodes", a_node(gpu_link="sys"))
        await informer.settle()
    assert informer.worked == [KEY, KEY]


async def test_of_children_and_pods_only_our_own_are_watched(
    stub: ScriptedApiStub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cluster has thousands of others, and every change of them would be sent."""
    watched = [RESOURCES[kind].plural for kind in KINDS]
    async with watching(stub, tmp_path, monkeypatch):
        await until(lambda: all(stub.asked[f"watch {plural}"] for plural in watched))
    assert {plural: stub.selectors[plural] for plural in watched} == {key: {OURS_SELECTOR} for key in watched}


async def test_watching_writes_nothing(stub: ScriptedApiStub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """kopf writes no finalizer, annotation or event of its own, so deleting a CR never waits for a dead operator."""
    stub.put(PLURAL, a_flash_object())
    async with watching(stub, tmp_path, monkeypatch) as informer:
        await until(lambda: informer.worked == [KEY])
        stub.put(PLURAL, a_flash_object(generation=2))
        await until(lambda: len(informer.worked) > 1)
        await informer.settle()
    assert stub.writes == []


async def test_a_permanent_watch_failure_ends_the_process(
    stub: ScriptedApiStub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process exits and is restarted. An operator that runs without its watches would be worse."""
    settings = kopf_settings()
    settings.networking.error_backoffs = ()
    stub.status = 500
    # All four watches fail, and kopf raises the first failure only; asyncio would print the others at exit.
    asyncio.get_running_loop().set_exception_handler(lambda _loop, _context: None)
    async with watching(stub, tmp_path, monkeypatch, settings) as informer:
        await until(informer.running.done)
        assert informer.running.exception() is not None


async def test_throttling_does_not_end_the_watching(
    stub: ScriptedApiStub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = kopf_settings()
    settings.networking.error_backoffs = (0.05,)
    async with watching(stub, tmp_path, monkeypatch, settings) as informer:
        await until(lambda: stub.asked[f"watch {PLURAL}"] > 0)
        stub.status = 429
        stub.gone(PLURAL)
        await until(lambda: stub.asked[f"list {PLURAL}"] > 3)
        assert not informer.running.done()
        stub.status = 200
        stub.put(PLURAL, a_flash_object())
        await until(lambda: KEY in informer.worked, seconds=40)


FORBIDDEN = {"create", "update", "delete", "field", "resume", "timer", "daemon", "index", "validate", "mutate", "adopt"}


def test_no_stateful_kopf_handler_is_registered() -> None:
    """on.create and the like write annotations, daemons and timers write finalizers, indexes keep deleted objects."""
    used: set[str] = set()
    for path in Path(inspect.getfile(flash_operator)).parent.rglob("*.py"):
        used |= set(
            re.findall(r"kopf\.(?:on\.)?(event|login|startup|cleanup|" + "|".join(FORBIDDEN) + r")\b", path.read_text())
        )
    assert used == {"event", "login", "startup", "cleanup"}


@pytest.mark.parametrize(
    ("setting", "wanted"),
    [
        ("scanning.disabled", True),
        ("posting.enabled", False),
        ("peering.standalone", True),
        ("watching.server_timeout", 300),
        ("networking.request_timeout", 30),
        ("process.ultimate_exiting_timeout", 25),
    ],
)
def test_kopf_is_quiet_and_bounded(setting: str, wanted: object) -> None:
    section, _, name = setting.partition(".")
    assert getattr(getattr(kopf_settings(), section), name) == wanted
