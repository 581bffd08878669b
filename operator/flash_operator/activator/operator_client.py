"""Polls the operator for the routes. While it does not answer, the last ones stay."""

import aiohttp
import structlog

from flash_contracts.activation import ActivatorRoutes
from flash_contracts.document import BadDocumentError
from flash_operator.activator.deployments import Deployments

log = structlog.get_logger("flash.activator")

ASK_SECONDS = 1.0
TIMEOUT = aiohttp.ClientTimeout(total=4.0)
"""A standby asks the leader, for 2 s."""
MOST_BYTES = 8 << 20
HTTP_OK = 200


class OperatorClient:
    """Keeps the table of deployments up to date."""

    def __init__(self, session: aiohttp.ClientSession, url: str, deployments: Deployments) -> None:
        self._session = session
        self._url = f"{url.rstrip('/')}/activator/routes"
        self._deployments = deployments
        self._failure: str | None = None
        """What was logged last, so that it is logged once."""

    async def ask(self) -> None:
        """One request. Never raises an error of the operator or of the network."""
        try:
            routes = await self._routes()
        except (aiohttp.ClientError, TimeoutError, OSError, BadDocumentError) as error:
            self._log_once(f"{type(error).__name__}: {error}")
            return
        self._log_once(None)
        self._deployments.update(routes.routes)

    async def _routes(self) -> ActivatorRoutes:
        async with self._session.get(self._url, timeout=TIMEOUT, allow_redirects=False) as answer:
            body = bytearray()
            async for chunk in answer.content.iter_any():
                body += chunk
                if len(body) > MOST_BYTES:
                    raise BadDocumentError(f"more than {MOST_BYTES} bytes")
            if answer.status != HTTP_OK:
                raise BadDocumentError(f"status {answer.status}: {bytes(body[:200])!r}")
            return ActivatorRoutes.parse_text(bytes(body))

    def _log_once(self, failure: str | None) -> None:
        if failure == self._failure:
            return
        self._failure = failure
        if failure is None:
            log.info("the operator answers")
        else:
            log.warning("the operator does not answer; the last routes stay", error=failure)
