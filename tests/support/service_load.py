"""Users: clients that send requests through a Service, one after the other, and count the outcomes."""

import asyncio
import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import aiohttp

REQUEST_SECONDS = 120.0


@dataclass(frozen=True)
class Client:
    """How one of the users behaves."""

    name: str
    tokens: tuple[int, int]
    """Minimum and maximum number of tokens of a request."""
    keeps_connection: bool = False
    """Like the connection pools of SDKs. It retries a request whose connection was closed before any byte of an
    answer, as every HTTP library with keep-alive connections does."""
    pause_seconds: float = 0.0


@dataclass
class Load:
    """A context in which users send requests, in a thread of their own."""

    url: str
    model: str
    clients: tuple[Client, ...]
    answered: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)
    story: str = "before"
    """The current part of the test, by which requests are counted."""
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=lambda: asyncio.run(self._work()), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join(REQUEST_SECONDS + 10)

    @property
    def total(self) -> int:
        return sum(self.answered.values())

    async def _work(self) -> None:
        users = [asyncio.create_task(self._use(client, number)) for number, client in enumerate(self.clients)]
        await asyncio.gather(*users)

    async def _use(self, client: Client, seed: int) -> None:
        draw = random.Random(seed)
        connector = aiohttp.TCPConnector(force_close=not client.keeps_connection, limit=1)
        timeout = aiohttp.ClientTimeout(total=REQUEST_SECONDS)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            while not self._stop.is_set():
                await self._ask(session, client, draw.randint(*client.tokens))
                await asyncio.sleep(client.pause_seconds)

    async def _ask(self, session: aiohttp.ClientSession, client: Client, tokens: int) -> None:
        body = {"model": self.model, "prompt": "p", "max_tokens": tokens, "stream": True, "ignore_eos": True}
        story, began = self.story, time.monotonic()
        trouble = await self._send(session, body, tries=2 if client.keeps_connection else 1)
        if trouble is None:
            self.answered[story] += 1
            return
        took = time.monotonic() - began
        self.failed.append(f"{story}: {client.name}, {tokens} tokens, after {took:.1f} s: {trouble}")
        await asyncio.sleep(0.2)

    async def _send(self, session: aiohttp.ClientSession, body: dict[str, Any], tries: int) -> str | None:
        """None if the answer was complete; otherwise what arrived."""
        text = ""
        try:
            async with session.post(f"{self.url}/v1/completions", json=body) as answer:
                async for piece in answer.content.iter_any():
                    text += piece.decode()
        except (aiohttp.ClientError, TimeoutError) as error:
            closed = isinstance(error, aiohttp.ServerDisconnectedError | aiohttp.ClientOSError)
            if closed and not text and tries > 1:
                return await self._send(session, body, tries - 1)
            return f"{error!r} after {len(text)} bytes"
        whole = answer.status == 200 and text.rstrip().endswith("[DONE]")
        return None if whole else f"HTTP {answer.status}, {len(text)} bytes: {text[-200:]!r}"
