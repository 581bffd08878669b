"""Reading the gates' results: which pods the operator asks, and how it treats a missing answer."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from builders import a_pod
from flash_contracts.gate_result import GateResult
from flash_operator.runtime import gates as gates_module
from flash_operator.runtime.gates import MOST_BYTES, Gates
from flash_operator.runtime.keys import FlashKey
from waiting import eventually_async

KEY = FlashKey("team", "flash")

RUNNING = [{"name": "gate", "state": {"running": {}}}]
WAITING = [{"name": "gate", "state": {"waiting": {}}}]


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as made:
        yield made


def a_gates_pod(name: str = "flash-a", **status: Any) -> dict[str, Any]:
    return a_pod(name, **{"podIP": "127.0.0.1", "initContainerStatuses": RUNNING, **status})


def leaving(pod: dict[str, Any]) -> dict[str, Any]:
    pod["metadata"]["deletionTimestamp"] = "2026-11-24T12:00:00Z"
    return pod


def a_gate(answer: Any) -> TestServer:
    async def result(_request: web.Request) -> web.Response:
        return web.json_response(answer)

    app = web.Application()
    app.router.add_get("/result", result)
    return TestServer(app)


async def answers(gates: Gates, pods: list[dict[str, Any]], key: FlashKey = KEY) -> dict[str, GateResult]:
    """The results of these pods' gates, without waiting for a first answer."""
    async with asyncio.timeout(20):
        while len(found := await gates.results(key, pods)) < len(pods):
            await asyncio.sleep(0.01)
    return found


async def test_a_gates_result_is_read(session: aiohttp.ClientSession) -> None:
    async with a_gate({"reason": "TooSlow", "passed": False, "message": "41 tok/s"}) as gate:
        results = await answers(Gates(session, gate.port or 0), [a_gates_pod()])
    assert {uid: (result.reason, result.message, result.reached) for uid, result in results.items()} == {
        "uid-of-flash-a": ("TooSlow", "41 tok/s", True)
    }


async def test_a_silent_gate_does_not_delay_the_others(session: aiohttp.ClientSession) -> None:
    async with a_gate({"reason": "Passed", "passed": True}) as gate:
        silent = a_gates_pod("flash-b", podIP="127.0.0.2")  # no process listens there
        results = await answers(Gates(session, gate.port or 0), [silent, a_gates_pod()])
    reported = {uid: (result.reason, result.passed, result.reached) for uid, result in results.items()}
    assert reported == {
        "uid-of-flash-b": ("EngineStarting", False, False),
        "uid-of-flash-a": ("Passed", True, True),
    }


async def test_an_answer_that_is_not_json_is_no_result(session: aiohttp.ClientSession) -> None:
    async def page(_request: web.Request) -> web.Response:
        return web.Response(text="<html>")

    app = web.Application()
    app.router.add_get("/result", page)
    async with TestServer(app) as server:
        results = await answers(Gates(session, server.port or 0), [a_gates_pod()])
    assert [(result.passed, result.reached) for result in results.values()] == [(False, False)]


