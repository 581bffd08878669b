"""HTTP to the API server: credentials and TLS of the official client, JSON, and errors with the server's own words."""

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlencode, urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from aiohttp.http_exceptions import LineTooLong
from kubernetes.aio import client, config
from pydantic_core import from_json

from flash_operator.core.observed.snapshot import RawObject
from flash_operator.runtime.api_requests import verb_and_resource

REQUEST_SECONDS = 30.0
LONGEST_RETRY_SECONDS = 300.0
JSON = "application/json"
UNANSWERED = "unanswered"
"""In place of a code, for metrics."""

CLOSE_SECONDS = 0.25
"""For the event loop to close connections whose request was cancelled during the TLS handshake. aiohttp closes only the
connections of its pool, and its documentation asks for this pause (Advanced client usage, Graceful shutdown)."""


class ApiError(RuntimeError):
    """The API server refused a request; the message is the server's."""

    def __init__(self, status: int, message: str, retry_after: float = 0.0) -> None:
        super().__init__(f"HTTP {status}: {message}")
        self.status = status
        self.retry_after = retry_after
        """Seconds that the server asks to wait; 0 if it asks for none."""

    @property
    def not_found(self) -> bool:
        return self.status == 404  # noqa: PLR2004

    @property
    def forbidden(self) -> bool:
        return self.status == 403  # noqa: PLR2004

    @property
    def gone(self) -> bool:
        """The server has forgotten the version that a list or watch goes on from."""
        return self.status == 410  # noqa: PLR2004

    @property
    def conflict(self) -> bool:
        """The object changed since it was read, or was replaced by one with another uid."""
        return self.status in (409, 422)

    @property
    def transient(self) -> bool:
        """The server is overloaded or not ready: 429 "storage is (re)initializing" while a CRD is new, for one."""
        return self.status in (429, 500, 502, 503, 504)

    @property
    def overloaded(self) -> bool:
        """The server or a proxy before it cannot answer now. A 500 is not among them: it is what a mistyped field in an
        apply is answered with, and a webhook that is down."""
        return self.status in (429, 502, 503, 504)

    @property
    def refused(self) -> bool:
        """A retry would be refused too: the object is malformed, forbidden or invalid."""
        return self.status in (400, 403, 422)


class UnreachableError(RuntimeError):
    """The API server did not answer."""

    retry_after = 0.0


class GarbledError(UnreachableError):
    """An answer is no JSON: a proxy's page, or half of an answer."""


class TooLargeError(RuntimeError):
    """An answer is larger than the caller takes; the rest was not read."""


