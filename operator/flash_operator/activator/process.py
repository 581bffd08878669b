"""One activator process: its ports, and how it ends.

SIGTERM -> not ready; what waits gets 503 -> still answers for some seconds -> what was passed on ends -> exit
"""

import asyncio
from contextlib import AsyncExitStack, suppress

import aiohttp
import structlog
from aiohttp import web

from flash_operator.activator.admission import Admission
from flash_operator.activator.deployments import Deployments
from flash_operator.activator.handler import RequestHandler
from flash_operator.activator.metrics import ActivatorMetrics
from flash_operator.activator.operator_client import ASK_SECONDS, OperatorClient
from flash_operator.activator.passing import new_session
from flash_operator.activator.refusal import stopping
from flash_operator.activator.settings import ActivatorSettings

log = structlog.get_logger("flash.activator")


class Activator:
    """Listens on one port for each deployment that may be at zero, and on one for its own health."""

    def __init__(self, settings: ActivatorSettings) -> None:
        self.settings = settings
        self.deployments = Deployments()
        self.admission = Admission(settings.limits)
        self.metrics = ActivatorMetrics(self.deployments, self.admission)
        self._sites: dict[int, web.TCPSite] = {}
        self._unusable: set[int] = set()
        self._ending = False

    @property
    def listening(self) -> frozenset[int]:
        """The ports of deployments that are open."""
        return frozenset(self._sites)

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop` is set."""
        async with AsyncExitStack() as stack:
            session = await stack.enter_async_context(new_session())
            handler = RequestHandler(self.deployments, self.admission, session, self.metrics)
            runner = await _runner(stack, [web.route("*", "/{path:.*}", handler.handle)])
            control = await _runner(stack, self._control())
            await web.TCPSite(control, port=self.settings.control_port).start()
            following = asyncio.create_task(self._follow(runner, session))
            stack.callback(following.cancel)
            stopping_task = asyncio.create_task(stop.wait())
            stack.callback(stopping_task.cancel)
            # If the task breaks, the process must end: otherwise it would use old routes for ever.
            await asyncio.wait({following, stopping_task}, return_when=asyncio.FIRST_COMPLETED)
            await self._end()
            if following.done():
                following.result()

    async def _follow(self, runner: web.AppRunner, session: aiohttp.ClientSession) -> None:
        client = OperatorClient(session, self.settings.operator_url, self.deployments)
        while True:
            await client.ask()
            await self._listen(runner)
            await asyncio.sleep(ASK_SECONDS)

    async def _listen(self, runner: web.AppRunner) -> None:
        """Opens and closes ports, as the table says."""
        for port in self._sites.keys() - self.deployments.ports:
            await self._sites.pop(port).stop()
        for port in self.deployments.ports - self._sites.keys():
            site = web.TCPSite(runner, port=port)
            try:
                await site.start()
            except OSError as error:
                if port not in self._unusable:
                    log.error("a port cannot be opened", port=port, error=str(error))  # noqa: TRY400
                self._unusable.add(port)
                continue
            self._unusable.discard(port)
            self._sites[port] = site

    async def _end(self) -> None:
        """Answers waiting requests with 503. The operator reads that they waited, and starts their deployments."""
        deadline, self._ending = asyncio.get_running_loop().time() + self.settings.grace_seconds, True
        log.info("stopping", waiting=self.deployments.waiting, held=self.admission.requests)
        self.deployments.stop(stopping)
        await asyncio.sleep(self.settings.linger_seconds)
        with suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                await self.admission.empty.wait()
        log.info("stopped", cut_off=self.admission.requests)

    def _control(self) -> list[web.RouteDef]:
        return [
            web.get("/healthz", self._healthz),
            web.get("/readyz", self._readyz),
            web.get("/metrics", self._show),
            web.get("/held", self._held),
        ]

    async def _healthz(self, _request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, _request: web.Request) -> web.Response:
        if self._ending:
            return web.Response(status=503, text="stopping\n")
        if not self.deployments.has_routes:
            return web.Response(status=503, text="the operator has not sent its routes yet\n")
        return web.Response(text="ok\n")

    async def _held(self, _request: web.Request) -> web.Response:
        return web.json_response(self.deployments.report().to_json())

    async def _show(self, _request: web.Request) -> web.Response:
        headers = {"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        return web.Response(body=self.metrics.text(), headers=headers)


async def _runner(stack: AsyncExitStack, routes: list[web.RouteDef]) -> web.AppRunner:
    """A client that leaves ends its request. Bodies stay as they are encoded."""
    app = web.Application()
    app.add_routes(routes)
    runner = web.AppRunner(
        app,
        handler_cancellation=True,
        auto_decompress=False,
        access_log=None,
        shutdown_timeout=1.0,
    )
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    return runner
