"""GET /demand: what KEDA is answered, by the leader and by a standby."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from prometheus_client import CollectorRegistry, generate_latest

from builders import a_load
from flash_contracts.demand_report import DemandReport
from flash_operator.core.observed.activator import Waiting
from flash_operator.core.observed.known_load import KnownLoad
from flash_operator.core.scaling.demand import DemandBasis
from flash_operator.runtime.demand_board import MOST_DEPLOYMENTS, SURE_SECONDS, DemandBoard, DemandCollector
from flash_operator.runtime.demand_server import DemandServer
from flash_operator.runtime.keys import FlashKey
from flash_operator.runtime.leader_only import FORWARDED, LeaderOnly

KEY = FlashKey("team", "flash")
PATH = "/demand/team/flash"


def a_basis(name: str = "flash", *, wanted: int = 2, loading: int = 0) -> DemandBasis:
    return DemandBasis("team", name, wanted, loading, ("a",), sequences=4, target_percent=75)


def a_board(*bases: DemandBasis, loads: dict[str, KnownLoad]) -> DemandBoard:
    board = DemandBoard(lambda _: loads)
    for basis in bases:
        board.put(FlashKey(basis.namespace, basis.name), basis)
    return board


@asynccontextmanager
async def an_operator(board: DemandBoard, *, leads: bool, leader: str | None = None) -> AsyncIterator[str]:
    async with aiohttp.ClientSession() as session:
        app = web.Application()
        app.add_routes([DemandServer(board, LeaderOnly(session, lambda: leads, lambda: leader)).route])
        async with TestServer(app) as server:
            yield str(server.make_url("")).rstrip("/")


async def ask(address: str, path: str = PATH, **headers: str) -> tuple[int, dict[str, Any]]:
    async with aiohttp.ClientSession() as session, session.get(f"{address}{path}", headers=headers) as answer:
        return answer.status, await answer.json(content_type=None) if answer.content_type != "text/plain" else {}


KNOWN = a_board(a_basis(), loads={"a": a_load(6)})
UNKNOWN = a_board(a_basis(), loads={})
NONE = a_board(loads={})


async def test_the_leader_answers_with_the_demand() -> None:
    async with an_operator(KNOWN, leads=True) as address:
        status, body = await ask(address)
    assert status == 200
    assert DemandReport.parse(body).target_replicas == 2.0
    assert isinstance(body["targetReplicas"], float)


async def test_unknown_demand_is_an_error_and_never_0() -> None:
    async with an_operator(UNKNOWN, leads=True) as address:
        status, body = await ask(address)
    assert (status, body["targetReplicas"]) == (503, None)
    assert "unknown" in body["error"]


@pytest.mark.parametrize("path", [PATH, "/demand/team/flash/x", "/demand/team/..%2Fmetrics", "/demand/team/Flash"])
async def test_what_nobody_knows_is_not_found(path: str) -> None:
    async with an_operator(NONE, leads=True) as address:
        assert (await ask(address, path))[0] == 404


@pytest.mark.parametrize(("board", "status"), [(KNOWN, 200), (UNKNOWN, 503), (NONE, 404)])
async def test_a_standby_answers_as_the_leader_does(board: DemandBoard, status: int) -> None:
    async with an_operator(board, leads=True) as leader, an_operator(NONE, leads=False, leader=leader) as standby:
        assert await ask(standby) == await ask(leader)
        assert (await ask(standby))[0] == status


@pytest.mark.parametrize("leader", [None, "", "http://127.0.0.1:1", "http://not an address", "x"])
async def test_without_a_leader_a_standby_answers_with_an_error(leader: str | None) -> None:
    async with an_operator(KNOWN, leads=False, leader=leader) as standby:
        status, body = await ask(standby)
    assert status == 503
    assert "is a standby" in body["error"]
    assert "targetReplicas" not in body


async def test_two_standbys_do_not_ask_each_other_for_ever() -> None:
    async with an_operator(NONE, leads=False, leader="http://127.0.0.1:1") as second:
        assert (await ask(second, PATH, **{FORWARDED: "1"}))[0] == 503
        async with an_operator(NONE, leads=False, leader=second) as first:
            assert (await ask(first))[0] == 503


def test_time_in_which_the_demand_was_unknown_is_no_idle_time() -> None:
    """KEDA would stop the last replica at the first 0 after an operator was away for longer than idle.afterSeconds."""
    now, loads = [1000.0], {"a": a_load()}
    board = DemandBoard(lambda _: loads, lambda _: Waiting(), clock=lambda: now[0])

    def target() -> float | None:
        report = board.report(KEY)
        assert report is not None
        return report.target_replicas

    board.put(KEY, replace(a_basis(wanted=1), to_zero=True))
    assert target() == 1.0, "this operator has just begun"
    now[0] += SURE_SECONDS
    assert target() == 0.0
    known = loads.pop("a")
    assert target() is None
    loads["a"] = known
    assert target() == 1.0, "it was unknown a moment ago"
    now[0] += SURE_SECONDS
    assert target() == 0.0
    board.put(KEY, replace(a_basis(wanted=1), to_zero=True))
    assert target() == 0.0, "another look changes nothing"
    board.forget(KEY)
    board.put(KEY, replace(a_basis(wanted=1), to_zero=False))
    assert target() == 0.0, "the autoscaler of one that keeps a replica has a minimum"


def metrics(board: DemandBoard) -> str:
    registry = CollectorRegistry()
    registry.register(DemandCollector(board))
    return generate_latest(registry).decode()


def test_the_metrics_of_a_deployment() -> None:
    text = metrics(a_board(a_basis(loading=1), loads={"a": a_load(6)}))
    labels = '{deployment_name="flash",deployment_namespace="team"}'
    for name, value in {"wanted": 2, "loading": 1, "ready": 1, "demand": 2, "target": 2}.items():
        assert f"flash_operator_deployment_{name}_replicas{labels} {value}.0" in text


def test_unknown_demand_has_no_series() -> None:
    text = metrics(UNKNOWN)
    assert "flash_operator_deployment_ready_replicas{" in text
    assert "flash_operator_deployment_demand_replicas{" not in text
    assert "flash_operator_deployment_target_replicas{" not in text


def test_a_part_of_the_demand_is_no_demand() -> None:
    """KEDA's formula for Prometheus cannot see that something is missing."""
    basis = DemandBasis("team", "flash", 2, 0, ("a", "b"), sequences=4, target_percent=75)
    text = metrics(a_board(basis, loads={"a": a_load(0)}))
    assert "flash_operator_deployment_demand_replicas{" not in text
    assert 'flash_operator_deployment_target_replicas{deployment_name="flash",deployment_namespace="team"} 2.0' in text


def test_a_deployment_that_is_gone_has_none() -> None:
    board = a_board(a_basis(), loads={})
    board.forget(KEY)
    assert "deployment_name" not in metrics(board)


def test_the_series_are_bounded() -> None:
    board = a_board(*(a_basis(f"f{number}") for number in range(MOST_DEPLOYMENTS + 3)), loads={})
    text = metrics(board)
    assert text.count("flash_operator_deployment_ready_replicas{") == MOST_DEPLOYMENTS
    assert "flash_operator_deployments_without_metrics 3.0" in text
