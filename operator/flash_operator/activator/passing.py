"""Passes one request on to a replica, and the answer back as it comes.

    what happens                          | the client gets
    ------------------------------------- | ---------------------------------------------------------------
    the replica refuses the connection    | nothing yet: `CannotConnectError`, and the request may go elsewhere
    the replica breaks before an answer   | 502; the request may have been carried out, so it is not sent again
    the replica breaks within an answer   | a broken connection: the answer must not look complete
    the client leaves                     | -; the replica's connection is closed, so it stops the request

The whole body was received before: a request waits for minutes, and can be sent again after a refused connection.
Engines also read the whole body before they begin.
"""

from collections.abc import Mapping

import aiohttp
import structlog
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from flash_operator.activator.refusal import SOON_SECONDS, RefusalError

log = structlog.get_logger("flash.activator")

CONNECT_SECONDS = 5.0
TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS)
"""An answer may take as long as the client waits."""

HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
"""Headers of one connection (RFC 9110, 7.6.1), which are not passed on."""
OURS = frozenset({"content-length", "expect"})
"""Request headers that are ours to set: the body is complete, and 100-continue was answered."""
NOT_ADDED = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")


class CannotConnectError(Exception):
    """No byte of the request was sent."""


def new_session() -> aiohttp.ClientSession:
    """Uses no proxy of the environment and no connection twice, decompresses nothing, keeps no cookies."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(force_close=True, limit=0),
        timeout=TIMEOUT,
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
    )


def end_to_end(headers: Mapping[str, str], *, without: frozenset[str] = frozenset()) -> CIMultiDict[str]:
    """The headers that are passed on."""
    named = {
        name.strip().lower()
        for key, value in headers.items()
        if key.lower() == "connection"
        for name in value.split(",")
    }
    dropped = HOP_BY_HOP | named | without
    return CIMultiDict((key, value) for key, value in headers.items() if key.lower() not in dropped)


async def pass_on(
    session: aiohttp.ClientSession, request: web.Request, body: bytes, endpoint: str
) -> web.StreamResponse:
    """Raises CannotConnectError, and RefusalError if the replica breaks before it answers."""
    has_body = bool(body) or request.method in ("POST", "PUT", "PATCH")
    try:
        upstream = await session.request(
            request.method,
            URL(f"http://{endpoint}{request.raw_path}", encoded=True),
            headers=end_to_end(request.headers, without=OURS),
            data=body if has_body else None,
            allow_redirects=False,
            skip_auto_headers=NOT_ADDED,
        )
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
        raise CannotConnectError(str(error)) from error
    except (aiohttp.ClientError, OSError) as error:
        message = "the replica broke off before it answered; the request may have been carried out"
        raise RefusalError(web.HTTPBadGateway.status_code, "replica_failed", message, SOON_SECONDS) from error
    async with upstream:
        return await _answer(request, upstream)


async def _answer(request: web.Request, upstream: aiohttp.ClientResponse) -> web.StreamResponse:
    response = web.StreamResponse(status=upstream.status, reason=upstream.reason, headers=end_to_end(upstream.headers))
    # So that this client's next request goes to the replica itself.
    response.force_close()
    await response.prepare(request)
    try:
        async for chunk in upstream.content.iter_any():
            await response.write(chunk)
    except (aiohttp.ClientPayloadError, aiohttp.ClientOSError) as error:
        log.warning("an answer broke off, at the replica's end or the client's", error=type(error).__name__)
        if request.transport is not None:
            request.transport.abort()
        return response
    await response.write_eof()
    return response