async def test_a_giant_answer_is_not_read_to_its_end(session: aiohttp.ClientSession) -> None:
    sent = 0

    async def giant(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse()
        await response.prepare(request)
        while sent < 64 * MOST_BYTES:
            await response.write(b" " * 65536)
            sent += 65536
        return response

    app = web.Application()
    app.router.add_get("/result", giant)
    async with TestServer(app) as server:
        (result,) = (await answers(Gates(session, server.port or 0), [a_gates_pod()])).values()
    assert (result.passed, result.reached) == (False, False)
    assert "larger than 1 MiB" in result.message
    assert sent < 32 * MOST_BYTES


async def test_a_redirect_is_not_followed(session: aiohttp.ClientSession) -> None:
    followed: list[str] = []

    async def elsewhere(request: web.Request) -> web.Response:
        followed.append(request.path)
        return web.json_response({"reason": "Passed", "passed": True})

    async def redirect(_request: web.Request) -> web.Response:
        raise web.HTTPFound("/elsewhere")

    app = web.Application()
    app.router.add_get("/result", redirect)
    app.router.add_get("/elsewhere", elsewhere)
    async with TestServer(app) as server:
        (result,) = (await answers(Gates(session, server.port or 0), [a_gates_pod()])).values()
    assert (result.passed, result.reached, followed) == (False, False, [])
    assert "status 302" in result.message


class SlowGate:
    """A gate that answers after a while, or never."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.asked = 0

    def server(self) -> TestServer:
        async def result(_request: web.Request) -> web.Response:
            self.asked += 1
            await self.open.wait()
            return web.json_response({"reason": "Passed", "passed": True})

        app = web.Application()
        app.router.add_get("/result", result)
        return TestServer(app)


async def test_a_first_answer_is_not_waited_for_and_wakes_its_deployment(session: aiohttp.ClientSession) -> None:
    slow, woken = SlowGate(), list[FlashKey]()
    async with slow.server() as server:
        gates = Gates(session, server.port or 0, on_change=woken.append)
        async with asyncio.timeout(20):
            for _ in range(2):
                assert await gates.results(KEY, [a_gates_pod()]) == {}
            await eventually_async(lambda: slow.asked == 1, "one request at a time", pause=0.01)
            slow.open.set()
            await eventually_async(lambda: woken == [KEY], "it has answered", pause=0.01)
        assert (await gates.results(KEY, [a_gates_pod()]))["uid-of-flash-a"].passed
        await gates.close()


async def test_forty_silent_gates_delay_no_other_deployment(
    session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One after the other, as four workers would ask them: no gate is waited for twice."""
    monkeypatch.setattr("flash_operator.runtime.gates.TIMEOUT", aiohttp.ClientTimeout(total=0.3))
    slow = SlowGate()
    pods = {FlashKey("team", f"silent-{number}"): a_gates_pod(f"silent-{number}") for number in range(40)}
    async with slow.server() as server:
        gates = Gates(session, server.port or 0)
        silent = await asyncio.gather(*(answers(gates, [pod], key) for key, pod in pods.items()))
        assert {result.message for found in silent for result in found.values()} == {
            "the gate does not answer: no answer in time"
        }
        # From now on a reconcile that waits for a gate never ends.
        monkeypatch.setattr("flash_operator.runtime.gates.TIMEOUT", aiohttp.ClientTimeout(total=3600))
        monkeypatch.setattr("flash_operator.runtime.gates.PATIENCE_SECONDS", 3600.0)
        monkeypatch.setattr("flash_operator.runtime.gates.FRESH_SECONDS", -1.0)
        async with asyncio.timeout(20):
            for key, pod in pods.items():
                (known,) = (await gates.results(key, [pod])).values()
                assert known.reached is False
        await gates.close()
        slow.open.set()


async def test_a_gate_that_is_slow_for_once_keeps_its_last_answer(session: aiohttp.ClientSession) -> None:
    slow = SlowGate()
    slow.open.set()
    async with slow.server() as server:
        gates = Gates(session, server.port or 0)
        await answers(gates, [a_gates_pod()])
        slow.open.clear()
        (kept,) = (await gates.results(KEY, [a_gates_pod()])).values()
        assert (kept.passed, kept.reached) == (True, True)
        await gates.close()
        slow.open.set()


class CountingGate:
    """A gate whose answer can be changed, and that counts how often it is asked."""

    def __init__(self) -> None:
        self.answer: dict[str, Any] = {"reason": "Measuring", "passed": False}
        self.asked = 0

    def server(self) -> TestServer:
        async def result(_request: web.Request) -> web.Response:
            self.asked += 1
            return web.json_response(self.answer)

        app = web.Application()
        app.router.add_get("/result", result)
        return TestServer(app)


async def test_a_changed_result_wakes_its_deployment_and_the_same_one_does_not(session: aiohttp.ClientSession) -> None:
    gate, woken = CountingGate(), list[FlashKey]()
    gate.answer["load"] = {"running": 0, "waiting": 0}
    async with gate.server() as server:
        gates = Gates(session, server.port or 0, on_change=woken.append)
        await answers(gates, [a_gates_pod()])
        gates.poll(KEY, 0.01)
        woken.clear()
        asked = gate.asked
        await eventually_async(lambda: gate.asked > asked + 3, "it is asked again and again", pause=0.01)
        gate.answer["serving"] = {"badWindows": 1, "decodeTokensPerSecond": 71.3}
        gate.answer["load"] = {"running": 3, "waiting": 1, "ageSeconds": 0.5}
        asked = gate.asked
        await eventually_async(lambda: gate.asked > asked + 3, "its figures differ at every look", pause=0.01)
        assert woken == []
        gate.answer = {"reason": "Passed", "passed": True, "load": gate.answer["load"]}
        await eventually_async(lambda: woken, "the deployment is woken", pause=0.01)
        assert (await gates.results(KEY, [a_gates_pod()]))["uid-of-flash-a"].passed
        await gates.close()
    assert woken == [KEY]


async def test_the_last_known_requests_of_an_engine_outlast_a_silent_gate(session: aiohttp.ClientSession) -> None:
    gate = CountingGate()
    gate.answer["load"] = {"running": 3, "waiting": 1, "own": 1, "ageSeconds": 0.5}
    async with gate.server() as server:
        gates = Gates(session, server.port or 0)
        await answers(gates, [a_gates_pod()])
        del gate.answer["load"]
        gates.poll(KEY, 0.01)
        asked = gate.asked
        await eventually_async(lambda: gate.asked > asked + 2, "it is asked again", pause=0.01)
        (load,) = gates.loads(KEY).values()
        await gates.close()
    assert load.requests == 3
    assert load.received_ago > 0
    assert gates.loads(FlashKey("team", "other")) == {}


@pytest.mark.parametrize("how", ["forgotten", "its pod is gone", "nobody wants to know"])
async def test_a_gate_is_not_asked_any_more_when(how: str, session: aiohttp.ClientSession) -> None:
    gate = CountingGate()
    async with gate.server() as server:
        gates = Gates(session, server.port or 0)
        await gates.results(KEY, [a_gates_pod()])
        gates.poll(KEY, 0.01)
        match how:
            case "forgotten":
                gates.forget(KEY)
            case "its pod is gone":
                await gates.results(KEY, [])
            case _:
                gates.poll(KEY, None)
        asked = gate.asked
        await asyncio.sleep(0.1)
        assert gate.asked <= asked + 1, "but for a request that was under way"
        await gates.close()


async def test_a_silent_gate_is_asked_less_and_less_often(
    session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    pause = gates_module._Gate.pause  # noqa: SLF001 - what its timer is set to

    def noted(gate: gates_module._Gate, every: float) -> float:
        pauses.append(pause(gate, every))
        return 0.0

    monkeypatch.setattr(gates_module._Gate, "pause", noted)  # noqa: SLF001
    monkeypatch.setattr("flash_operator.runtime.gates.TIMEOUT", aiohttp.ClientTimeout(total=0.01))
    slow = SlowGate()
    async with slow.server() as server:
        gates = Gates(session, server.port or 0)
        await answers(gates, [a_gates_pod()])
        gates.poll(KEY, 2.0)
        await eventually_async(lambda: len(pauses) > 7, "it is asked again and again", pause=0.01)
        await gates.close()
        slow.open.set()
    assert pauses[:3] == [pytest.approx(seconds, rel=0.11) for seconds in (2, 4, 8)]
    assert pauses[5:8] == [pytest.approx(30, rel=0.11)] * 3


async def test_a_gate_that_is_about_to_start_is_asked_as_often_as_one_that_answers(
    session: aiohttp.ClientSession,
) -> None:
    """No process listens there yet. A download of seconds is over before half of the requests."""
    gates = Gates(session, port=1)
    await answers(gates, [a_gates_pod()])
    await answers(gates, [a_gates_pod()])
    (gate,) = gates._gates.values()  # noqa: SLF001 - when it is asked next
    assert gate.pause(2.0) == pytest.approx(2.0, rel=0.11)
    await gates.close()


async def test_an_answer_that_is_nested_too_deeply_is_no_answer(session: aiohttp.ClientSession) -> None:
    async def deep(_request: web.Request) -> web.Response:
        return web.Response(text="[" * 100_000)

    app = web.Application()
    app.router.add_get("/result", deep)
    async with TestServer(app) as server:
        (result,) = (await answers(Gates(session, server.port or 0), [a_gates_pod()])).values()
    assert (result.passed, result.reached) == (False, False)


NOT_ASKED = {
    "its gate has not started": a_gates_pod(initContainerStatuses=WAITING),
    "nothing is known of its containers": a_gates_pod(initContainerStatuses=[]),
    "it has no address": a_gates_pod(podIP=""),
    "it is on its way out": leaving(a_gates_pod()),
}


@pytest.mark.parametrize("pod", NOT_ASKED.values(), ids=NOT_ASKED.keys())
async def test_a_pod_is_not_asked_where(pod: dict[str, Any], session: aiohttp.ClientSession) -> None:
    assert await Gates(session, port=1).results(KEY, [pod]) == {}


async def test_an_address_of_ipv6_is_one() -> None:
    asked: list[str] = []

    async def note(_session: object, _context: object, parameters: aiohttp.TraceRequestStartParams) -> None:
        asked.append(str(parameters.url))

    tracing = aiohttp.TraceConfig()
    tracing.on_request_start.append(note)
    async with aiohttp.ClientSession(trace_configs=[tracing]) as session:
        await answers(Gates(session, port=1), [a_gates_pod(podIP="::1")])
    assert asked == ["http://[::1]:1/result"]


async def test_every_look_is_counted_and_a_silent_gate_is_known(session: aiohttp.ClientSession) -> None:
    looks: Counter[str] = Counter()
    async with a_gate({"reason": "Passed", "passed": True}) as gate:
        gates = Gates(session, gate.port or 0, on_look=lambda result: looks.update([result]))
        await answers(gates, [a_gates_pod()])
        assert (looks["answered"], gates.silent(KEY)) == (1, 0)
    gates._ask("uid-of-flash-a")  # noqa: SLF001 - as its timer does
    await eventually_async(lambda: looks["failed"] == 1, "it is asked again", seconds=20, pause=0.01)
    assert (gates.silent(KEY), gates.silent(FlashKey("team", "other"))) == (1, 0)
    gates.forget(KEY)
    assert gates.silent(KEY) == 0
