"""Users send requests through the Service all the time, and no request is lost, whatever happens to the replicas.

The Service, kube-proxy, kubelet, launcher, gate, flash-drain and the operator are real. The engines are stubs, because
a real one cannot be made slow or fast on demand. One test has real engines, and clients with keep-alive connections.
"""

import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest

from cluster_fixtures import LocalCluster
from direct_http import WITHOUT_PROXY
from e2e_env import Flash, apply, operator_pods, the_operator, wait_until
from engine_stubs import engine_stub_program, play, stub_spec, too_slow
from pod_processes import command_of, processes_of
from service_load import Client, Load

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]

MakeFlash = Callable[..., Flash]

REPLICAS = 3
LEAST_REQUESTS = 5000
SHORT = tuple(Client(f"short {number}", (8, 40)) for number in range(12))
LONG = tuple(Client(f"long {number}", (2000, 4000)) for number in range(2))
"""Requests of 5 to 10 s and more: they are lost unless replicas wait for requests in progress."""

ENDLESS = tuple(Client(f"endless {number}", (8000, 8000)) for number in range(3))
"""Requests of 20 s and more: one that has just started lasts longer than the eviction of its replica."""


@pytest.fixture
def gpus(e2e_env: LocalCluster, own_node: None) -> Callable[[int], None]:
    """Sets the node's GPUs. At first there is room for a fourth replica."""
    del own_node
    e2e_env.set_gpus(2 * REPLICAS + 2)
    return e2e_env.set_gpus


@pytest.fixture
def replicas(e2e_env: LocalCluster, namespace: str, tiny: MakeFlash) -> Flash:
    """Three replicas that serve."""
    apply(e2e_env, engine_stub_program(namespace))
    flash = tiny(replicas=REPLICAS, **stub_spec(rollout={"maxSlowdownPercent": 40}))
    flash.wait_for("Ready", "True", "Passed", seconds=180)
    return flash


def names(flash: Flash) -> set[str]:
    return {pod["metadata"]["name"] for pod in flash.pods()}


def settled(flash: Flash) -> bool:
    """All wanted replicas serve, and no other replica exists."""
    return len(flash.endpoints()) == len(flash.pods()) == REPLICAS and flash.condition("Ready").get("status") == "True"


@contextmanager
def story(load: Load, flash: Flash, name: str) -> Iterator[None]:
    """Runs a disruption while users send requests; it ends when all replicas serve again."""
    load.story, began = name, time.monotonic()
    yield
    wait_until(lambda: settled(flash), f"{name}: all replicas serve again", seconds=300)
    time.sleep(3)
    lost = sum(failure.startswith(f"{name}:") for failure in load.failed)
    print(f"{name}: {time.monotonic() - began:.0f} s, {load.answered[name]} requests answered, {lost} lost")


def roll_forward(flash: Flash, tiny: MakeFlash, *, most_slowdown: int) -> None:
    """With GPUs for one more replica there are always at least three endpoints."""
    before, least = names(flash), REPLICAS
    tiny(replicas=REPLICAS, **stub_spec(version="2", rollout={"maxSlowdownPercent": most_slowdown}))

    def rolled() -> bool:
        nonlocal least
        least = min(least, len(flash.endpoints()))
        return not names(flash) & before and settled(flash)

    wait_until(rolled, "all replicas are of the new template", seconds=300)
    assert least == REPLICAS, "the new one comes first where two GPUs are free"


def roll_back(flash: Flash, tiny: MakeFlash) -> None:
    """A template that makes engines three times as slow. Without spare GPUs, a replica stops before the next starts."""
    tiny(
        replicas=REPLICAS,
        **stub_spec("slow:factor=3", version="2", rollout={"maxSlowdownPercent": 40}, readiness=lenient()),
    )
    found = flash.wait_for("Ready", "False", "RolledBack", seconds=180)
    assert "slower than the previous one's" in found["message"]
    assert flash.status()["rollout"]["state"] == "RolledBack"
    tiny(replicas=REPLICAS, **stub_spec(version="2", rollout={"maxSlowdownPercent": 40}))


def lenient() -> dict[str, Any]:
    """It reaches the floor. It is rejected because the previous replicas were faster."""
    readiness: dict[str, Any] = stub_spec()["readiness"]
    return {**readiness, "minDecodeTokensPerSecond": 50}


def quarantine_and_release(flash: Flash, users: int) -> None:
    (slow, *_) = sorted(names(flash))
    play(flash, slow, too_slow(users))
    wait_until(lambda: quarantine_of(flash, slow) == "Granted", "it is taken out", seconds=120)
    wait_until(lambda: len(flash.endpoints()) == REPLICAS - 1, "its endpoint goes", seconds=30)
    play(flash, slow, "well_again")
    wait_until(lambda: len(flash.endpoints()) == REPLICAS, "it serves again", seconds=120)


def quarantine_of(flash: Flash, name: str) -> str | None:
    (found,) = [pod for pod in flash.status()["pods"] if pod["name"] == name]
    quarantine: str | None = found.get("quarantine")
    return quarantine


def evict(flash: Flash, name: str) -> str:
    """Evicts like `kubectl drain`. Returns the API server's message if it refuses."""
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": flash.namespace}}
    path = f"/api/v1/namespaces/{flash.namespace}/pods/{name}/eviction"
    done = flash.cluster.kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(body), check=False)
    return done.stderr if done.returncode else ""


def drain(flash: Flash) -> None:
    """Two evictions at once, of which the second is refused."""
    first, second, *_ = sorted(names(flash))
    assert evict(flash, first) == ""
    refused = evict(flash, second)
    assert "disruption budget" in refused
    wait_until(lambda: first not in names(flash), "it is on its way out", seconds=30)
    wait_until(lambda: evict(flash, second) == "", "its successor has passed, and the second one may go", seconds=180)


