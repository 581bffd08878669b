"""Asking the engine: its health, its counters, and completions like any client's."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError

from flash_contracts.gate_config import GateConfig, GoldenQuestion
from flash_engine.engine_metrics import EngineCounters
from flash_engine.gate.evidence import Health
from flash_engine.gate.measurement import Arrival, Stream

LOOK_SECONDS = 10.0
"""A busy engine answers late, and is healthy all the same: impatience here is what makes probes flap."""

TROUBLE = (aiohttp.ClientError, HttpProcessingError, TimeoutError, OSError, ValueError)
"""What a request can end with: HttpProcessingError for a line without an end, ValueError for no text or no JSON."""


class EngineRequestError(RuntimeError):
    """A request that the engine did not answer as it should; the message says which and how."""


class NoAnswerError(EngineRequestError):
    """A request whose time ran out."""


SLOWEST_TIMES = 8.0
LEAST_PATIENCE_SECONDS = 30.0
"""A timed stream has eight times what it takes at the floor, and never less than this."""

Enough = Callable[[Sequence[Arrival]], bool]


class EngineClient:
    """One engine at one address."""

    def __init__(self, session: aiohttp.ClientSession, address: str) -> None:
        self._session = session
        self._address = address.rstrip("/")

    async def health(self) -> Health:
        timeout = aiohttp.ClientTimeout(total=LOOK_SECONDS)
        try:
            async with self._session.get(f"{self._address}/health", timeout=timeout) as answer:
                return Health.GOOD if answer.status == 200 else Health.BAD  # noqa: PLR2004 - HTTP's OK
        except aiohttp.ClientConnectorError as error:
            # Nobody listens: there is no engine. A connection that broke says less than that.
            return Health.BAD if isinstance(error.os_error, ConnectionRefusedError) else Health.SILENT
        except TROUBLE:
            return Health.SILENT

    async def counters(self) -> EngineCounters:
        """Raises MissingMetricsError, EngineRequestError."""
        timeout = aiohttp.ClientTimeout(total=LOOK_SECONDS)
        try:
            async with self._session.get(f"{self._address}/metrics", timeout=timeout) as answer:
                await _check(answer, "/metrics")
                text = await answer.text()
        except TROUBLE as error:
            raise EngineRequestError(f"/metrics: {_what(error)}") from error
        return EngineCounters.parse(text)

    async def answer(self, config: GateConfig) -> str:
        """The greedy answer to the golden question. Raises NoAnswerError, EngineRequestError."""
        path, question = _question(config.golden)
        body = {"model": config.model, "temperature": 0, "max_tokens": config.golden.max_tokens, **question}
        reply = await self._post(path, body, config.request_timeout_seconds)
        try:
            choice = reply["choices"][0]
            text = choice["text"] if "text" in choice else _spoken(choice["message"])
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise EngineRequestError(f"{path}: an answer without a choice: {json.dumps(reply)[:200]}") from error
        return str(text)

    async def stream(self, config: GateConfig, *, tokens: int | None = None, enough: Enough | None = None) -> Stream:
        """One timed completion of exactly `tokens` tokens, `decode.tokens` by default; cut once `enough` says so.

        One that takes too long is cut as well, and is a slow stream where its tokens still came.
        Raises NoAnswerError where they did not, EngineRequestError for what else went wrong.
        """
        wanted = tokens or config.decode.tokens
        body = {
            "model": config.model,
            "prompt": config.decode.prompt,
            "max_tokens": wanted,
            "temperature": 0,
            # An answer that ends early would be timed over a handful of tokens.
            "ignore_eos": True,
            "stream": True,
            # Of vLLM alone: the tokens so far with each chunk, for accepted drafts arrive together.
            "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        }
        reading = Reading(asked=_now(), enough=enough)
        patience = _patience(config, wanted)
        timeout = aiohttp.ClientTimeout(total=patience)
        try:
            async with self._session.post(f"{self._address}/v1/completions", json=body, timeout=timeout) as answer:
                await _check(answer, "/v1/completions")
                return await reading.read(answer)
        except TimeoutError as error:
            slow = reading.slow_stream(_now(), patience)
            if slow:
                return slow
            raise NoAnswerError(f"/v1/completions: {_what(error)}") from error
        except TROUBLE as error:
            raise EngineRequestError(f"/v1/completions: {_what(error)}") from error

    async def _post(self, path: str, body: dict[str, Any], seconds: float) -> dict[str, Any]:
        timeout = aiohttp.ClientTimeout(total=seconds)
        try:
            async with self._session.post(f"{self._address}{path}", json=body, timeout=timeout) as answer:
                await _check(answer, path)
                reply: dict[str, Any] = await answer.json()
                return reply
        except TimeoutError as error:
            raise NoAnswerError(f"{path}: {_what(error)}") from error
        except TROUBLE as error:
            raise EngineRequestError(f"{path}: {_what(error)}") from error


def _question(golden: GoldenQuestion) -> tuple[str, dict[str, Any]]:
    if golden.kind == "chat":
        return "/v1/chat/completions", {"messages": [{"role": "user", "content": golden.prompt}]}
    return "/v1/completions", {"prompt": golden.prompt}


def _spoken(message: dict[str, Any]) -> str:
    """A reasoning model may put its whole answer into its reasoning when tokens are few."""
    return " ".join(str(message[key]) for key in ("reasoning", "reasoning_content", "content") if message.get(key))


def _now() -> float:
    """The event loop's clock, which the timeouts go by."""
    return asyncio.get_running_loop().time()


