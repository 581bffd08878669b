"""A hub, or a container registry, and a cache for each test."""

from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from download_harness import Bench, Registries, a_repository
from hub_stub import HubStub


async def _end(bench: Bench) -> None:
    for fetch in bench.fetches:
        if fetch.process.returncode is None:
            fetch.process.kill()
            await fetch.process.communicate()


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    hub = HubStub(a_repository(tmp_path / "repository"))
    async with hub.running() as endpoint:
        made = Bench(tmp_path, hub, endpoint)
        yield made
        await _end(made)


@pytest.fixture
async def registries(tmp_path: Path) -> AsyncIterator[Registries]:
    root = tmp_path / "storage"
    storage = HubStub(root)
    with ExitStack() as stack:
        async with storage.running() as endpoint:
            made = Bench(tmp_path, storage, endpoint)
            yield Registries(made, root, stack)
            await _end(made)


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Path]:
    """A folder with nothing beside it."""
    folder = tmp_path / "place" / "model"
    folder.mkdir(parents=True)
    yield folder
    assert [path.name for path in folder.parent.iterdir()] == ["model"], "something was written beside it"