def restart_gates(flash: Flash) -> None:
    for count, pod in enumerate(flash.pods(), 1):
        (gate,) = [pid for pid in processes_of(pod["metadata"]["uid"]) if "flash-gate" in command_of(pid)]
        os.kill(gate, signal.SIGKILL)
        wait_until(partial(gates_are_back, flash, count), "the kubelet starts it anew", seconds=60)
        wait_until(lambda: settled(flash), "its replica serves again", seconds=60)


def gates_are_back(flash: Flash, restarts: int) -> bool:
    gates = [s for pod in flash.pods() for s in pod["status"]["initContainerStatuses"] if s["name"] == "gate"]
    return bool(sum(gate["restartCount"] for gate in gates) == restarts)


def kill_operator(flash: Flash) -> None:
    operator = the_operator(flash.cluster)
    (before,) = operator["status"]["containerStatuses"]
    for pid in processes_of(operator["metadata"]["uid"]):
        os.kill(pid, signal.SIGKILL)

    def came_back() -> bool:
        (pod,) = operator_pods(flash.cluster)
        (container,) = pod["status"]["containerStatuses"]
        return bool(container["restartCount"] > before["restartCount"] and container["ready"])

    wait_until(came_back, "the kubelet starts the operator anew", seconds=120)


def test_over_a_rolling_update_and_an_eviction(replicas: Flash, tiny: MakeFlash) -> None:
    """The usual disruptions. Other engines on the machine slow some replicas down, which must not stop the rollout."""
    with Load(replicas.address(), "tiny", (*SHORT[:4], *LONG)) as load:
        with story(load, replicas, "rolling update"):
            roll_forward(replicas, tiny, most_slowdown=95)
        with story(load, replicas, "eviction of two replicas"):
            drain(replicas)
    print(f"{load.total} requests answered, {len(load.failed)} lost")
    assert load.failed == []
    assert min(load.answered["rolling update"], load.answered["eviction of two replicas"]) > 100


@pytest.mark.long
@pytest.mark.alone
def test_over_every_disruption(gpus: Callable[[int], None], replicas: Flash, tiny: MakeFlash) -> None:
    with Load(replicas.address(), "tiny", (*SHORT, *LONG)) as load:
        with story(load, replicas, "rolling update"):
            roll_forward(replicas, tiny, most_slowdown=40)
            gpus(2 * REPLICAS)
        with story(load, replicas, "restart of every gate"):
            restart_gates(replicas)
        with story(load, replicas, "SIGKILL of the operator"):
            kill_operator(replicas)
        with story(load, replicas, "quarantine and release"):
            quarantine_and_release(replicas, len(load.clients))
        with story(load, replicas, "eviction of two replicas"):
            drain(replicas)
        with story(load, replicas, "rollout that is rolled back"):
            roll_back(replicas, tiny)
        load.story = "after"
        wait_until(lambda: load.total >= LEAST_REQUESTS, f"{LEAST_REQUESTS} requests", seconds=600)
    print(f"{load.total} requests answered, {len(load.failed)} lost")
    assert load.failed == []


@pytest.mark.long
def test_with_real_engines_and_clients_that_keep_their_connections(tiny: MakeFlash) -> None:
    spec = {
        "replicas": 2,
        "readiness": {"minDecodeTokensPerSecond": 1},
        "rollout": {"surge": "Disabled", "maxSlowdownPercent": 90},
    }
    flash = tiny(**spec)
    flash.wait_for("Ready", "True", "Passed", seconds=600)
    before = names(flash)
    users = (Client("keeps its connection", (8, 16), keeps_connection=True, pause_seconds=0.2), Client("new", (8, 16)))
    with Load(flash.address(), "tiny", users) as load:
        load.story = "rolling update of real engines"
        tiny(**spec, drain={"timeoutSeconds": 61})
        wait_until(lambda: not names(flash) & before, "both were replaced", seconds=600)
        flash.wait_for("Ready", "True", "Passed", seconds=600)
    print(f"real engines: {load.total} requests answered, {len(load.failed)} lost")
    assert load.failed == []
    assert load.total > 100


def test_without_a_drain_requests_are_lost(e2e_env: LocalCluster, namespace: str, tiny: MakeFlash) -> None:
    """The tests above can fail: without a drain, requests are lost."""
    apply(e2e_env, engine_stub_program(namespace))
    flash = tiny(replicas=2, **stub_spec(drain={"timeoutSeconds": 0}))
    flash.wait_for("Ready", "True", "Passed", seconds=180)
    with Load(flash.address(), "tiny", ENDLESS) as load:
        busy = wait_until(lambda: next(filter(requests_on, flash.pods()), None), "a replica has requests", seconds=60)
        name = busy["metadata"]["name"]
        wait_until(lambda: evict(flash, name) == "", "it may go", seconds=30)
        wait_until(lambda: load.failed, "a request is lost", seconds=60)
        # No replica waits for its requests.
        e2e_env.kubectl("delete", "dsf", flash.name, "-n", namespace)
    assert load.failed


def requests_on(pod: dict[str, Any]) -> float:
    """Requests of clients that this replica's engine is processing, by its own count."""
    with WITHOUT_PROXY.open(f"http://{pod['status']['podIP']}:8000/metrics", timeout=10) as answer:
        page = answer.read().decode()
    (running,) = re.findall(r"^vllm:num_requests_running\{.*\} (\S+)$", page, re.MULTILINE)
    return float(running)
