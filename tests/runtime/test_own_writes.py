"""Events of our own writes cause no reconciles, and those of others always do: with an API server in memory."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import aiohttp
import pytest

from flash_contracts.names import KIND
from flash_operator.core.plan import Plan, plan
from flash_operator.runtime.api_connection import ApiConnection, ApiError
from flash_operator.runtime.cluster import Cluster
from flash_operator.runtime.own_writes import MOST_WAITING, OwnWrites
from operator_in_memory import NAMESPACE, ApiInMemory, OperatorInMemory, a_new_deployment
from waiting import eventually_async

DEPLOYMENTS = 5
PATH = "/api/v1/namespaces/many/configmaps/a"


def a_version(version: int) -> dict[str, Any]:
    return {"metadata": {"name": "a", "resourceVersion": str(version)}}


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch) -> list[Plan]:
    """The plans that were made."""
    made: list[Plan] = []

    def counted(*args: Any) -> Plan:
        made.append(plan(*args))
        return made[-1]

    monkeypatch.setattr("flash_operator.runtime.reconciler.plan", counted)
    return made


@asynccontextmanager
async def an_operator(api: ApiInMemory) -> AsyncIterator[OperatorInMemory]:
    async with aiohttp.ClientSession() as session:
        operator = OperatorInMemory(api, session)
        await operator.start()
        yield operator
        await operator.stop()


@pytest.mark.parametrize("early", [False, True], ids=["events after the answers", "events before the answers"])
async def test_a_new_deployment_is_planned_once_and_once_more_for_its_status(plans: list[Plan], *, early: bool) -> None:
    api = ApiInMemory(early=early)
    user = Cluster(cast("ApiConnection", api))
    async with an_operator(api) as operator:
        for number in range(DEPLOYMENTS):
            await user.apply(a_new_deployment(number))
        await eventually_async(lambda: operator.cluster.writes == 5 * DEPLOYMENTS, "all have a status", seconds=20)
        await asyncio.sleep(1.5)
        assert operator.cluster.writes == 5 * DEPLOYMENTS
    assert len(plans) == 2 * DEPLOYMENTS


@pytest.mark.parametrize("early", [False, True], ids=["events after the answers", "events before the answers"])
async def test_a_change_during_the_write_of_the_status_is_seen_at_once(
    monkeypatch: pytest.MonkeyPatch, *, early: bool
) -> None:
    """The answer to the write has the new spec, so the event of the change tells nothing new when it comes."""
    api = ApiInMemory(early=early)
    user = Cluster(cast("ApiConnection", api))
    async with an_operator(api) as operator:
        write, changes = operator.cluster.apply_status, 0

        async def changed_before(*args: Any) -> dict[str, Any]:
            nonlocal changes
            changes += 1
            if changes == 1:
                monkeypatch.setattr(api, "on_event", lambda _: None)  # the event comes later, or never
                await user.apply(a_new_deployment(0, replicas=7))
                monkeypatch.setattr(api, "on_event", operator.on_event)
            return await write(*args)

        monkeypatch.setattr(operator.cluster, "apply_status", changed_before)
        await user.apply(a_new_deployment(0))

        async def is_carried_out() -> bool:
            (found,) = await user.list("Deployment", NAMESPACE) or [{"spec": {"replicas": None}}]
            return bool(found["spec"]["replicas"] == 7)

        for _ in range(100):
            if await is_carried_out():
                break
            await asyncio.sleep(0.05)
        assert await is_carried_out()
        (flash,) = await user.list(KIND, NAMESPACE)
        assert flash["metadata"]["generation"] == 2


async def test_an_event_of_another_version_than_the_answer_is_news() -> None:
    own, news = OwnWrites(), list[int]()
    with own.to(PATH) as write:
        for version in (7, 8, 9):
            own.judge(PATH, a_version(version), lambda version=version: news.append(version))  # type: ignore[misc]
        assert news == [], "nothing is known before the answer"
        write.answer(a_version(8))
    assert news == [7, 9]


async def test_an_event_is_news_if_no_write_is_under_way_or_it_fails() -> None:
    own, news = OwnWrites(), list[str]()
    own.judge(PATH, a_version(7), lambda: news.append("before"))

    async def refused() -> None:
        with own.to(PATH):
            own.judge(PATH, a_version(8), lambda: news.append("during"))
            own.judge(f"{PATH}-other", a_version(8), lambda: news.append("another object"))
            raise ApiError(500, "no answer")

    with pytest.raises(ApiError):
        await refused()
    own.judge(PATH, a_version(8), lambda: news.append("after"))
    assert news == ["before", "another object", "during", "after"]


async def test_the_event_of_the_first_of_two_writes_waits_for_both_answers() -> None:
    own, news = OwnWrites(), list[int]()
    with own.to(PATH) as first:
        with own.to(PATH) as second:
            own.judge(PATH, a_version(7), lambda: news.append(7))
            own.judge(PATH, a_version(8), lambda: news.append(8))
            second.answer(a_version(8))
        first.answer(a_version(7))
    assert news == []


async def test_whoever_writes_an_object_all_the_time_fills_no_memory() -> None:
    own, news = OwnWrites(), list[int]()
    with own.to(PATH):
        for version in range(1000):
            own.judge(PATH, a_version(version), lambda version=version: news.append(version))  # type: ignore[misc]
        assert len(news) == 1000 - MOST_WAITING
