"""An activator in this process between real HTTP clients and a stub of an engine, and the stub of an operator."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestServer

from flash_contracts.activation import ActivatorReport, ActivatorRoute, ActivatorRoutes
from flash_operator.activator.process import Activator
from flash_operator.activator.settings import ActivatorSettings
from ports import a_free_port

CHAT = "/v1/chat/completions"


@dataclass
class EngineSeen:
    """An engine that answers with what it was asked, or streams some parts."""

    requests: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    """How its streams ended."""
    release: asyncio.Event = field(default_factory=asyncio.Event)
    """Streams give their first part, and go on once this is set."""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.requests.append((request.method, request.raw_path, dict(request.headers), body))
        if b'"stream"' in body:
            return await self._stream(request)
        if b'"break"' in body:
            assert request.transport is not None
            request.transport.abort()
        return web.json_response(
            {"got": body.decode()}, headers={"X-Engine": "yes", "Connection": "X-Hop", "X-Hop": "1"}
        )

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        try:
            await response.write(b"data: first\n\n")
            await self.release.wait()
            if self.ended == ["break"]:
                assert request.transport is not None
                request.transport.abort()
            await response.write(b"data: [DONE]\n\n")
        except (ConnectionError, asyncio.CancelledError):
            self.ended.append("client left")
            raise
        self.ended.append("whole")
        return response


@asynccontextmanager
async def an_engine() -> AsyncIterator[tuple[str, EngineSeen]]:
    """Its HOST:PORT, and what it saw."""
    seen, app = EngineSeen(), web.Application()
    app.add_routes([web.route("*", "/{path:.*}", seen.answer)])
    runner = web.AppRunner(app, handler_cancellation=True, auto_decompress=False)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"127.0.0.1:{runner.addresses[0][1]}", seen
    finally:
        await runner.cleanup()


class ActivatorSite:
    """An activator, and the operator that tells it the routes."""

    activator: Activator

    def __init__(self, port: int, control_port: int) -> None:
        self.port = port
        self.control = f"http://127.0.0.1:{control_port}"
        self.routes: list[ActivatorRoute] = [a_route(port)]
        self.operator_answers = True
        self.stop = asyncio.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}{CHAT}"

    def serve(self, *endpoints: str) -> None:
        """The deployment's replicas that serve, from now on."""
        self.routes = [replace(self.routes[0], endpoints=endpoints), *self.routes[1:]]

    async def update(self, _request: web.Request) -> web.Response:
        if not self.operator_answers:
            return web.json_response({"error": "a standby"}, status=503)
        return web.json_response(ActivatorRoutes(tuple(self.routes)).to_json())

    async def report(self) -> ActivatorReport:
        async with aiohttp.ClientSession() as session, session.get(f"{self.control}/held") as answer:
            return ActivatorReport.parse(await answer.json())

    async def control_answer(self, path: str) -> tuple[int, str]:
        async with aiohttp.ClientSession() as session, session.get(f"{self.control}{path}") as answer:
            return answer.status, await answer.text()

    async def waiting(self, number: int) -> None:
        """Until so many requests wait."""
        await until(lambda: self.activator.deployments.waiting == number)


def a_route(port: int, *endpoints: str, name: str = "flash", hold_seconds: float = 30.0) -> ActivatorRoute:
    return ActivatorRoute("team", name, port, endpoints, hold_seconds, start_seconds=900.0)


async def until(holds: Callable[[], bool], seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not holds():
            await asyncio.sleep(0.01)


@asynccontextmanager
async def an_activator(**settings: Any) -> AsyncIterator[ActivatorSite]:
    """One that has read the routes, with one deployment at zero."""
    port, control_port = a_free_port(), a_free_port()
    site = ActivatorSite(port, control_port)
    app = web.Application()
    app.add_routes([web.get("/activator/routes", site.update)])
    async with TestServer(app) as operator:
        found = ActivatorSettings.parse([f"--operator-url={operator.make_url('')}", f"--control-port={control_port}"])
        site.activator = Activator(replace(found, **{"linger_seconds": 0.1, "grace_seconds": 5.0, **settings}))
        running = asyncio.create_task(site.activator.run(site.stop))
        await until(lambda: port in site.activator.listening)
        try:
            yield site
        finally:
            site.stop.set()
            await running
