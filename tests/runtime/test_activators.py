"""What the operator learns from activators: whom it asks, what it makes of the answers, and that wake-ups stay."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, cast

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from activator_site import an_engine, until
from flash_contracts.activation import ActivatorReport, ActivatorRoute, ActivatorRoutes, HeldRequests
from flash_contracts.names import DEPLOYMENT_LABEL
from flash_operator.activator import process
from flash_operator.activator.process import Activator
from flash_operator.activator.settings import ActivatorSettings
from flash_operator.core.observed.activator import Waiting
from flash_operator.core.observed.snapshot import RawObject
from flash_operator.core.scaling.activation import SLICE
from flash_operator.core.scaling.demand import DemandBasis
from flash_operator.runtime.activator_routes import PATH, RouteBoard, RouteServer
from flash_operator.runtime.activator_slices import FRESH_SECONDS, ActivatorSlices
from flash_operator.runtime.activators import LOST_SECONDS, REPORT_SECONDS, WAKE_SECONDS, Activators, addresses_of
from flash_operator.runtime.cluster import ApiError, Cluster, Listing
from flash_operator.runtime.demand_board import DemandBoard
from flash_operator.runtime.keys import FlashKey
from flash_operator.runtime.leader_only import LeaderOnly
from ports import a_free_port

KEY, OTHER = FlashKey("team", "flash"), FlashKey("team", "other")


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class FakeCluster:
    """Answers lists of EndpointSlices."""

    def __init__(self, *slices: RawObject) -> None:
        self.slices = list(slices)
        self.failure: Exception | None = None
        self.asked: Counter[str] = Counter()

    async def list(self, kind: str, namespace: str, *, selector: Mapping[str, str]) -> list[RawObject]:
        assert (kind, namespace, selector) == (SLICE, "system", {"kubernetes.io/service-name": "flash-activator"})
        return (await self.listing(kind)).items

    async def listing(self, kind: str, _namespace: str | None = None, **options: Any) -> Listing:
        self.asked[kind] += 1
        if self.failure:
            raise self.failure
        keep: Callable[[RawObject], bool] = options.get("keep", lambda _: True)
        return Listing([raw for raw in self.slices if keep(raw)], "1")


def an_endpoint(address: str, *, ready: bool | None = True) -> RawObject:
    return {"addresses": [address], "conditions": {"ready": ready, "terminating": not ready}}


class FakeActivator:
    """Answers with what it is told to hold."""

    def __init__(self) -> None:
        self.held: tuple[HeldRequests, ...] = ()
        self.answers = True

    async def show(self, _request: web.Request) -> web.Response:
        return web.json_response(ActivatorReport(self.held).to_json(), status=200 if self.answers else 500)

    def hold(self, waiting: int, last_seconds: float = 0.0) -> None:
        self.held = (HeldRequests(*KEY, waiting, last_seconds),)


class Fixture:
    """One activator at 127.0.0.1, and the operator's view of it."""

    def __init__(self, session: aiohttp.ClientSession, port: int, activator: FakeActivator) -> None:
        self.activator, self.clock = activator, Clock()
        self.cluster = FakeCluster({"endpoints": [an_endpoint("127.0.0.1")]})
        self.changed: list[FlashKey] = []
        self.routed: tuple[FlashKey, ...] = (KEY, OTHER)
        self.seen = Activators(
            cast("Cluster", self.cluster),
            session,
            ("system", "flash-activator"),
            lambda: self.routed,
            self.changed.append,
            port=port,
            clock=self.clock,
        )

    async def after(self, seconds: float) -> Waiting | None:
        self.clock.now += seconds
        await self.seen.look()
        return self.seen.waiting(KEY)


@asynccontextmanager
async def an_operator() -> AsyncIterator[Fixture]:
    activator, app = FakeActivator(), web.Application()
    app.add_routes([web.get("/held", activator.show)])
    async with TestServer(app, host="127.0.0.1") as server, aiohttp.ClientSession() as session:
        assert server.port is not None
        yield Fixture(session, server.port, activator)


