"""The activator with real clients: requests at zero wait, and are passed on once a replica serves."""

import asyncio
import json
import os
import signal
import sys
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from yarl import URL

from activator_site import CHAT, ActivatorSite, a_route, an_activator, an_engine, until
from flash_operator.activator import deployments, handler, process, waiting
from ports import a_free_port

Answer = tuple[int, dict[str, str], bytes]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "ASK_SECONDS", 0.02)
    monkeypatch.setattr(waiting, "AVOIDED_SECONDS", 0.05)
    monkeypatch.setattr(handler, "AVOIDED_SECONDS", 0.05)


async def send(url: str, body: bytes = b"{}", method: str = "POST", **headers: str) -> Answer:
    async with (
        aiohttp.ClientSession(auto_decompress=False) as session,
        session.request(method, URL(url, encoded=True), data=body or None, headers=headers) as answer,
    ):
        return answer.status, dict(answer.headers), await answer.read()


def sent(url: str, body: bytes = b"{}", method: str = "POST", **headers: str) -> "asyncio.Task[Answer]":
    return asyncio.create_task(send(url, body, method, **headers))


def error_of(answer: Answer) -> dict[str, Any]:
    error: dict[str, Any] = json.loads(answer[2])["error"]
    return error


async def counted(site: ActivatorSite, outcome: str) -> float:
    _, text = await site.control_answer("/metrics")
    lines = [
        line for line in text.splitlines() if line.startswith(f'flash_activator_requests_total{{outcome="{outcome}"}}')
    ]
    return float(lines[0].split()[1]) if lines else 0.0


async def test_twenty_requests_that_arrive_at_zero_are_all_answered() -> None:
    async with an_engine() as (endpoint, engine), an_activator() as site:
        engine.release.set()
        bodies = [json.dumps({"number": n, **({"stream": True} if n % 2 else {})}).encode() for n in range(20)]
        requests = [sent(site.url, body) for body in bodies]
        await site.waiting(20)
        (held,) = (await site.report()).held
        assert (held.namespace, held.name, held.waiting, held.last_seconds) == ("team", "flash", 20, 0.0)
        site.serve(endpoint)
        answers = await asyncio.gather(*requests)
        assert [status for status, _, _ in answers] == [200] * 20
        assert [body for *_, body in answers[1::2]] == [b"data: first\n\ndata: [DONE]\n\n"] * 10
        assert [json.loads(body)["got"].encode() for *_, body in answers[::2]] == bodies[::2]
        assert sorted(seen[3] for seen in engine.requests) == sorted(bodies), "each once"
        (held,) = (await site.report()).held
        assert held.waiting == 0
        assert await counted(site, "passed_on") == 20


async def test_a_request_is_passed_on_as_it_is_and_ends_its_connection() -> None:
    async with an_engine() as (endpoint, engine), an_activator() as site:
        site.serve(endpoint)
        headers = {
            "Authorization": "Bearer key",
            "X-Mine": "1",
            "Connection": "keep-alive, X-Private",
            "X-Private": "no",
        }
        status, back, body = await send(f"{site.url}?a=%2F&b", b"question", **headers)
        ((method, path, seen, question),) = engine.requests
        assert (method, path, question) == ("POST", f"{CHAT}?a=%2F&b", b"question")
        assert (seen["Authorization"], seen["X-Mine"], seen["Host"]) == ("Bearer key", "1", f"127.0.0.1:{site.port}")
        assert "X-Private" not in seen
        assert (status, back["X-Engine"], back["Connection"]) == (200, "yes", "close")
        assert "X-Hop" not in back
        assert json.loads(body) == {"got": "question"}


async def test_an_encoded_body_stays_encoded() -> None:
    async with an_engine() as (endpoint, engine), an_activator() as site:
        site.serve(endpoint)
        assert (await send(site.url, b"no gzip at all", **{"Content-Encoding": "gzip"}))[0] == 200
        ((_, _, seen, body),) = engine.requests
        assert (seen["Content-Encoding"], body) == ("gzip", b"no gzip at all")


