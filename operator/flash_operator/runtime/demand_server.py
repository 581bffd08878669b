"""`GET /demand/NAMESPACE/NAME`: a deployment's demand for KEDA's metrics-api trigger, and for people.

    who is asked         | answer
    -------------------- | --------------------------------------------------------------------------------
    the leader           | 200 with the demand; 503 while it is unknown; 404 if it knows no such deployment
    a standby            | what the leader answers, or 503 if it does not

The Service reaches any operator, and only the leader asks gates. An answer that is no 200 is never read as 0: KEDA
keeps the current replicas.
"""

from collections.abc import Callable

import aiohttp
from aiohttp import web

from flash_operator.runtime.demand_board import DemandBoard
from flash_operator.runtime.keys import FlashKey

PATH = r"/demand/{namespace:[a-z0-9-]{1,63}}/{name:[a-z0-9-]{1,63}}"

FORWARD_TIMEOUT = aiohttp.ClientTimeout(total=2.0)
"""KEDA waits for 3 s."""
FORWARDED = "X-Flash-Forwarded"
"""Two standbys that take each other for the leader must not ask each other for ever."""

RETRY_SECONDS = "5"


class DemandServer:
    """The route, for `Health`."""

    def __init__(
        self,
        board: DemandBoard,
        session: aiohttp.ClientSession,
        is_leading: Callable[[], bool],
        leader_address: Callable[[], str | None],
    ) -> None:
        self._board = board
        self._session = session
        self._is_leading = is_leading
        self._leader_address = leader_address

    @property
    def route(self) -> web.RouteDef:
        return web.get(PATH, self.show)

    async def show(self, request: web.Request) -> web.Response:
        key = FlashKey(request.match_info["namespace"], request.match_info["name"])
        if self._is_leading():
            return self._answer(key)
        address = self._leader_address()
        if FORWARDED in request.headers or not address:
            return _unknown("this operator is a standby, and does not know the leader")
        return await self._forwarded(key, address)

    def _answer(self, key: FlashKey) -> web.Response:
        report = self._board.report(key)
        if report is None:
            return web.json_response({"error": f"deployment {key} is not known, or not yet"}, status=404)
        if report.target_replicas is None:
            return _unknown("the demand is unknown: no ready replica reports its requests", **report.to_json())
        return web.json_response(report.to_json())

    async def _forwarded(self, key: FlashKey, address: str) -> web.Response:
        url = f"{address}/demand/{key.namespace}/{key.name}"
        try:
            async with self._session.get(
                url, headers={FORWARDED: "1"}, timeout=FORWARD_TIMEOUT, allow_redirects=False
            ) as answer:
                body = await answer.read()
                return web.Response(body=body, status=answer.status, content_type="application/json")
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            return _unknown(f"this operator is a standby, and the leader does not answer: {type(error).__name__}")


def _unknown(error: str, **report: object) -> web.Response:
    return web.json_response({**report, "error": error}, status=503, headers={"Retry-After": RETRY_SECONDS})
