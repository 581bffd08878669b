"""No request is lost while replicas come, leave, get slow and get well, and gates are started anew.

On the simulation of `fleet_simulation`; the same through a real Service is a test of the cluster.
"""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp

from engine_stub.scripts import having, slow
from engine_stub.virtual_time import run_in_virtual_time
from replica_simulation import Pod, Service
from waiting import eventually_async

Story = Callable[["Fleet"], Awaitable[None]]


class Fleet:
    """Three replicas, and clients from the moment that all are ready."""

    def __init__(self, folder: Path, session: aiohttp.ClientSession) -> None:
        self.service = Service(session)
        self._folder = folder
        self._session = session
        self._made = 0

    async def add(self, *scripts: Any) -> Pod:
        self._made += 1
        pod = Pod(f"pod-{self._made}", self._folder / str(self._made), self._session, scripts)
        await pod.start()
        self.service.pods.append(pod)
        return pod

    async def until(self, what: Callable[[], bool], seconds: float = 200) -> None:
        await eventually_async(what, "what the story waits for", seconds=seconds, pause=0.2)

    async def ready(self, *pods: Pod) -> None:
        await self.until(lambda: all(pod.endpoint for pod in pods))

    async def delete(self, pod: Pod) -> None:
        await pod.delete()
        self.service.pods.remove(pod)


def play(folder: Path, story: Story, *, clients: int = 6) -> Service:
    async def run() -> Service:
        connector = aiohttp.TCPConnector(force_close=True, limit=0)
        async with aiohttp.ClientSession(connector=connector) as session:
            fleet = Fleet(folder, session)
            for _ in range(3):
                await fleet.add()
            await fleet.ready(*fleet.service.pods)
            using = [asyncio.create_task(fleet.service.use()) for _ in range(clients)]
            await asyncio.sleep(5)
            await story(fleet)
            await asyncio.sleep(5)
            for client in using:
                client.cancel()
            await asyncio.gather(*using, return_exceptions=True)
            for pod in fleet.service.pods:
                await pod.end()
            return fleet.service

    return run_in_virtual_time(run())


async def roll(fleet: Fleet) -> None:
    """One leaves, another one comes in its place, three times."""
    for pod in list(fleet.service.pods):
        await fleet.delete(pod)
        new = await fleet.add()
        await fleet.ready(new)


async def quarantine(fleet: Fleet) -> None:
    pod = fleet.service.pods[0]
    pod.engine.play(slow(8))
    await fleet.until(lambda: pod.gate.state.degraded is not None)
    pod.grant()
    await fleet.until(lambda: not pod.endpoint)
    pod.engine.play(having(slow_down=1.0))
    await fleet.ready(pod)


async def restart_gates(fleet: Fleet) -> None:
    for pod in fleet.service.pods:
        await pod.restart_gate()
        await asyncio.sleep(3)


def test_over_a_rolling_update(tmp_path: Path) -> None:
    service = play(tmp_path, roll)
    assert service.failed == []
    assert service.answered > 100


def test_over_quarantine_and_release(tmp_path: Path) -> None:
    service = play(tmp_path, quarantine)
    assert service.failed == []
    assert service.answered > 100


def test_over_restarts_of_all_gates(tmp_path: Path) -> None:
    service = play(tmp_path, restart_gates)
    assert service.failed == []


def test_a_pod_that_ends_without_its_drain_loses_requests(tmp_path: Path) -> None:
    """The simulation can fail: this is what it shows where nobody waits."""

    async def kill(fleet: Fleet) -> None:
        pod = fleet.service.pods[0]
        await pod.end()
        await asyncio.sleep(1)
        pod.endpoint = False

    assert play(tmp_path, kill).failed != []