class ApiConnection:
    """Requests to one API server. Close it when done."""

    def __init__(self, api: client.ApiClient) -> None:
        self._api = api
        self.was_cancelled = False
        """A request of it was, so a connection may still be closing."""
        self.requested: Callable[[str, str, str], object] = lambda *_: None
        """Is called with verb, resource and code of each request that has ended."""

    @classmethod
    async def connect(cls) -> "ApiConnection":
        """Connects with the pod's service account, or with KUBECONFIG outside a cluster."""
        # With `trust_env` the client starts two threads for each request: to read ~/.netrc, and to ask for a proxy.
        configuration = client.Configuration(client_session_kwargs={"trust_env": False})
        if "KUBERNETES_SERVICE_HOST" in os.environ:
            config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
        else:
            # Passed explicitly because the client reads the variable only when it is imported.
            file = os.environ.get("KUBECONFIG")
            await config.load_kube_config(config_file=file, client_configuration=configuration)  # type: ignore[no-untyped-call]
        configuration.proxy = configuration.proxy or _proxy_for(configuration.host)
        return cls(client.ApiClient(configuration=configuration))

    async def close(self) -> None:
        await self._api.close()  # type: ignore[no-untyped-call]
        if self.was_cancelled:
            await asyncio.sleep(CLOSE_SECONDS)

    async def request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: RawObject | Sequence[RawObject] | None = None,
        content_type: str = JSON,
        seconds: float = REQUEST_SECONDS,
        most_bytes: int | None = None,
    ) -> RawObject:
        """The answer's JSON object. Raises ApiError, UnreachableError, and TooLargeError if `most_bytes` is given."""
        timeout = aiohttp.ClientTimeout(total=seconds)
        async with self._answer(method, path, query, timeout, body, content_type) as answer:
            text = await _read(answer, most_bytes)
        document = _parsed(text)
        if not isinstance(document, dict):
            raise GarbledError(f"{method} {path}: the answer is not a JSON object: {str(document)[:80]!r}")
        return document

    async def lines(self, path: str, query: Mapping[str, str], seconds: float) -> AsyncGenerator[RawObject, None]:
        """The JSON objects of an answer that goes on, one a line, until its end.

        Raises ApiError, UnreachableError, and GarbledError at a line that is no object or longer than the client takes
        (4 MiB).
        """
        timeout = aiohttp.ClientTimeout(total=seconds, sock_connect=REQUEST_SECONDS)
        async with self._answer("GET", path, query, timeout) as answer:
            while line := await _line(answer, path):
                document = _parsed(line)
                if not isinstance(document, dict):
                    raise GarbledError(f"GET {path}: a line is not a JSON object: {str(document)[:80]!r}")
                yield document

    @asynccontextmanager
    async def _answer(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        limits: aiohttp.ClientTimeout,
        body: RawObject | Sequence[RawObject] | None = None,
        content_type: str = JSON,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """An answer with a status of success, not read yet. Raises ApiError, UnreachableError."""
        # Always set: the client treats a patch without a type as a strategic merge.
        headers = {"Accept": JSON, "Content-Type": content_type}
        code = UNANSWERED
        try:
            await self._api.update_params_for_auth(headers, [], ["BearerToken"], path, method, body)
            url = f"{self._api.configuration.host}{path}{'?' + urlencode(query) if query else ''}"
            called = await self._api.call_api(method, url, headers, body, _request_timeout=limits)
            async with called.response as answer:
                code = str(answer.status)
                if not 200 <= answer.status < 300:  # noqa: PLR2004 - HTTP's successes
                    raise _error(f"{method} {path}", answer, await answer.read())
                yield answer
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise UnreachableError(f"{method} {path}: {type(error).__name__}: {error}") from error
        except asyncio.CancelledError:
            self.was_cancelled = True
            raise
        finally:
            self.requested(*verb_and_resource(method, path, query or {}), code)


async def _read(answer: aiohttp.ClientResponse, most_bytes: int | None) -> bytes:
    if most_bytes is None:
        return await answer.read()
    text = bytearray()
    async for chunk in answer.content.iter_any():
        text += chunk
        if len(text) > most_bytes:
            answer.close()
            raise TooLargeError
    return bytes(text)


async def _line(answer: aiohttp.ClientResponse, path: str) -> bytes:
    try:
        return await answer.content.readline()
    except LineTooLong as error:
        raise GarbledError(f"GET {path}: a line is too long: {error}") from error


def _error(request: str, answer: aiohttp.ClientResponse, text: bytes) -> ApiError:
    document = _parsed(text)
    message = document.get("message") if isinstance(document, dict) else str(document)
    return ApiError(answer.status, f"{request}: {message}", _retry_after(answer.headers))


def _proxy_for(url: str) -> str | None:
    """The proxy of HTTPS_PROXY or HTTP_PROXY, unless NO_PROXY has the host."""
    parts = urlsplit(url)
    return None if proxy_bypass(parts.hostname or "") else getproxies().get(parts.scheme)


def _retry_after(headers: Mapping[str, str]) -> float:
    """Kubernetes sends seconds, never a date. At most five minutes, whatever the server sends."""
    text = headers.get("Retry-After", "")
    return min(float(text), LONGEST_RETRY_SECONDS) if text.isdecimal() else 0.0


def _parsed(text: bytes) -> Any:
    """JSON, or plain text as proxies send it."""
    try:
        return from_json(text)
    except ValueError:
        return text.decode(errors="replace")