def _patience(config: GateConfig, tokens: int) -> float:
    at_floor = tokens / config.floor if config.floor else config.request_timeout_seconds
    return min(config.request_timeout_seconds, max(LEAST_PATIENCE_SECONDS, SLOWEST_TIMES * at_floor))


class Reading:
    """A stream while it comes.

    From the first chunk with text to the last chunk, with or without: special tokens have no text but take time.
    """

    def __init__(self, asked: float, enough: Enough | None = None) -> None:
        self._asked = asked
        self._enough = enough
        self._first: float | None = None
        self._last: float | None = None
        self._tokens = 0
        self._arrivals: list[Arrival] = []

    async def read(self, answer: aiohttp.ClientResponse) -> Stream:
        """Raises EngineRequestError."""
        async for event in _events(answer):
            if "error" in event:
                raise EngineRequestError(f"/v1/completions: the stream ended with {json.dumps(event['error'])[:200]}")
            self.take(event)
            if self._enough and self._arrivals and self._enough(self._arrivals):
                return self.stream(cut=True)
        if self._first is None or self._last is None or not self._tokens:
            raise EngineRequestError("/v1/completions: the stream ended without text or without usage")
        return self.stream()

    def slow_stream(self, at: float, patience: float) -> Stream | None:
        """What came of a stream whose time ran out, None for one that stood still for half of it."""
        moving = self._last is not None and at - self._last < patience / 2
        return self.stream(cut=True) if moving and len(self._arrivals) > 1 else None

    def take(self, event: dict[str, Any]) -> None:
        """An event of the stream, at the moment that it came."""
        choices, usage = event.get("choices") or (), event.get("usage") or {}
        self._tokens = usage.get("completion_tokens", self._tokens)
        if choices:
            self._last = _now()
        if self._first is None and any(choice.get("text") for choice in choices):
            self._first = self._last
        if choices and self._first is not None and self._last is not None and "completion_tokens" in usage:
            self._arrivals.append(Arrival(self._last, self._tokens))

    def stream(self, *, cut: bool = False) -> Stream:
        """What came so far. Raises ValueError where nothing did."""
        if self._first is None or self._last is None:
            raise ValueError("nothing came")
        return Stream(
            asked=self._asked,
            first=self._first,
            last=self._last,
            tokens=self._tokens,
            arrivals=tuple(self._arrivals),
            first_tokens=self._arrivals[0].tokens if self._arrivals else 1,
            cut=cut,
        )


async def _events(answer: aiohttp.ClientResponse) -> AsyncIterator[dict[str, Any]]:
    """The server-sent events of an OpenAI stream. One that ends without [DONE] was cut."""
    async for line in answer.content:
        text = line.strip()
        if text == b"data: [DONE]":
            return
        if text.startswith(b"data:"):
            yield _event(text[5:])
    raise EngineRequestError("/v1/completions: the stream was cut before its end")


def _event(text: bytes) -> dict[str, Any]:
    try:
        event = json.loads(text)
    except ValueError as error:
        raise EngineRequestError(f"/v1/completions: not JSON: {text[:100]!r}") from error
    if not isinstance(event, dict):
        raise EngineRequestError(f"/v1/completions: not an event: {text[:100]!r}")
    return event


async def _check(answer: aiohttp.ClientResponse, path: str) -> None:
    if answer.status != 200:  # noqa: PLR2004
        raise EngineRequestError(f"{path}: HTTP {answer.status}: {(await answer.text())[:200]}")


def _what(error: Exception) -> str:
    return "no answer in time" if isinstance(error, asyncio.TimeoutError) else f"{type(error).__name__}: {error}"