async def test_a_stream_arrives_part_by_part_and_stops_when_its_client_leaves() -> None:
    async with an_engine() as (endpoint, engine), an_activator() as site:
        site.serve(endpoint)
        async with aiohttp.ClientSession() as session, session.post(site.url, data=b'{"stream": 1}') as answer:
            assert await answer.content.readline() == b"data: first\n", "before the engine has gone on"
            assert site.activator.admission.requests == 1
        await until(lambda: engine.ended == ["client left"])
        await until(lambda: site.activator.admission.requests == 0)


async def test_a_client_that_leaves_gives_up_its_place() -> None:
    async with an_engine() as (endpoint, engine), an_activator(max_requests_of_one=1) as site:
        first = sent(site.url)
        await site.waiting(1)
        first.cancel()
        await site.waiting(0)
        await until(lambda: site.activator.admission.requests == 0)
        second = sent(site.url, b"second")
        await site.waiting(1)
        site.serve(endpoint)
        assert (await second)[0] == 200
        assert [seen[3] for seen in engine.requests] == [b"second"]
        assert await counted(site, "client_left") == 1


@pytest.mark.parametrize(
    ("settings", "waiting", "body", "status", "code"),
    [
        ({"max_requests_of_one": 2}, 2, b"{}", 503, "too_many_waiting"),
        ({"max_requests": 2}, 2, b"{}", 503, "too_many_waiting"),
        ({"max_body_bytes": 10}, 0, b"x" * 11, 413, "body_too_large"),
        ({"max_total_bytes": 10}, 1, b"x" * 9, 503, "too_many_waiting"),
    ],
    ids=["for one deployment", "in all", "a body", "all bodies"],
)
async def test_what_is_held_is_bounded(
    settings: dict[str, Any], waiting: int, body: bytes, status: int, code: str
) -> None:
    async with an_engine() as (endpoint, engine), an_activator(**settings) as site:
        held = [sent(site.url) for _ in range(waiting)]
        await site.waiting(waiting)
        answer = await send(site.url, body)
        assert (answer[0], error_of(answer)["code"]) == (status, code)
        assert (answer[1].get("Retry-After") is not None) == (status == 503)
        site.serve(endpoint)
        assert [(await one)[0] for one in held] == [200] * waiting
        assert len(engine.requests) == waiting
        await until(lambda: site.activator.admission.bytes == 0)


async def test_one_deployment_cannot_take_the_places_of_another() -> None:
    async with an_engine() as (endpoint, _), an_activator(max_requests_of_one=1) as site:
        other = a_free_port()
        site.routes.append(a_route(other, name="other"))
        await until(lambda: other in site.activator.listening)
        held = sent(site.url)
        await site.waiting(1)
        second = sent(f"http://127.0.0.1:{other}{CHAT}")
        await site.waiting(2)
        assert (await send(site.url))[0] == 503
        site.routes = [a_route(site.port, endpoint), a_route(other, endpoint, name="other")]
        assert [(await one)[0] for one in (held, second)] == [200, 200]


async def test_a_request_that_waits_too_long_is_told_what_is_going_on() -> None:
    async with an_activator() as site:
        site.routes = [a_route(site.port, hold_seconds=0.3)]
        await until(lambda: site.activator.deployments.at(site.port).route.hold_seconds == 0.3)
        answer = await send(site.url)
        error = error_of(answer)
        assert (answer[0], answer[1]["Retry-After"]) == (503, "30")
        assert answer[1]["Connection"] == "close"
        assert (error["type"], error["code"], error["param"]) == ("server_error", "model_starting", None)
        assert "team/flash has no replica that serves" in error["message"]
        assert "up to 900 s" in error["message"]


async def test_the_next_one_is_told_how_long_the_last_start_took() -> None:
    async with an_engine() as (endpoint, _), an_activator() as site:
        first = sent(site.url)
        await site.waiting(1)
        site.serve(endpoint)
        await first
        site.routes = [a_route(site.port, hold_seconds=0.2)]
        await until(lambda: site.activator.deployments.at(site.port).route.endpoints == ())
        assert "The last start took 0 s" in error_of(await send(site.url))["message"]


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/v1/models"), ("GET", "/metrics"), ("HEAD", "/health"), ("DELETE", "/x")]
)
async def test_only_a_post_wakes(method: str, path: str) -> None:
    async with an_engine() as (endpoint, engine), an_activator() as site:
        status, headers, _ = await send(f"http://127.0.0.1:{site.port}{path}", b"", method)
        assert (status, headers["Retry-After"]) == (503, "30")
        assert (await site.report()).held == ()
        site.serve(endpoint)
        await until(lambda: bool(site.activator.deployments.at(site.port).route.endpoints))
        assert (await send(f"http://127.0.0.1:{site.port}{path}", b"", method))[0] == 200
        assert len(engine.requests) == 1