async def test_before_anybody_was_asked_nothing_is_known() -> None:
    async with an_operator() as operator:
        assert operator.seen.waiting(KEY) is None
        assert await operator.after(0) == Waiting()


async def test_what_waits_is_known() -> None:
    async with an_operator() as operator:
        operator.activator.hold(3)
        assert await operator.after(1) == Waiting(3, recent=True)
        assert operator.seen.waiting(OTHER) == Waiting()


async def test_a_wake_up_is_not_forgotten_with_the_activator_that_asked_for_it() -> None:
    async with an_operator() as operator:
        operator.activator.hold(3)
        await operator.after(1)
        operator.cluster.slices = []
        assert (await operator.after(5)) == Waiting(3, recent=True), "its last report counts for a moment"
        assert (await operator.after(REPORT_SECONDS)) == Waiting(0, recent=True)
        assert operator.seen.waiting(KEY) != Waiting()
        assert (await operator.after(WAKE_SECONDS)) == Waiting(lost=True)


async def test_what_was_turned_away_between_two_looks_wakes_too() -> None:
    """As an activator does that gets SIGTERM."""
    async with an_operator() as operator:
        await operator.after(1)
        operator.activator.hold(0, last_seconds=0.4)
        assert await operator.after(1) == Waiting(0, recent=True)
        operator.activator.hold(0, last_seconds=WAKE_SECONDS + 1)
        assert await operator.after(WAKE_SECONDS) == Waiting(0)


async def test_what_woke_it_last_time_does_not_wake_it_again_when_it_has_gone_to_zero() -> None:
    async with an_operator() as operator:
        operator.activator.hold(1)
        await operator.after(1)
        operator.seen.note(KEY, 1)
        operator.activator.hold(0, last_seconds=10)
        await operator.after(10)
        operator.seen.note(KEY, 0)
        assert operator.seen.waiting(KEY) == Waiting()
        operator.activator.hold(0, last_seconds=20)
        assert await operator.after(10) == Waiting()
        operator.activator.hold(1)
        assert await operator.after(1) == Waiting(1, recent=True)


async def test_activators_that_are_silent_for_minutes_are_lost_and_found_again() -> None:
    async with an_operator() as operator:
        await operator.after(0)
        operator.activator.answers = False
        assert await operator.after(LOST_SECONDS - 1) == Waiting()
        assert await operator.after(1) == Waiting(lost=True)
        operator.activator.answers = True
        assert await operator.after(1) == Waiting()


async def test_activators_that_never_answered_are_lost_after_minutes_and_not_before() -> None:
    async with an_operator() as operator:
        operator.cluster.failure = ApiError(403, "no")
        assert await operator.after(0) is None
        assert await operator.after(LOST_SECONDS - 1) is None
        assert await operator.after(1) == Waiting(lost=True)


async def test_after_a_time_without_deployments_at_zero_they_are_not_taken_for_lost() -> None:
    async with an_operator() as operator:
        await operator.after(0)
        operator.routed = ()
        await operator.seen.step()
        operator.clock.now += 10 * LOST_SECONDS
        operator.routed = (KEY,)
        assert operator.seen.waiting(KEY) is None
        await operator.seen.step()
        assert operator.seen.waiting(KEY) == Waiting()


async def test_steps_of_the_wall_clock_are_nothing_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async with an_operator() as operator:
        operator.activator.hold(1)
        await operator.after(1)
        monkeypatch.setattr("time.time", lambda: 0.0)
        assert await operator.after(1) == Waiting(1, recent=True)


