"""The HTTP client for the engine: /health, /metrics, and completions as any client requests them."""

import reprlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from flash_contracts.gate_config import GateConfig, GoldenQuestion
from flash_engine.api_keys import read_keys
from flash_engine.engine_metrics import EngineCounters
from flash_engine.gate.engine_errors import (
    REQUEST_ERRORS,
    EngineRequestError,
    NoAnswerError,
    RefusedError,
    check_status,
    described,
)
from flash_engine.gate.evidence import EngineHealth
from flash_engine.gate.long_prompt import cut, filler
from flash_engine.gate.measurement import Stream
from flash_engine.gate.stream_reader import Enough, StreamReader, loop_time

OBSERVE_TIMEOUT_SECONDS = 10.0
"""A busy engine answers late but is healthy: a short timeout would make readiness flap."""

TIMEOUT_FACTOR = 8.0
MIN_STREAM_TIMEOUT_SECONDS = 30.0
"""A timed stream may take eight times as long as at the floor, and at least this long."""


CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
TOKENIZE = "/tokenize"
"""Answered without the model, so the engine's gauges do not count it."""

THINKING_FACTOR = 16
"""A model that thinks although it was asked not to gets this many times as many tokens for its answer."""


@dataclass(frozen=True)
class Answer:
    """What a model answered."""

    text: str
    """Reasoning and content: some parsers put the whole answer into the reasoning."""
    is_unfinished: bool = False
    """It ran out of tokens while reasoning, so there is no answer yet."""
    most_tokens: int = 0
    """The most tokens that the engine can have generated for it, in all requests."""

    @classmethod
    def of(cls, choice: dict[str, Any]) -> "Answer":
        """Raises KeyError, TypeError or AttributeError if it is not the choice of a completion."""
        if "text" in choice:
            return cls(_joined(choice["text"]))
        message = choice["message"]
        reasoning = _joined(message.get("reasoning") or message.get("reasoning_content"))
        content = _joined(message.get("content"))
        text = " ".join(part for part in (reasoning, content) if part)
        return cls(text, is_unfinished=bool(reasoning and not content) and choice.get("finish_reason") == "length")


