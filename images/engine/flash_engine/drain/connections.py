"""Closes keep-alive connections of a replica that drains or is quarantined.

A Service chooses a replica per connection, not per request. A client with a keep-alive connection would continue to use
the old replica after its endpoint is removed, and be cut off in mid-answer. So every answer of a draining or
quarantined replica has `Connection: close`, and the client's next request reaches another replica.

This is ASGI middleware, passed to vLLM by its argument `--middleware`. It runs in the engine's process.
"""

import os
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

from flash_contracts.engine_pod import QUARANTINE_FILE, DrainRequest
from flash_contracts.engine_record import EngineRecord
from flash_contracts.environment import Environment

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

ARGUMENT: Final = "--middleware=flash_engine.drain.connections.CloseWhileDraining"

POLL_SECONDS: Final = 0.5


class CloseWhileDraining:
    """Adds `Connection: close` to answers while the replica drains or is quarantined."""

    def __init__(self, app: App) -> None:
        self._app = app
        environment = Environment(os.environ)
        self._run_dir = environment.optional_path("FLASH_RUN_DIR")
        self._node_dir = environment.optional_path("FLASH_NODE_DIR")
        self._closing = False
        self._checked_at = -POLL_SECONDS

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        async def send_last(message: Message) -> None:
            if message["type"] == "http.response.start" and self._must_close():
                kept = [header for header in message.get("headers", ()) if header[0].lower() != b"connection"]
                message["headers"] = [*kept, (b"connection", b"close")]
            await send(message)

        await self._app(scope, receive, send_last if scope["type"] == "http" else send)

    def _must_close(self) -> bool:
        """Reads a few small files, at most every POLL_SECONDS."""
        if time.monotonic() - self._checked_at >= POLL_SECONDS:
            self._checked_at = time.monotonic()
            self._closing = self._is_draining() or self._is_quarantined()
        return self._closing

    def _is_draining(self) -> bool:
        return self._run_dir is not None and DrainRequest.is_made(
            self._run_dir, EngineRecord.read_or_new(self._run_dir / EngineRecord.FILE)
        )

    def _is_quarantined(self) -> bool:
        """Whether any quarantine is granted, even an outdated one: reconnecting is cheap."""
        try:
            return self._node_dir is not None and bool((self._node_dir / QUARANTINE_FILE).read_text().strip())
        except (OSError, ValueError):
            return False
