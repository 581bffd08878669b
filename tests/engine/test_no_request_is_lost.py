"""No request is lost while replicas are added, removed, become slow and recover, and while gates restart.

This uses the simulation in `replica_simulation`; tests/e2e does the same through a real Service.
"""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp

from engine_stub.scripts import having, slow
from engine_stub.virtual_time import run_in_virtual_time
from replica_simulation import SimulatedPod, SimulatedService
from waiting import eventually_async

Scenario = Callable[["Replicas"], Awaitable[None]]


class Replicas:
    """Three replicas, and clients once all are ready."""

    def __init__(self, folder: Path, session: aiohttp.ClientSession) -> None:
        self.service = SimulatedService(session)
        self._folder = folder
        self._session = session
        self._made = 0

    async def add(self, *scripts: Any) -> SimulatedPod:
        self._made += 1
        pod = SimulatedPod(f"pod-{self._made}", self._folder / str(self._made), self._session, scripts)
        await pod.start()
        self.service.pods.append(pod)
        return pod

    async def until(self, what: Callable[[], bool], seconds: float = 200) -> None:
        await eventually_async(what, "what the scenario waits for", seconds=seconds, pause=0.2)

    async def ready(self, *pods: SimulatedPod) -> None:
        await self.until(lambda: all(pod.is_endpoint for pod in pods))

    async def delete(self, pod: SimulatedPod) -> None:
        await pod.delete()
        self.service.pods.remove(pod)


def run_scenario(folder: Path, scenario: Scenario, *, clients: int = 6) -> SimulatedService:
    async def run() -> SimulatedService:
        connector = aiohttp.TCPConnector(force_close=True, limit=0)
        async with aiohttp.ClientSession(connector=connector) as session:
            replicas = Replicas(folder, session)
            for _ in range(3):
                await replicas.add()
            await replicas.ready(*replicas.service.pods)
            using = [asyncio.create_task(replicas.service.send_requests()) for _ in range(clients)]
            await asyncio.sleep(5)
            await scenario(replicas)
            await asyncio.sleep(5)
            for client in using:
                client.cancel()
            await asyncio.gather(*using, return_exceptions=True)
            for pod in replicas.service.pods:
                await pod.end()
            return replicas.service

    return run_in_virtual_time(run())


async def roll(replicas: Replicas) -> None:
    """Replace one replica by a new one, three times."""
    for pod in list(replicas.service.pods):
        await replicas.delete(pod)
        new = await replicas.add()
        await replicas.ready(new)


async def quarantine(replicas: Replicas) -> None:
    pod = replicas.service.pods[0]
    pod.engine.play(slow(8))
    await replicas.until(lambda: pod.gate.state.degraded is not None)
    pod.grant_quarantine()
    await replicas.until(lambda: not pod.is_endpoint)
    pod.engine.play(having(slow_down=1.0))
    await replicas.ready(pod)


async def restart_gates(replicas: Replicas) -> None:
    for pod in replicas.service.pods:
        await pod.restart_gate()
        await asyncio.sleep(3)


def test_during_a_rolling_update(tmp_path: Path) -> None:
    service = run_scenario(tmp_path, roll)
    assert service.failed == []
    assert service.answered > 100


def test_during_quarantine_and_release(tmp_path: Path) -> None:
    service = run_scenario(tmp_path, quarantine)
    assert service.failed == []
    assert service.answered > 100


def test_during_restarts_of_all_gates(tmp_path: Path) -> None:
    service = run_scenario(tmp_path, restart_gates)
    assert service.failed == []


def test_a_pod_without_a_drain_loses_requests(tmp_path: Path) -> None:
    """The simulation can fail: without a drain, requests are lost."""

    async def kill(replicas: Replicas) -> None:
        pod = replicas.service.pods[0]
        await pod.end()
        await asyncio.sleep(1)
        pod.is_endpoint = False

    assert run_scenario(tmp_path, kill).failed != []