async def test_a_replica_that_takes_no_connection_is_asked_again_or_another_one_is() -> None:
    closed = f"127.0.0.1:{a_free_port()}"
    async with an_engine() as (endpoint, engine), an_activator() as site:
        site.serve(closed)
        waits = sent(site.url, b"once")
        await until(lambda: bool(site.activator.deployments.at(site.port).avoided))
        site.serve(closed, endpoint)
        assert (await waits)[0] == 200
        assert [seen[3] for seen in engine.requests] == [b"once"]


async def test_a_request_that_a_replica_may_have_carried_out_is_not_sent_again() -> None:
    async with an_engine() as (endpoint, engine), an_activator() as site:
        site.serve(endpoint)
        answer = await send(site.url, b'{"break": 1}')
        assert (answer[0], error_of(answer)["code"]) == (502, "replica_failed")
        assert len(engine.requests) == 1


async def test_an_answer_that_breaks_off_does_not_look_whole() -> None:
    async with an_engine() as (endpoint, engine), an_activator() as site:
        site.serve(endpoint)
        engine.ended = ["break"]
        async with aiohttp.ClientSession() as session, session.post(site.url, data=b'{"stream": 1}') as answer:
            assert await answer.content.readline() == b"data: first\n"
            engine.release.set()
            with pytest.raises(aiohttp.ClientError):
                await answer.content.read()


async def test_a_port_that_was_another_deployments_refuses_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    async with an_engine() as (endpoint, engine), an_activator() as site:
        waits = sent(site.url)
        await site.waiting(1)
        site.routes = [a_route(site.port, endpoint, name="other")]
        assert (await waits)[0] == 404, "its deployment is gone"
        answer = await send(site.url)
        assert (answer[0], error_of(answer)["code"]) == (503, "port_moved")
        assert engine.requests == []
        monkeypatch.setattr(deployments, "MOVED_SECONDS", 0.0)
        assert (await send(site.url))[0] == 200


