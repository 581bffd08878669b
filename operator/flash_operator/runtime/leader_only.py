"""Passes what only the leader can answer on to the leader: the Service reaches any operator.

who is asked | answer
------------ | --------------------------------------------
the leader   | its own
a standby    | what the leader answers, or 503 if it does not
"""

from collections.abc import Callable

import aiohttp
from aiohttp import web

FORWARD_TIMEOUT = aiohttp.ClientTimeout(total=2.0)
"""KEDA waits for 3 s."""
FORWARDED = "X-Flash-Forwarded"
"""Two standbys that take each other for the leader must not ask each other for ever."""

RETRY_SECONDS = "5"


class LeaderOnly:
    """How one operator answers."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        is_leading: Callable[[], bool],
        leader_address: Callable[[], str | None],
    ) -> None:
        self._session = session
        self._is_leading = is_leading
        self._leader_address = leader_address

    async def answer(self, request: web.Request, own: Callable[[], web.Response]) -> web.Response:
        """`own` is this operator's answer, if it leads. The path must be one that needs no escapes in a URL."""
        if self._is_leading():
            return own()
        address = self._leader_address()
        if FORWARDED in request.headers or not address:
            return unknown("this operator is a standby, and does not know the leader")
        return await self._forwarded(f"{address}{request.path}")

    async def _forwarded(self, url: str) -> web.Response:
        try:
            async with self._session.get(
                url, headers={FORWARDED: "1"}, timeout=FORWARD_TIMEOUT, allow_redirects=False
            ) as answer:
                body = await answer.read()
                return web.Response(body=body, status=answer.status, content_type="application/json")
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            return unknown(f"this operator is a standby, and the leader does not answer: {type(error).__name__}")


def unknown(error: str, **report: object) -> web.Response:
    """503, which is never read as a number."""
    return web.json_response({**report, "error": error}, status=503, headers={"Retry-After": RETRY_SECONDS})
