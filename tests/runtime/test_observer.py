"""What the observer remembers of deployments has bounds."""

from typing import Any

import aiohttp
import pytest

from builders import SETTINGS, a_flash_object
from flash_contracts.names import DEPLOYMENT_LABEL
from flash_operator.core.observed.remembered import Remembered
from flash_operator.runtime.cluster import Cluster
from flash_operator.runtime.gates import Gates
from flash_operator.runtime.keys import key_of
from flash_operator.runtime.observer import MOST_BYTES_OF_CHILDREN, MOST_REMEMBERED, MOST_REMEMBERED_BYTES, Observer
from flash_operator.runtime.store import OURS, Store
from operator_in_memory import ApiInMemory


class Site:
    """An observer of what a test puts into its store."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._store = Store()
        self._observer = Observer(self._store, Cluster(ApiInMemory()), Gates(session), SETTINGS)  # type: ignore[arg-type]

    def put_child(self, name: str, text: str) -> None:
        labels = {**OURS, DEPLOYMENT_LABEL: "flash"}
        metadata = {"name": name, "namespace": "team", "resourceVersion": "7", "labels": labels}
        self._store.put({"kind": "ConfigMap", "metadata": metadata, "data": {"a": text}})

    async def remembered(self, name: str, **spec: Any) -> Remembered:
        raw = a_flash_object(name, **spec)
        self._store.put(raw)
        observed = await self._observer.observe(key_of(raw))
        assert observed is not None
        return observed.remembered


@pytest.fixture
async def site() -> Any:
    async with aiohttp.ClientSession() as session:
        yield Site(session)


async def test_a_deployment_is_remembered_until_many_others_were_looked_at(site: Site) -> None:
    first = await site.remembered("flash")
    assert await site.remembered("flash") is first
    for number in range(MOST_REMEMBERED):
        assert await site.remembered(f"other-{number}") is not first
    assert await site.remembered("flash") is not first


async def test_a_large_spec_is_not_remembered(site: Site) -> None:
    large = {"podTemplate": {"metadata": {"annotations": {"a": "x" * MOST_REMEMBERED_BYTES}}}}
    assert await site.remembered("flash", **large) is not await site.remembered("flash", **large)


async def test_a_deployment_with_a_large_child_is_not_remembered(site: Site) -> None:
    first = await site.remembered("flash")
    site.put_child("flash-last-known-good", "usual")
    assert await site.remembered("flash") is first
    site.put_child("flash-anything", "x" * MOST_BYTES_OF_CHILDREN)
    assert await site.remembered("flash") is not first
    assert await site.remembered("flash") is not await site.remembered("flash")