async def test_deployments_at_zero_learn_of_other_addresses_at_once() -> None:
    async with an_operator() as operator:
        await operator.after(0)
        assert (operator.seen.ready, operator.changed) == (("127.0.0.1",), [KEY, OTHER])
        await operator.after(5)
        assert operator.changed == [KEY, OTHER], "nothing new"
        operator.cluster.slices = [{"endpoints": [an_endpoint("127.0.0.1", ready=False)]}]
        operator.activator.hold(2)
        assert await operator.after(5) == Waiting(2, recent=True), "one that ends is still asked"
        assert (operator.seen.ready, len(operator.changed)) == ((), 4)
        operator.cluster.failure = ApiError(500, "no")
        await operator.after(5)
        assert len(operator.changed) == 4, "what cannot be listed is kept"


def test_an_endpoint_without_conditions_is_ready() -> None:
    """As the API says of a missing value."""
    found = addresses_of(
        [{"endpoints": [{"addresses": ["b"]}, {"addresses": ["a"], "conditions": {}}]}, {"endpoints": None}]
    )
    assert found == (("a", "b"), ("a", "b"))


def a_slice(name: str = "flash", port: int = 20005) -> RawObject:
    labels = {DEPLOYMENT_LABEL: name}
    return {
        "kind": SLICE,
        "metadata": {"name": f"{name}-activator", "namespace": "team", "labels": labels},
        "ports": [{"port": port}],
    }


def slices_of(cluster: FakeCluster, clock: Clock | None = None) -> ActivatorSlices:
    return ActivatorSlices(cast("Cluster", cluster), lambda key: key.name != "stranger", clock=clock or Clock())


async def test_a_port_survives_the_operator() -> None:
    slices = slices_of(FakeCluster(a_slice(port=20005)))
    assert len(await slices.of(KEY)) == 1
    assert slices.port(KEY, "uid") == 20005


async def test_two_deployments_have_two_ports_before_either_has_a_slice() -> None:
    slices = slices_of(FakeCluster())
    await slices.of(KEY)
    first, second = slices.port(KEY, "uid"), slices.port(OTHER, "uid")
    assert first != second
    assert (slices.port(KEY, "uid"), slices.port(OTHER, "uid")) == (first, second)


async def test_a_port_that_two_slices_claim_goes_to_one() -> None:
    """As after a restore of the storage."""
    slices = slices_of(FakeCluster(a_slice("flash", 20005), a_slice("other", 20005)))
    await slices.of(KEY)
    first, second = slices.port(KEY, "uid-1"), slices.port(OTHER, "uid-2")
    assert first != second
    assert {slices.port(KEY, "uid-1"), slices.port(OTHER, "uid-2")} == {first, second}


async def test_a_port_is_free_again_once_its_deployment_is_gone() -> None:
    slices = slices_of(FakeCluster())
    await slices.of(KEY)
    first = slices.port(KEY, "uid")
    slices.forget(KEY)
    assert slices.port(OTHER, "uid") == first


async def test_one_list_serves_all_deployments_for_a_while_and_strangers_are_not_kept() -> None:
    cluster, clock = FakeCluster(a_slice(), a_slice("stranger", 20009)), Clock()
    slices = slices_of(cluster, clock)
    assert [len(await slices.of(key)) for key in (KEY, OTHER, FlashKey("team", "stranger"))] == [1, 0, 0]
    assert cluster.asked[SLICE] == 1
    clock.now += FRESH_SECONDS
    cluster.failure = ApiError(403, "no")
    assert len(await slices.of(KEY)) == 1, "the last list stays"
    assert cluster.asked[SLICE] == 2


async def test_what_is_left_of_a_former_installation_is_found_whoever_asks_for_zero() -> None:
    cluster, found = FakeCluster(a_slice()), asyncio.Queue[FlashKey]()
    slices = slices_of(cluster)
    assert await slices.of(KEY, most_age=float("inf")) == []
    assert cluster.asked[SLICE] == 0, "deployments that keep a replica cost no list"
    listing = asyncio.create_task(slices.run(300.0, found.put_nowait))
    assert await asyncio.wait_for(found.get(), 10) == KEY
    assert len(await slices.of(KEY, most_age=float("inf"))) == 1
    listing.cancel()


