"""How a request to the engine can fail, and what each failure means."""

import asyncio
from http import HTTPStatus

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError

from flash_contracts.redaction import redact

REQUEST_ERRORS = (aiohttp.ClientError, HttpProcessingError, TimeoutError, OSError, ValueError, RecursionError)
"""How a request can fail: HttpProcessingError is a line without an end, ValueError is invalid text or JSON, and
RecursionError is deeply nested JSON."""


class EngineRequestError(RuntimeError):
    """The engine did not answer a request correctly. The message names the request and the failure."""


class NoAnswerError(EngineRequestError):
    """A request timed out."""


class RefusedError(EngineRequestError):
    """HTTP 4xx, except 429: the engine will never accept such a request."""


async def check_status(answer: aiohttp.ClientResponse, path: str) -> None:
    if answer.status == HTTPStatus.OK:
        return
    # 429 says "not now", every other 4xx "never".
    is_refused = answer.status in CLIENT_ERRORS and answer.status != HTTPStatus.TOO_MANY_REQUESTS
    kind = RefusedError if is_refused else EngineRequestError
    hint = _HINTS.get(answer.status, "")
    raise kind(f"{path}: HTTP {answer.status}: {redact((await answer.text())[:200])}{hint}")


CLIENT_ERRORS = range(400, 500)

_NO_KEY = (
    "; the engine requires a key that the gate does not have: name the Secret with the keys in engine.apiKeysSecret"
)
_FULL = "; the engine accepts no more requests for now: --max-num-queued-reqs or --max-num-queued-tokens limits them"
_HINTS: dict[int, str] = {
    HTTPStatus.UNAUTHORIZED: _NO_KEY,
    HTTPStatus.FORBIDDEN: _NO_KEY,
    HTTPStatus.TOO_MANY_REQUESTS: _FULL,
    HTTPStatus.SERVICE_UNAVAILABLE: _FULL,
}


def described(error: Exception) -> str:
    return "no answer in time" if isinstance(error, asyncio.TimeoutError) else f"{type(error).__name__}: {error}"
