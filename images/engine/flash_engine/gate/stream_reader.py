"""Reads and times one streamed completion: server-sent events of OpenAI's API, with vLLM's token counts."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import aiohttp

from flash_engine.gate.engine_errors import EngineRequestError
from flash_engine.gate.measurement import Arrival, Stream

MOST_TEXT = 16384
"""Characters of a timed answer that are checked: 4,096 tokens of English."""

MOST_TOKENS = 1 << 31
"""A larger count is ignored: no stream has that many tokens."""

Enough = Callable[[Sequence[Arrival]], bool]


def loop_time() -> float:
    """The event loop's clock, which timeouts use."""
    return asyncio.get_running_loop().time()


class StreamReader:
    """Reads one stream and times its chunks.

    Time counts from the first chunk with text to the last chunk, even one without text: special tokens take time too.
    """

    def __init__(self, asked: float, enough: Enough | None = None) -> None:
        self._asked = asked
        self._enough = enough
        self._first: float | None = None
        self._last: float | None = None
        self._tokens = 0
        self._prompt_tokens: int | None = None
        self._arrivals: list[Arrival] = []
        self._text = ""

    async def read(self, answer: aiohttp.ClientResponse) -> Stream:
        """Raises EngineRequestError."""
        async for event in events_of(answer):
            if "error" in event:
                raise EngineRequestError(f"/v1/completions: the stream ended with {json.dumps(event['error'])[:200]}")
            self.take(event)
            if self._enough and self._arrivals and self._enough(self._arrivals):
                return self.stream(cut=True)
        if self._first is None or self._last is None or not self._tokens:
            raise EngineRequestError("/v1/completions: the stream ended without text or without usage")
        return self.stream()

    def slow_stream(self, at: float, timeout_seconds: float) -> Stream | None:
        """What arrived of a stream that timed out. None if nothing arrived in the last half of the time."""
        moving = self._last is not None and at - self._last < timeout_seconds / 2
        return self.stream(cut=True) if moving and len(self._arrivals) > 1 else None

    def take(self, event: dict[str, Any]) -> None:
        """Process an event of the stream at the moment it arrives."""
        choices, tokens = _choices(event), _token_count(event, "completion_tokens")
        self._tokens = self._tokens if tokens is None else tokens
        self._prompt_tokens = _token_count(event, "prompt_tokens") or self._prompt_tokens
        if choices:
            self._last = loop_time()
        if self._first is None and any(choice.get("text") for choice in choices):
            self._first = self._last
        if len(self._text) < MOST_TEXT:
            self._text += "".join(str(choice.get("text") or "") for choice in choices)
        if choices and self._first is not None and self._last is not None and tokens is not None:
            self._arrivals.append(Arrival(self._last, self._tokens))

    def stream(self, *, cut: bool = False) -> Stream:
        """What has arrived so far. Raises ValueError if nothing has."""
        if self._first is None or self._last is None:
            raise ValueError("nothing has arrived")
        return Stream(
            asked=self._asked,
            first=self._first,
            last=self._last,
            tokens=self._tokens,
            arrivals=tuple(self._arrivals),
            first_tokens=self._arrivals[0].tokens if self._arrivals else 1,
            cut=cut,
            text=self._text[:MOST_TEXT],
            prompt_tokens=self._prompt_tokens,
        )


async def events_of(answer: aiohttp.ClientResponse) -> AsyncIterator[dict[str, Any]]:
    """The server-sent events of an OpenAI stream. A stream that ends without [DONE] was cut."""
    async for line in answer.content:
        text = line.strip()
        if text == b"data: [DONE]":
            return
        if text.startswith(b"data:"):
            yield _event(text[5:])
    raise EngineRequestError("/v1/completions: the stream was cut before its end")


def _choices(event: dict[str, Any]) -> list[dict[str, Any]]:
    """The choices of an event that are objects. An engine or a proxy may send anything."""
    choices = event.get("choices")
    return [choice for choice in choices if isinstance(choice, dict)] if isinstance(choices, list) else []


def _token_count(event: dict[str, Any], key: str) -> int | None:
    """A token count in the event's `usage`; None if there is no valid one."""
    usage = event.get("usage")
    tokens = usage.get(key) if isinstance(usage, dict) else None
    is_count = isinstance(tokens, int) and not isinstance(tokens, bool) and 0 <= tokens <= MOST_TOKENS
    return tokens if is_count else None


def _event(text: bytes) -> dict[str, Any]:
    try:
        event = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise EngineRequestError(f"/v1/completions: not JSON: {text[:100]!r}") from error
    if not isinstance(event, dict):
        raise EngineRequestError(f"/v1/completions: not an event: {text[:100]!r}")
    return event