class EngineClient:
    """One engine at one address."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        address: str,
        own_address: str | None = None,
        keys: Path | None = None,
    ) -> None:
        """`own_address` is the pod's, without a port; None if it is not known.

        `keys` is the folder of the clients' keys, if the engine requires one.
        """
        self._session = session
        self._address = address.rstrip("/")
        self._own_url = _at(self._address, own_address) if own_address else None
        self._keys = keys
        self.own_requests = 0
        """Requests to the model that are under way."""

    @property
    def _headers(self) -> dict[str, str]:
        """Read for each request, because keys change while the engine runs."""
        keys = read_keys(self._keys) if self._keys else ()
        return {"Authorization": f"Bearer {keys[0]}"} if keys else {}

    async def check_reachable(self) -> None:
        """Check the pod's own address too, where a Service sends users. Raises EngineRequestError."""
        if self._own_url is None:
            return
        timeout = aiohttp.ClientTimeout(total=OBSERVE_TIMEOUT_SECONDS)
        try:
            async with self._session.get(f"{self._own_url}/health", timeout=timeout):
                return
        except REQUEST_ERRORS as error:
            raise EngineRequestError(
                f"the engine answers at {self._address}, but not at the pod's own address {self._own_url}, where the "
                f"Service sends users ({described(error)}): its server must listen on that address family, which "
                "flash-launch makes it do"
            ) from error

    async def health(self) -> EngineHealth:
        timeout = aiohttp.ClientTimeout(total=OBSERVE_TIMEOUT_SECONDS)
        try:
            async with self._session.get(f"{self._address}/health", timeout=timeout) as answer:
                return EngineHealth.GOOD if answer.status == 200 else EngineHealth.BAD  # noqa: PLR2004 - HTTP's OK
        except aiohttp.ClientConnectorError as error:
            # Refused: no engine is listening. A broken connection does not prove that.
            return EngineHealth.BAD if isinstance(error.os_error, ConnectionRefusedError) else EngineHealth.SILENT
        except REQUEST_ERRORS:
            return EngineHealth.SILENT

    async def counters(self) -> EngineCounters:
        """Raises MissingMetricsError, EngineRequestError."""
        timeout = aiohttp.ClientTimeout(total=OBSERVE_TIMEOUT_SECONDS)
        try:
            async with self._session.get(f"{self._address}/metrics", timeout=timeout) as answer:
                await check_status(answer, "/metrics")
                text = await answer.text()
        except REQUEST_ERRORS as error:
            raise EngineRequestError(f"/metrics: {described(error)}") from error
        return EngineCounters.parse(text)

    async def answer(self, config: GateConfig, question: GoldenQuestion | None = None) -> Answer:
        """The greedy answer to a question, the golden one by default. Raises NoAnswerError, EngineRequestError.

        The model is asked not to think. If it thinks anyway and runs out of tokens, it gets more of them.
        """
        asked = question or config.golden
        answer = await self._answer(config, asked, asked.max_tokens)
        most = asked.max_tokens
        if answer.is_unfinished:
            with suppress(RefusedError):
                answer = await self._answer(config, asked, THINKING_FACTOR * asked.max_tokens)
                most += THINKING_FACTOR * asked.max_tokens
        return replace(answer, most_tokens=most)

    async def _answer(self, config: GateConfig, question: GoldenQuestion, tokens: int) -> Answer:
        body = {"model": config.model, "temperature": 0, "max_tokens": tokens}
        if question.kind != "chat":
            choice = await self._first_choice(COMPLETIONS, {**body, "prompt": question.prompt}, config)
            return _answer_of(COMPLETIONS, choice)
        body["messages"] = [{"role": "user", "content": question.prompt}]
        return _answer_of(CHAT, await self.chat(config, body, thinking=False))

    async def chat(self, config: GateConfig, body: dict[str, Any], *, thinking: bool) -> dict[str, Any]:
        """The first choice of a chat completion. Raises NoAnswerError, RefusedError, EngineRequestError."""
        body = {"model": config.model, **body}
        # The first is DeepSeek's name for it, the second that of most other chat templates.
        arguments = {"thinking": thinking, "enable_thinking": thinking}
        try:
            return await self._first_choice(CHAT, {**body, "chat_template_kwargs": arguments}, config)
        except RefusedError:
            # Some tokenizers, such as Mistral's, accept no such arguments.
            return await self._first_choice(CHAT, body, config)

    async def _first_choice(self, path: str, body: dict[str, Any], config: GateConfig) -> dict[str, Any]:
        return _choice(path, await self._post(path, body, config.request_timeout_seconds))

    async def long_prompt(self, config: GateConfig, tokens: int) -> list[int] | str:
        """A prompt of this many tokens that no cache has seen. Raises EngineRequestError.

        Without /tokenize it is a text of that many characters. It has fewer tokens, because too many would be refused.
        """
        text, tail = filler(tokens, Random()), f"\n\n{config.decode.prompt}"  # noqa: S311 - unique, not secret
        try:
            head_ids = await self._tokens_of(config, text, is_begin=True)
            return cut(head_ids, await self._tokens_of(config, tail, is_begin=False), tokens)
        except RefusedError:
            return text[: max(0, tokens - len(tail))] + tail

    async def _tokens_of(self, config: GateConfig, text: str, *, is_begin: bool) -> list[int]:
        body = {"model": config.model, "prompt": text, "add_special_tokens": is_begin}
        reply = await self._post(TOKENIZE, body, config.request_timeout_seconds)
        tokens = reply.get("tokens") if isinstance(reply, dict) else None
        if not isinstance(tokens, list) or not all(type(token) is int for token in tokens):
            raise EngineRequestError("/tokenize: the answer has no list of tokens")
        return tokens

    async def stream(
        self,
        config: GateConfig,
        *,
        tokens: int | None = None,
        enough: Enough | None = None,
        prompt: list[int] | str | None = None,
        seconds: float | None = None,
    ) -> Stream:
        """Time one completion of exactly `tokens` tokens (default: `decode.tokens`), cut short once `enough` is True.

        `prompt` replaces `decode.prompt`, and extends the timeout by its prefill. `seconds` replaces the timeout that
        follows from the floors.

        A stream that times out is cut as well; it counts as a slow stream if tokens were still arriving.
        Raises NoAnswerError if they were not, EngineRequestError for any other failure.
        """
        wanted = tokens or config.decode.tokens
        body = {
            "model": config.model,
            "prompt": config.decode.prompt if prompt is None else prompt,
            "max_tokens": wanted,
            "temperature": 0,
            # An answer that ends early would have too few tokens to time.
            "ignore_eos": True,
            "stream": True,
            # An extension of vLLM: the token count so far in each chunk, because accepted drafts arrive together.
            "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        }
        reader = StreamReader(asked=loop_time(), enough=enough)
        seconds = seconds or _stream_timeout(config, wanted, prompt_tokens=0 if prompt is None else len(prompt))
        try:
            async with self._post_json("/v1/completions", body, seconds) as answer:
                await check_status(answer, "/v1/completions")
                return await reader.read(answer)
        except TimeoutError as error:
            slow = reader.slow_stream(loop_time(), seconds)
            if slow:
                return slow
            raise NoAnswerError(f"/v1/completions: {described(error)}") from error
        except REQUEST_ERRORS as error:
            raise EngineRequestError(f"/v1/completions: {described(error)}") from error

    @asynccontextmanager
    async def _post_json(
        self, path: str, body: dict[str, Any], seconds: float
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        counted, timeout = path != TOKENIZE, aiohttp.ClientTimeout(total=seconds)
        self.own_requests += counted
        try:
            url = f"{self._address}{path}"
            async with self._session.post(url, json=body, headers=self._headers, timeout=timeout) as answer:
                yield answer
        finally:
            self.own_requests -= counted

    async def one_token(self, config: GateConfig, seconds: float) -> None:
        """Ask for one token, as a sign that the engine works. Raises NoAnswerError, EngineRequestError."""
        path = "/v1/completions"
        body = {"model": config.model, "prompt": config.decode.prompt, "max_tokens": 1, "temperature": 0}
        _choice(path, await self._post(path, body, seconds))

    async def _post(self, path: str, body: dict[str, Any], seconds: float) -> dict[str, Any]:
        try:
            async with self._post_json(path, body, seconds) as answer:
                await check_status(answer, path)
                reply: dict[str, Any] = await answer.json()
                return reply
        except TimeoutError as error:
            raise NoAnswerError(f"{path}: {described(error)}") from error
        except REQUEST_ERRORS as error:
            raise EngineRequestError(f"{path}: {described(error)}") from error


def _answer_of(path: str, choice: dict[str, Any]) -> Answer:
    try:
        return Answer.of(choice)
    except (KeyError, TypeError, AttributeError) as error:
        raise EngineRequestError(f"{path}: the answer has no text: {reprlib.repr(choice)}") from error


def _joined(content: object) -> str:
    """The text of a message's content, which may come in parts."""
    parts = content if isinstance(content, list) else [content]
    return "".join(str(part.get("text") or "") if isinstance(part, dict) else str(part or "") for part in parts)


def _choice(path: str, reply: object) -> dict[str, Any]:
    """The first choice of an answer. Raises EngineRequestError."""
    choices = reply.get("choices") if isinstance(reply, dict) else None
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise EngineRequestError(f"{path}: the answer has no choice: {reprlib.repr(reply)}")
    choice: dict[str, Any] = choices[0]
    return choice


def _stream_timeout(config: GateConfig, tokens: int, prompt_tokens: int) -> float:
    at_floor = tokens / config.floor if config.floor else config.request_timeout_seconds
    prefill_floor = config.long_prompt.min_prefill_tokens_per_second if config.long_prompt else None
    if prompt_tokens:
        at_floor += prompt_tokens / prefill_floor if prefill_floor else config.request_timeout_seconds
    return min(config.request_timeout_seconds, max(MIN_STREAM_TIMEOUT_SECONDS, TIMEOUT_FACTOR * at_floor))


def _at(url: str, address: str) -> str:
    """The URL with another IP address."""
    parts = urlsplit(url)
    host = f"[{address}]" if ":" in address else address
    return f"{parts.scheme}://{host}:{parts.port}"
