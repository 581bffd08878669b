"""flash-drain: what it waits for, and that it never fails a container that is to stop."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from engine_stub.engine import EngineStub
from engine_stub.scripts import without_metrics
from flash_contracts.engine_pod import QUARANTINE_FILE, DrainRequest
from flash_contracts.engine_record import EngineRecord
from flash_engine.drain.connections import POLL_SECONDS, CloseWhileDraining
from flash_engine.drain.drain_progress import ASK_SECONDS, SETTLE_SECONDS, STILL_SECONDS, DrainProgress
from flash_engine.drain.one_token import gives_a_token
from flash_engine.engine_metrics import EngineCounters

STARTED = "2026-11-24T12:00:00.000Z"


def counters(running: float = 0, generated: float = 0, waiting: float = 0) -> EngineCounters:
    return EngineCounters(generated=generated, running=running, drafted=None, accepted=None, waiting=waiting)


Looks = list[tuple[float, EngineCounters | None]]

STORIES: dict[str, tuple[float, Looks, float, str | None]] = {
    "nobody was on it: clients still get their time to learn of it": (
        60, [(0, counters()), (4, counters())], 4, None),
    "nobody was on it for as long": (60, [(0, counters()), (5, counters())], 5, "no requests are left"),
    "a request ends": (
        60, [(0, counters(1)), (10, counters(0, 50)), (15, counters(0, 50))], 15, "no requests are left"),
    "a request came late": (
        60, [(0, counters()), (4, counters(1, 3)), (8, counters(0, 9)), (12, counters(0, 9))], 12, None),
    "one waits in the engine's queue": (
        60, [(0, counters(waiting=1)), (20, counters(waiting=1, generated=5))], 20, None),
    "its time is over": (
        30, [(0, counters(2)), (30, counters(2, 500))], 30, "2 requests are left after 30 s, which is drain.timeout"),
    "the engine hangs": (
        3600, [(0, counters(1, 5)), (60, counters(1, 5))], STILL_SECONDS, "1 request is left, and the engine"),
    "the engine does not answer, and may yet": (60, [(0, None), (30, None)], 30, None),
    "the engine never answers": (60, [(0, None), (60, None)], 60, "the engine does not answer after 60 s"),
    "no time at all": (0, [(0, counters(3))], 0, "3 requests are left after 0 s"),
    "less time than it takes to settle": (2, [(0, counters()), (2, counters())], 2, "no requests are left"),
}  # fmt: skip


def asked_after(*looks: tuple[float, EngineCounters], answered: bool = True) -> DrainProgress:
    """A wait in which the engine stood still for ASK_SECONDS and was asked, and what was read then."""
    waiting = DrainProgress(began=0, timeout=3600).after_counters(counters(2, 500, waiting=1), 0)
    assert not waiting.must_ask(ASK_SECONDS - 1)
    assert waiting.must_ask(ASK_SECONDS)
    waiting = waiting.after_question(answered=answered)
    for moment, seen in looks:
        waiting = waiting.after_counters(seen, ASK_SECONDS + moment)
    return waiting


STANDS = counters(2, 501, waiting=1)
ASKED: dict[str, tuple[Looks, bool, float, str | None]] = {
    "it answers and does no other work: its gauges stayed up": (
        [(1, STANDS), (7, STANDS)], True, 7,
        "no requests are left: the engine answers and does no other work, although its gauges show 3"),
    "clients still get their time to learn of it": ([(1, STANDS), (4, STANDS)], True, 4, None),
    "it works on others too": ([(1, counters(2, 540, waiting=1)), (9, counters(2, 540, waiting=1))], True, 9, None),
    "a request comes afterwards": ([(1, STANDS), (4, counters(3, 501, waiting=1)), (12, counters(3, 501, waiting=1))],
                                   True, 12, None),
    "one of the requests moves afterwards": ([(1, STANDS), (4, counters(2, 502, waiting=1)),
                                              (12, counters(2, 502, waiting=1))], True, 12, None),
    "it gives no token: it may read a long prompt": ([(1, counters(2, 500, waiting=1))], False, 20, None),
    "it gives none, and nothing moves": (
        [(1, counters(2, 500, waiting=1))], False, STILL_SECONDS,
        "3 requests are left, and the engine makes no progress"),
}  # fmt: skip


@pytest.mark.parametrize(("looks", "answered", "at", "outcome"), ASKED.values(), ids=ASKED.keys())
def test_an_engine_without_progress_is_asked(looks: Looks, answered: bool, at: float, outcome: str | None) -> None:  # noqa: FBT001
    waiting = asked_after(*((moment, seen) for moment, seen in looks if seen), answered=answered)
    assert waiting.outcome(ASK_SECONDS + at) == outcome
    assert not waiting.must_ask(ASK_SECONDS + 100), "it is asked once"


async def test_the_question_is_answered_by_an_engine_with_a_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "key").write_text("sesame")
    monkeypatch.setenv("FLASH_API_KEYS_DIR", str(tmp_path))
    seen: list[tuple[str, str | None]] = []

    async def answer(request: web.Request) -> web.Response:
        seen.append((request.path, request.headers.get("Authorization")))
        reply = {"data": [{"id": "m"}]} if request.method == "GET" else {"choices": [{"text": "4"}]}
        return web.json_response(reply if request.headers.get("Authorization") == "Bearer sesame" else {}, status=200)

    app = web.Application()
    app.add_routes([web.route("*", "/v1/{path:.*}", answer)])
    async with TestServer(app) as server:
        url = str(server.make_url("")).rstrip("/")
        assert await asyncio.to_thread(gives_a_token, url, 5.0)
    assert seen == [("/v1/models", "Bearer sesame"), ("/v1/completions", "Bearer sesame")]
    assert not await asyncio.to_thread(gives_a_token, url, 1.0), "nobody listens"


@pytest.mark.parametrize(("timeout", "looks", "at", "outcome"), STORIES.values(), ids=STORIES.keys())
def test_the_wait(timeout: float, looks: Looks, at: float, outcome: str | None) -> None:
    waiting = DrainProgress(began=0, timeout=timeout)
    for moment, seen in looks:
        waiting = waiting.after_counters(seen, moment)
    reported = waiting.outcome(at)
    assert reported is None if outcome is None else reported is not None and reported.startswith(outcome)


async def drain(folder: Path, url: str, seconds: str = "60", **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **variables,
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join(sys.path),
        "FLASH_RUN_DIR": str(folder),
        "FLASH_DRAIN_SECONDS": seconds,
        "FLASH_ENGINE_URL": url,
    }
    command = [sys.executable, "-m", "flash_engine.drain"]
    return await asyncio.to_thread(
        subprocess.run, command, env=environment, capture_output=True, text=True, check=False
    )


async def test_it_waits_for_the_last_request_of_a_real_connection(tmp_path: Path) -> None:
    engine = EngineStub()
    engine.traits.running = 1
    EngineRecord("Starting", 7, STARTED, 1).write(tmp_path / EngineRecord.FILE)
    async with TestServer(engine.app()) as server:
        draining = asyncio.create_task(drain(tmp_path, str(server.make_url("")).rstrip("/")))
        await asyncio.sleep(1)
        while not (tmp_path / DrainRequest.FILE).exists():
            await asyncio.sleep(0.05)
        assert not draining.done()
        engine.traits.running = 0
        done = await draining

    assert done.returncode == 0
    assert json.loads(done.stderr.splitlines()[-1])["outcome"] == "no requests are left"
    asked = json.loads((tmp_path / DrainRequest.FILE).read_text())
    assert (asked["pid"], asked["startedAt"]) == (7, STARTED)


async def test_proxy_variables_are_ignored(tmp_path: Path) -> None:
    """The proxy would refuse the connection, which counts as no engine, and the request would be cut off."""
    engine = EngineStub()
    engine.traits.running = 1
    proxies = dict.fromkeys(("http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"), "http://127.0.0.1:1")
    async with TestServer(engine.app()) as server:
        done = await drain(tmp_path, str(server.make_url("")).rstrip("/"), "1", **proxies)
    assert "1 request is left after 1 s" in done.stderr


async def test_an_engine_that_does_not_listen_has_no_requests(tmp_path: Path) -> None:
    """It is loading or has exited, so a deleted pod need not wait."""
    done = await drain(tmp_path, "http://127.0.0.1:1", "3600")
    assert done.returncode == 0
    assert "no requests are left" in done.stderr


async def test_an_engine_that_does_not_answer_is_waited_for_no_longer_than_allowed(tmp_path: Path) -> None:
    engine = EngineStub(without_metrics())
    async with TestServer(engine.app()) as server:
        done = await drain(tmp_path, str(server.make_url("")).rstrip("/"), "0.5")
    assert done.returncode == 0
    assert "the engine does not answer after 0.5 s" in done.stderr


async def test_an_unwritable_folder_does_not_stop_the_drain(tmp_path: Path) -> None:
    done = await drain(tmp_path / "nowhere", "http://127.0.0.1:1", "0")
    assert done.returncode == 0
    assert "drain.json not written" in done.stderr


def test_a_bad_setting_is_named() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "flash_engine.drain"],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "FLASH_RUN_DIR" in done.stderr


def test_the_time_to_settle_is_longer_than_a_probe_of_the_kubelet_takes() -> None:
    """Readiness is probed every 2 s and lost at the second miss."""
    assert SETTLE_SECONDS > 4


LEFT_ALONE = [(b"content-type", b"text/plain"), (b"connection", b"keep-alive")]
LET_GO = [(b"content-type", b"text/plain"), (b"connection", b"close")]


class AServer:
    """The middleware around an application that answers each request."""

    def __init__(self, folder: Path) -> None:
        self.run_dir, self.node_dir = folder / "run", folder / "node"
        for made in (self.run_dir, self.node_dir):
            made.mkdir()
        self._middleware = CloseWhileDraining(self._answer)

    async def _answer(self, _scope: object, _receive: object, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": list(LEFT_ALONE)})
        await send({"type": "http.response.body", "body": b"all of it"})

    async def headers(self, kind: str = "http") -> list[tuple[bytes, bytes]]:
        sent: list[Any] = []

        async def keep(message: Any) -> None:
            sent.append(message)

        async def receive() -> Any:
            raise AssertionError("the application asks for nothing")

        await self._middleware({"type": kind}, receive, keep)
        assert sent[1]["body"] == b"all of it"
        headers: list[tuple[bytes, bytes]] = sent[0]["headers"]
        return headers

    async def headers_later(self) -> list[tuple[bytes, bytes]]:
        await asyncio.sleep(POLL_SECONDS)
        return await self.headers()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AServer:
    monkeypatch.setenv("FLASH_RUN_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("FLASH_NODE_DIR", str(tmp_path / "node"))
    return AServer(tmp_path)


def a_run(pid: int) -> EngineRecord:
    return EngineRecord("Starting", pid, STARTED, 1)


async def test_kept_alive_connections_are_closed_while_the_engine_drains(server: AServer) -> None:
    a_run(7).write(server.run_dir / EngineRecord.FILE)
    assert await server.headers() == LEFT_ALONE
    DrainRequest.of(a_run(7)).write(server.run_dir / DrainRequest.FILE)
    assert await server.headers_later() == LET_GO
    assert await server.headers("websocket") == LEFT_ALONE


async def test_an_engine_that_came_after_the_drain_keeps_its_connections(server: AServer) -> None:
    DrainRequest.of(a_run(7)).write(server.run_dir / DrainRequest.FILE)
    a_run(8).write(server.run_dir / EngineRecord.FILE)
    assert await server.headers() == LEFT_ALONE


async def test_connections_are_closed_during_quarantine_and_kept_again_after_it(server: AServer) -> None:
    granted = server.node_dir / QUARANTINE_FILE
    granted.write_text("2026-11-24T11:00:00.000Z")
    assert await server.headers() == LET_GO
    granted.write_text("")
    assert await server.headers_later() == LEFT_ALONE


async def test_a_server_outside_of_a_pod_keeps_its_connections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("FLASH_RUN_DIR", "FLASH_NODE_DIR"):
        monkeypatch.delenv(variable, raising=False)
    assert await AServer(tmp_path).headers() == LEFT_ALONE
