"""A real KEDA stops the last replica, and requests that arrive then wait in the activator and wake it. The engines are
stubs."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import aiohttp
import pytest

from cluster_fixtures import LocalCluster
from e2e_env import OPERATOR_NAMESPACE, RELEASE, Cluster, Flash, apply, get_json, install_operator, wait_until
from engine_stubs import engine_stub_program, stub_spec
from image_builder.build import ensure_image
from image_builder.layout import cache_root, image_named
from keda import Keda

pytestmark = [pytest.mark.cluster, pytest.mark.long, pytest.mark.alone, pytest.mark.timeout(900)]

MakeFlash = Callable[..., Flash]

IDLE_SECONDS = 60
SCALING = {"by": "Keda", "minReplicas": 0, "maxReplicas": 2, "idle": {"afterSeconds": IDLE_SECONDS, "holdSeconds": 300}}
LOADING_SECONDS = 10
ACTIVATORS = "app.kubernetes.io/name=deepseek-flash-activator"
WAITING_SECONDS = 400.0


@dataclass
class Burst:
    """A context in which so many clients send one request each, every second one for a stream."""

    url: str
    number: int
    statuses: list[int] = field(default_factory=list)
    whole: int = 0
    """Answers that were complete."""
    retry_after: set[str | None] = field(default_factory=set)

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=lambda: asyncio.run(self._send_all()), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._thread.join(WAITING_SECONDS)

    async def _send_all(self) -> None:
        timeout = aiohttp.ClientTimeout(total=WAITING_SECONDS)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            await asyncio.gather(*(self._send(session, streams=number % 2 == 1) for number in range(self.number)))

    async def _send(self, session: aiohttp.ClientSession, *, streams: bool) -> None:
        body = {"model": "tiny", "prompt": "p", "max_tokens": 16, "stream": streams, "ignore_eos": True}
        async with session.post(f"{self.url}/v1/completions", json=body) as answer:
            text = await answer.text()
        self.statuses.append(answer.status)
        self.retry_after.add(answer.headers.get("Retry-After"))
        self.whole += text.rstrip().endswith("[DONE]") if streams else '"choices"' in text


def activator_pods(cluster: Cluster) -> list[dict[str, Any]]:
    """Those that are not ending."""
    pods: list[dict[str, Any]] = get_json(cluster, "pods", "-n", OPERATOR_NAMESPACE, "-l", ACTIVATORS)["items"]
    return [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]


def addresses(cluster: Cluster) -> list[str]:
    """Of the activators."""
    return sorted(pod["status"].get("podIP", "") for pod in activator_pods(cluster))


@pytest.fixture
def activator(e2e_env: LocalCluster) -> Iterator[LocalCluster]:
    """One activator. The local cluster has no DNS, so it is given the operator's address."""
    operator = ensure_image(image_named("operator"), cache_root())
    service = get_json(e2e_env, "service", f"{RELEASE}-metrics", "-n", OPERATOR_NAMESPACE)
    address = f"http://{service['spec']['clusterIP']}:8080"
    install_operator(
        e2e_env, operator, activator__enabled="true", activator__replicas="1", activator__operatorUrl=address
    )
    yield e2e_env
    install_operator(e2e_env, operator)


@pytest.fixture
def keda(activator: LocalCluster) -> Iterator[Keda]:
    """Removed before the activator is."""
    keda = Keda(activator)
    yield keda
    keda.remove()


@pytest.fixture
def idle(activator: LocalCluster, keda: Keda, namespace: str, tiny: MakeFlash) -> Flash:
    """It served, and has gone to zero."""
    keda.start()
    apply(activator, engine_stub_program(namespace))
    flash = tiny(**stub_spec(f"loading:seconds={LOADING_SECONDS}"), scaling=SCALING)
    flash.wait_for("Ready", "True", "Passed", seconds=180)
    serves_alone(flash)
    asleep(flash)
    return flash


def serves_alone(flash: Flash) -> None:
    """Waits until the activator is out of the way, seconds after a replica is ready."""
    wait_until(lambda: not set(flash.endpoints()) & set(addresses(flash.cluster)), "the activator is gone", seconds=30)


def engine_pods(flash: Flash) -> list[str]:
    """Terminating ones too."""
    selector = f"deepseekflash.dev/deployment={flash.name}"
    pods = get_json(flash.cluster, "pods", "-n", flash.namespace, "-l", selector)["items"]
    return [pod["metadata"]["name"] for pod in pods]


def asleep(flash: Flash) -> None:
    """Waits until it is at zero, and nobody but the activator is behind its Service."""
    found = flash.wait_for("ScalingActive", "True", "ScaledToZero", seconds=IDLE_SECONDS + 180)
    assert "waits in the activator" in found["message"]
    # A terminating replica still serves connections that kube-proxy opens before it has seen the change.
    wait_until(lambda: not engine_pods(flash), "no replica is left", seconds=120)
    wait_until(lambda: flash.endpoints() == addresses(flash.cluster), "the activator is in its place", seconds=60)


def test_twenty_requests_at_zero_wake_it_and_are_all_answered(idle: Flash) -> None:
    with Burst(idle.address(), 20) as burst:
        wait_until(lambda: idle.object()["spec"]["replicas"] >= 1, "KEDA starts a replica", seconds=60)
        idle.wait_for("Ready", "True", "Passed", seconds=240)
    assert (burst.statuses, burst.whole) == ([200] * 20, 20)
    serves_alone(idle)
    with Burst(idle.address(), 4) as awake:
        pass
    assert awake.statuses == [200] * 4
    asleep(idle)


def test_an_activator_that_is_killed_turns_its_requests_away_and_wakes_the_deployment_all_the_same(
    idle: Flash, activator: LocalCluster
) -> None:
    (pod,) = activator_pods(activator)
    with Burst(idle.address(), 5) as burst:
        url = f"http://{pod['status']['podIP']}:8080/held"
        wait_until(
            lambda: waiting_at(url) == 5, "all of them wait", seconds=30, seen=lambda: (waiting_at(url), burst.statuses)
        )
        activator.kubectl("delete", "pod", pod["metadata"]["name"], "-n", OPERATOR_NAMESPACE, "--wait=false")
    assert (burst.statuses, burst.retry_after) == ([503] * 5, {"1"})
    wait_until(lambda: idle.object()["spec"]["replicas"] >= 1, "it wakes all the same", seconds=60)
    idle.wait_for("Ready", "True", "Passed", seconds=240)
    with Burst(idle.address(), 2) as after:
        pass
    assert after.statuses == [200] * 2


def waiting_at(url: str) -> int:
    """How many requests wait in the activator."""

    async def ask() -> int:
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            return sum(held["waiting"] for held in (await answer.json())["held"])

    return asyncio.run(ask())
