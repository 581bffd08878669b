"""Clients that keep their connections must leave, too, when their replica is on its way out.

A Service chooses a replica for a connection, not for a request. A client that keeps one goes on with the old replica
after its endpoint has gone, until it is cut off in the middle of an answer. So while a replica drains, or is taken out
because it got slow, each answer says `Connection: close`, and the client's next request finds another replica.

This is ASGI middleware, given to vLLM by its argument `--middleware`. It runs in the engine's process and imports
nothing but the standard library.
"""

import os
import time
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any, Final

from flash_contracts.engine_pod import QUARANTINE_FILE, DrainRequest
from flash_contracts.engine_record import EngineRecord

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

ARGUMENT: Final = "--middleware=flash_engine.drain.connections.CloseWhileLeaving"

LOOK_SECONDS: Final = 0.5


class CloseWhileLeaving:
    """Passes everything on; see the module."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._run_dir = _folder("FLASH_RUN_DIR")
        self._node_dir = _folder("FLASH_NODE_DIR")
        self._leaving = False
        self._looked_at = -LOOK_SECONDS

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        async def send_last(message: Message) -> None:
            if message["type"] == "http.response.start" and self._is_leaving():
                kept = [header for header in message.get("headers", ()) if header[0].lower() != b"connection"]
                message["headers"] = [*kept, (b"connection", b"close")]
            await send(message)

        await self._app(scope, receive, send_last if scope["type"] == "http" else send)

    def _is_leaving(self) -> bool:
        """A few small files, and not read for every answer."""
        if time.monotonic() - self._looked_at >= LOOK_SECONDS:
            self._looked_at = time.monotonic()
            self._leaving = self._drains() or self._is_quarantined()
        return self._leaving

    def _drains(self) -> bool:
        return self._run_dir is not None and DrainRequest.is_made(
            self._run_dir, EngineRecord.read_or_new(self._run_dir / EngineRecord.FILE)
        )

    def _is_quarantined(self) -> bool:
        """Granted for this wish or for an earlier one: to reconnect costs little, and the operator takes it back."""
        try:
            return self._node_dir is not None and bool((self._node_dir / QUARANTINE_FILE).read_text().strip())
        except (OSError, ValueError):
            return False


def _folder(variable: str) -> Path | None:
    return Path(os.environ[variable]) if os.environ.get(variable) else None
