"""Handles a request that arrives at a deployment's port.

a replica serves | method | the request
---------------- | ------ | -----------------------------------------------------------------
yes              | any    | is passed on
no               | POST   | is held, and wakes the deployment
no               | other  | 503 at once: monitoring, health checks and lists of models start no replica
"""

import asyncio

import aiohttp
import structlog
from aiohttp import web

from flash_operator.activator.admission import Admission, Place
from flash_operator.activator.deployments import AVOIDED_SECONDS, Deployments, RoutedDeployment
from flash_operator.activator.metrics import ActivatorMetrics
from flash_operator.activator.passing import CannotConnectError, pass_on
from flash_operator.activator.refusal import BROKEN, RefusalError, broke, unavailable
from flash_operator.activator.waiting import endpoint_of

log = structlog.get_logger("flash.activator")

BODY_SECONDS = 60.0
"""How long a client may take to send its request; also one whose body is malformed, which looks like a slow one."""
LEFT, PASSED = "client_left", "passed_on"


class RequestHandler:
    """Holds requests, and passes them on."""

    def __init__(
        self,
        deployments: Deployments,
        admission: Admission,
        session: aiohttp.ClientSession,
        metrics: ActivatorMetrics,
    ) -> None:
        self._deployments = deployments
        self._admission = admission
        self._session = session
        self._metrics = metrics

    async def handle(self, request: web.Request) -> web.StreamResponse:
        began = asyncio.get_running_loop().time()
        try:
            response, outcome = await self._answer(request, began), PASSED
        except RefusalError as refusal:
            response, outcome = refusal.response(), refusal.code
        except Exception:
            log.exception("a request broke")
            response, outcome = broke().response(), BROKEN
        except asyncio.CancelledError:
            self._metrics.ended(LEFT, asyncio.get_running_loop().time() - began)
            raise
        self._metrics.ended(outcome, asyncio.get_running_loop().time() - began)
        return response

    async def _answer(self, request: web.Request, began: float) -> web.StreamResponse:
        """Raises RefusalError."""
        deployment = self._deployments.at(_port_of(request))
        if not request.raw_path.startswith("/"):
            raise RefusalError(web.HTTPBadRequest.status_code, "bad_target", "the request's target is not a path")
        if request.method != "POST" and not deployment.route.endpoints:
            message = f"{deployment.name} is at zero; a POST starts it, and other requests do not"
            raise unavailable("at_zero", message)
        with self._admission.place(deployment.name) as place:
            body = await _body_of(request, place)
            return await self._passed_on(request, body, deployment, began + deployment.route.hold_seconds)

    async def _passed_on(
        self, request: web.Request, body: bytes, deployment: RoutedDeployment, deadline: float
    ) -> web.StreamResponse:
        """The answer of the first replica that takes the connection."""
        loop = asyncio.get_running_loop()
        arrived = loop.time()
        while True:
            endpoint = await endpoint_of(deployment, deadline)
            waited = loop.time() - arrived
            deployment.passing[endpoint] += 1
            try:
                response = await pass_on(self._session, request, body, endpoint)
            except CannotConnectError as error:
                log.info("a replica takes no connection", deployment=str(deployment.name), error=str(error))
                deployment.avoided[endpoint] = loop.time() + AVOIDED_SECONDS
                continue
            finally:
                deployment.passing[endpoint] -= 1
                if not deployment.passing[endpoint]:
                    del deployment.passing[endpoint]
            log.info(
                "passed on", deployment=str(deployment.name), waited_seconds=round(waited, 1), status=response.status
            )
            return response


async def _body_of(request: web.Request, place: Place) -> bytes:
    """The whole body. Raises RefusalError."""
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.content.iter_any():
                place.take(len(chunk))
                body += chunk
    except TimeoutError:
        message = f"the body did not arrive within {BODY_SECONDS:.0f} s"
        raise RefusalError(web.HTTPRequestTimeout.status_code, "body_too_slow", message) from None
    return bytes(body)


def _port_of(request: web.Request) -> int:
    """The port at which the request arrived; 0 if its client is gone."""
    address = request.transport.get_extra_info("sockname") if request.transport else None
    return int(address[1]) if address else 0
