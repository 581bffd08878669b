"""A proxy between the operator and a real API server that refuses requests, and loses or repeats watch events."""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random

import aiohttp
from aiohttp import web

from local_cluster.control_plane import ControlPlane

PASSED_ON = ("Content-Type", "Accept")
LONGEST_LINE = 4 << 20


class ApiProxy:
    """One API server, reached as its administrator. What is wrong now is set from outside."""

    def __init__(self, plane: ControlPlane, seed: int) -> None:
        self._upstream = plane.url
        self._trust = ssl.create_default_context(cafile=str(plane.certificate_authority))
        self._trust.load_cert_chain(plane.client_certificate, plane.client_key)
        self._random = Random(seed)
        self.status = 0
        """The status that two of three requests are answered with; 0 for none."""
        self.watches_gone = False
        self.drops = False
        self.repeats = False
        self.writes: list[str] = []
        """Those that the server has taken, but for Leases."""

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[str]:
        """The address, for a kubeconfig."""
        app = web.Application(client_max_size=LONGEST_LINE)
        app.router.add_route("*", "/{path:.*}", self._answer)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        connector = aiohttp.TCPConnector(ssl=self._trust, limit=0)
        async with aiohttp.ClientSession(connector=connector, read_bufsize=LONGEST_LINE) as self._session:
            try:
                await site.start()
                yield f"http://127.0.0.1:{runner.addresses[0][1]}"
            finally:
                await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        is_watch = request.query.get("watch") == "true"
        refused = 410 if is_watch and self.watches_gone else self.status
        if refused and (refused == 410 or self._random.random() < 2 / 3):
            return web.json_response({"kind": "Status", "message": "refused by the test"}, status=refused)
        headers = {name: request.headers[name] for name in PASSED_ON if name in request.headers}
        url, body = f"{self._upstream}{request.path_qs}", await request.read() or None
        limit = aiohttp.ClientTimeout(total=None if is_watch else 30)
        try:
            async with self._session.request(request.method, url, data=body, headers=headers, timeout=limit) as answer:
                if is_watch and answer.status == 200:
                    return await self._watch(request, answer)
                if request.method != "GET" and answer.status < 300 and "/leases" not in request.path:
                    self.writes.append(f"{request.method} {request.path}")
                kind = answer.headers.get("Content-Type", "application/json")
                return web.Response(status=answer.status, body=await answer.read(), headers={"Content-Type": kind})
        except aiohttp.ClientError as error:
            return web.json_response({"kind": "Status", "message": str(error)}, status=502)

    async def _watch(self, request: web.Request, answer: aiohttp.ClientResponse) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        async for line in answer.content:
            if self.drops and self._random.random() < 0.5:
                continue
            await response.write(line * (2 if self.repeats else 1))
        return response
