"""Serves /healthz, /readyz, /metrics and /demand, from before leader election, so that a standby is healthy too."""

import time
from collections.abc import Callable, Sequence

from aiohttp import web

from flash_operator.runtime.metrics import Metrics

STALE_RESYNCS = 4
"""A leader that misses this many resyncs is considered stuck, as has been seen with kopf."""


STALLED_SECONDS = 600.0
"""A key that waits this long for a worker means that the workers do nothing, although the process is alive."""


class Health:
    """The HTTP endpoints of the process."""

    def __init__(
        self,
        metrics: Metrics,
        resync_seconds: float,
        refresh: Callable[[], None],
        oldest_wait: Callable[[], float] = lambda: 0.0,
        routes: Sequence[web.RouteDef] = (),
    ) -> None:
        self.leading = False
        self._metrics = metrics
        self._stale_after = resync_seconds * STALE_RESYNCS
        self._refresh = refresh
        self._oldest_wait = oldest_wait
        self._routes = routes
        self._runner: web.AppRunner | None = None

    async def start(self, port: int) -> None:
        app = web.Application()
        app.add_routes(
            [
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
                web.get("/metrics", self._show),
                *self._routes,
            ]
        )
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, port=port).start()

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _healthz(self, _request: web.Request) -> web.Response:
        age = time.monotonic() - self._metrics.last_resync
        if self.leading and age > self._stale_after:
            return web.Response(status=503, text=f"leading, but no resync for {age:.0f} s\n")
        waited = self._oldest_wait()
        if self.leading and waited > STALLED_SECONDS:
            return web.Response(status=503, text=f"leading, but a key has waited {waited:.0f} s for a worker\n")
        return web.Response(text="ok\n")

    async def _readyz(self, _request: web.Request) -> web.Response:
        return web.Response(text="leading\n" if self.leading else "standing by\n")

    async def _show(self, _request: web.Request) -> web.Response:
        self._refresh()
        headers = {"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        return web.Response(body=await self._metrics.text(), headers=headers)