async def test_a_deployment_that_is_gone_is_forgotten_only_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator that has just taken over knows none yet."""
    async with an_activator() as site:
        waits = sent(site.url)
        await site.waiting(1)
        site.routes = []
        await asyncio.sleep(0.1)
        assert site.activator.deployments.waiting == 1
        monkeypatch.setattr(deployments, "ABSENT_SECONDS", 0.05)
        assert error_of(await waits)["code"] == "no_deployment"
        await until(lambda: site.port not in site.activator.listening)


async def test_while_the_operator_is_away_the_last_routes_stay() -> None:
    async with an_engine() as (endpoint, _), an_activator() as site:
        site.serve(endpoint)
        await until(lambda: bool(site.activator.deployments.at(site.port).route.endpoints))
        site.operator_answers = False
        await asyncio.sleep(0.1)
        assert (await send(site.url))[0] == 200
        assert (await site.control_answer("/readyz"))[0] == 200


async def test_one_that_knows_no_routes_yet_is_alive_and_not_ready() -> None:
    async with an_activator() as site:
        assert (await site.control_answer("/readyz"))[0] == 200
        site.operator_answers = False
        await asyncio.sleep(0.1)
        site.activator.deployments.has_routes = False
        assert [(await site.control_answer(path))[0] for path in ("/healthz", "/readyz")] == [200, 503]


async def test_neither_bodies_nor_keys_are_in_logs_or_metrics(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    async with an_engine() as (endpoint, _), an_activator() as site:
        waits = sent(f"{site.url}?q=secret-query", b"secret-body", Authorization="Bearer secret-key")
        await site.waiting(1)
        site.serve(endpoint)
        await waits
        logged = caplog.text + "".join(capsys.readouterr())
        assert "passed on" in logged
        shown = logged + (await site.control_answer("/metrics"))[1] + (await site.control_answer("/held"))[1]
    assert "secret" not in shown


async def test_what_waits_when_it_stops_is_told_to_come_again_and_wakes_all_the_same() -> None:
    async with an_engine() as (endpoint, engine), an_activator(linger_seconds=0.5) as site:
        other = a_free_port()
        site.routes.append(a_route(other, endpoint, name="awake"))
        await until(lambda: other in site.activator.listening)
        stream = sent(f"http://127.0.0.1:{other}{CHAT}", b'{"stream": 1}')
        await until(lambda: bool(engine.requests))
        held = [sent(site.url) for _ in range(3)]
        await site.waiting(3)
        site.stop.set()
        for answer in await asyncio.gather(*held):
            assert (answer[0], answer[1]["Retry-After"], error_of(answer)["code"]) == (503, "1", "activator_stopping")
        assert (await site.control_answer("/readyz"))[0] == 503
        (known,) = (await site.report()).held
        assert (known.name, known.waiting, known.last_seconds < 5) == ("flash", 0, True)
        late = await send(site.url)
        assert error_of(late)["code"] == "activator_stopping", "its address is still in a Service"
        engine.release.set()
        assert (await stream)[2].endswith(b"[DONE]\n\n"), "what was passed on is not cut off"


MALFORMED: dict[str, tuple[list[bytes], int]] = {
    "a target that is no path": ([b"POST http://elsewhere/v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"], 400),
    "two lengths": (
        [b"POST /v1/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n"],
        400,
    ),
    "a chunk without a size": (
        [b"POST /v1/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", b"ZZ\r\nsecret\r\n"],
        408,
    ),
    "a tunnel": ([b"CONNECT elsewhere:80 HTTP/1.1\r\nHost: a\r\n\r\n"], 404),
}


@pytest.mark.parametrize(("parts", "status"), MALFORMED.values(), ids=MALFORMED)
async def test_what_is_malformed_reaches_no_replica_and_wakes_nobody(
    parts: list[bytes], status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handler, "BODY_SECONDS", 0.5)
    async with an_engine() as (endpoint, engine), an_activator() as site:
        site.serve(endpoint)
        await until(lambda: bool(site.activator.deployments.at(site.port).route.endpoints))
        reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
        for part in parts:
            writer.write(part)
            await asyncio.sleep(0.05)
        answer = await asyncio.wait_for(reader.read(4000), 10)
        writer.close()
        assert int(answer.split()[1]) == status
        assert engine.requests == []
        await until(lambda: site.activator.admission.requests == 0)
        assert (await site.report()).held == ()


async def test_a_process_that_gets_sigterm_turns_away_what_waits_in_it_and_ends() -> None:
    site = ActivatorSite(a_free_port(), a_free_port())
    app = web.Application()
    app.add_routes([web.get("/activator/routes", site.update)])
    async with TestServer(app) as operator:
        arguments = (f"--operator-url={operator.make_url('')}", f"--control-port={site.control.rpartition(':')[2]}")
        started = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "flash_operator.activator", *arguments, "--linger-seconds=0.5"),
            stderr=asyncio.subprocess.PIPE,
            env=os.environ,
        )
        try:
            async with asyncio.timeout(60):
                await listens(site.port)
                reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
                writer.write(
                    b"POST /v1/x HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer secret-key\r\nBad Header: secret\r\n\r\n"
                )
                assert b"400" in await reader.readline()
                writer.close()
                held = [sent(site.url, b"secret-body", Authorization="Bearer secret-key") for _ in range(3)]
                while sum(one.waiting for one in (await site.report()).held) < 3:
                    await asyncio.sleep(0.02)
                started.send_signal(signal.SIGTERM)
                assert [(await one)[0] for one in held] == [503] * 3
                assert [one.name for one in (await site.report()).held] == ["flash"], "the operator still learns of it"
                _, log = await started.communicate()
        finally:
            if started.returncode is None:
                started.kill()
    assert started.returncode == 0
    assert [json.loads(line)["event"] for line in log.decode().splitlines()][-1] == "stopped"
    assert b"secret" not in log


async def listens(port: int) -> None:
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.05)
        else:
            writer.close()
            return
