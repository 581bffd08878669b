"""Random faults on a real API server: afterwards everything is ready, and nothing happened that must not.

To play a failing run again: pytest tests/faults --fault-seed SEED -m "long or test".
"""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster_fixtures import ControlPlane
from custom_resource import install_crd
from faults.checks import broken_promises, not_settled
from faults.schedule import schedule
from faults.site import FaultSite, start_controllers
from flash_operator.runtime.api_connection import ApiConnection
from local_cluster.control_plane import a_light_control_plane

pytestmark = [pytest.mark.apiserver, pytest.mark.timeout(400)]

SHORT_SEEDS = 3
"""About 20 s each."""
SETTLED_SECONDS = 75.0
REST_SECONDS = 30.0
QUIET_SECONDS = 5.0
"""More than a resync."""


@pytest.fixture(scope="module")
def plane() -> Iterator[ControlPlane]:
    """An API server of its own, because it is killed."""
    started = a_light_control_plane()
    install_crd(started)
    start_controllers(started)
    yield started
    started.stop()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seed" not in metafunc.fixturenames:
        return
    chosen, runs = metafunc.config.getoption("fault_seed"), metafunc.config.getoption("faults")
    is_long = "many" in metafunc.function.__name__
    seeds = range(SHORT_SEEDS, runs) if is_long else range(SHORT_SEEDS)
    if chosen is not None:
        seeds = range(chosen, chosen + 1) if is_long == (chosen >= SHORT_SEEDS) else range(0)
    metafunc.parametrize("seed", seeds, ids=lambda seed: f"seed-{seed}")


async def play(plane: ControlPlane, api: ApiConnection, seed: int, folder: Path) -> None:
    site, events = FaultSite(plane, api, seed, folder), schedule(seed)
    story = "\n".join(map(str, events))
    async with site.running():
        await site.play(events)
        wrong = await settle(site)
        assert wrong == [], f"{story}\n{tail(site.log)}"
        assert await writes_at_rest(site) == [], f"it does not rest\n{story}"
        assert await broken_promises(site) == [], story


async def settle(site: FaultSite) -> list[str]:
    """Waits until all is as it must be. Returns what is not."""
    deadline = asyncio.get_running_loop().time() + SETTLED_SECONDS
    while (wrong := await not_settled(site)) and asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(0.3)
    return wrong


async def writes_at_rest(site: FaultSite) -> list[str]:
    """The last status may come late. Then resyncs must find nothing to write."""
    deadline = asyncio.get_running_loop().time() + REST_SECONDS
    while True:
        before = len(site.proxy.writes)
        await asyncio.sleep(QUIET_SECONDS)
        written = site.proxy.writes[before:]
        if not written or asyncio.get_running_loop().time() > deadline:
            return written


def tail(log: Path) -> str:
    return "\n".join(line[:240] for line in log.read_text().splitlines()[-20:])


async def test_after_random_faults_all_is_well(
    plane: ControlPlane, api: ApiConnection, seed: int, tmp_path: Path
) -> None:
    await play(plane, api, seed, tmp_path)


@pytest.mark.long
async def test_after_many_random_faults_all_is_well(
    plane: ControlPlane, api: ApiConnection, seed: int, tmp_path: Path
) -> None:
    await play(plane, api, seed, tmp_path)