async def test_a_slice_that_was_just_written_is_known() -> None:
    slices = slices_of(FakeCluster())
    await slices.of(KEY)
    slices.put(a_slice(port=20011))
    slices.put(
        {"kind": "Service", "metadata": {"name": "flash", "namespace": "team", "labels": {DEPLOYMENT_LABEL: "flash"}}}
    )
    assert [one["kind"] for one in await slices.of(KEY)] == [SLICE]
    assert slices.port(KEY, "uid") == 20011


async def test_the_whole_way_from_a_request_at_zero_to_its_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Activator and operator together: only the API server and the autoscaler are left out."""
    monkeypatch.setattr(process, "ASK_SECONDS", 0.02)
    routes, app = RouteBoard(), web.Application()
    async with an_engine() as (endpoint, _), aiohttp.ClientSession() as session:
        app.add_routes([RouteServer(routes, LeaderOnly(session, lambda: True, lambda: None)).route])
        async with TestServer(app) as operator:
            port, control = a_free_port(), a_free_port()
            routes.put(KEY, ActivatorRoute(*KEY, port))
            settings = ActivatorSettings.parse([f"--operator-url={operator.make_url('')}", f"--control-port={control}"])
            activator, stop = Activator(replace(settings, linger_seconds=0.0)), asyncio.Event()
            running = asyncio.create_task(activator.run(stop))
            await until(lambda: port in activator.listening)
            cluster = cast("Cluster", FakeCluster({"endpoints": [an_endpoint("127.0.0.1")]}))
            seen = Activators(cluster, session, ("system", "flash-activator"), routes.keys, port=control)
            board = DemandBoard(lambda _: {}, seen.waiting)
            board.put(KEY, DemandBasis(*KEY, 0, 0, (), sequences=4, target_percent=75, to_zero=True))
            await seen.look()
            assert [(report.target_replicas, report.held) for report in board.reports(1)] == [(0.0, 0)]

            asking = asyncio.create_task(session.post(f"http://127.0.0.1:{port}/v1/completions", data=b"question"))
            await until(lambda: activator.deployments.waiting == 1)
            await seen.look()
            assert [(report.target_replicas, report.held) for report in board.reports(1)] == [(1.0, 1)]
            routes.put(KEY, ActivatorRoute(*KEY, port, (endpoint,)))
            async with await asking as answer:
                assert await answer.json() == {"got": "question"}
            stop.set()
            await running


@pytest.mark.parametrize("leads", [True, False], ids=["the leader", "a standby"])
async def test_activators_are_told_the_routes_by_any_operator(*, leads: bool) -> None:
    board, empty = RouteBoard(), RouteBoard()
    route = ActivatorRoute("team", "flash", 20005, ("10.1.0.7:8000",))
    board.put(KEY, route)
    board.put(OTHER, ActivatorRoute("team", "other", 20006))
    board.put(OTHER, None)
    async with aiohttp.ClientSession() as session:
        leader, standby = web.Application(), web.Application()
        leader.add_routes([RouteServer(board, LeaderOnly(session, lambda: True, lambda: None)).route])
        async with TestServer(leader) as first:
            address = str(first.make_url("")).rstrip("/")
            standby.add_routes([RouteServer(empty, LeaderOnly(session, lambda: False, lambda: address)).route])
            async with (
                TestServer(standby) as second,
                session.get((first if leads else second).make_url(PATH)) as answer,
            ):
                assert ActivatorRoutes.parse(await answer.json()) == ActivatorRoutes((route,))


async def test_a_standby_without_a_leader_tells_no_empty_table() -> None:
    async with aiohttp.ClientSession() as session:
        app = web.Application()
        app.add_routes([RouteServer(RouteBoard(), LeaderOnly(session, lambda: False, lambda: None)).route])
        async with TestServer(app) as server, session.get(server.make_url(PATH)) as answer:
            assert answer.status == 503
