"""Fixtures: a hub or a container registry, with a cache, for each test."""

from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from download_harness import DownloadHarness, Registries, write_repository
from hub_stub import HubStub


async def _kill_all(harness: DownloadHarness) -> None:
    for fetch in harness.fetches:
        if fetch.process.returncode is None:
            fetch.process.kill()
            await fetch.process.communicate()


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[DownloadHarness]:
    hub = HubStub(write_repository(tmp_path / "repository"))
    async with hub.running() as endpoint:
        made = DownloadHarness(tmp_path, hub, endpoint)
        yield made
        await _kill_all(made)


@pytest.fixture
async def registries(tmp_path: Path) -> AsyncIterator[Registries]:
    root = tmp_path / "storage"
    storage = HubStub(root)
    with ExitStack() as stack:
        async with storage.running() as endpoint:
            made = DownloadHarness(tmp_path, storage, endpoint)
            yield Registries(made, root, stack)
            await _kill_all(made)


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Path]:
    """An empty folder. Checks that nothing was written next to it."""
    folder = tmp_path / "place" / "model"
    folder.mkdir(parents=True)
    yield folder
    assert [path.name for path in folder.parent.iterdir()] == ["model"], "something was written next to it"
