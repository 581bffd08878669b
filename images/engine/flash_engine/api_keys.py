"""Reads the clients' API keys from a mounted Secret, and provides the middleware that requires one.

vLLM reads keys only at its start: as an argument that everybody on the node can see, or from one variable. Keys in
files can change while the engine runs: the kubelet replaces all of them at once when the Secret changes.

`RequireApiKey` is ASGI middleware, passed to vLLM by its argument `--middleware` (flash_contracts.engine_pod). It runs
in the engine's process. It protects more than vLLM's own check does, which leaves /invocations and /tokenize open.
"""

import hashlib
import hmac
import os
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from pathlib import Path
from typing import Any, Final

from flash_contracts.engine_pod import API_KEYS_DIR
from flash_contracts.environment import Environment

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

OPEN_PATHS: Final = frozenset({"/health", "/ping", "/version", "/load", "/metrics", "/metrics/"})
"""Paths that need no key, as in vLLM: probes and metrics."""

REFRESH_SECONDS: Final = 1.0
"""A removed key is accepted no longer than this after the kubelet has updated the files."""

REFRESH_UNKNOWN_SECONDS: Final = 0.1
"""The files are read again sooner for an unknown key, which may be new."""

MOST_BYTES: Final = 4096
UNAUTHORISED: Final = 401
POLICY_VIOLATION: Final = 1008
"""Close code of a websocket (RFC 6455)."""


def read_keys(folder: Path) -> tuple[str, ...]:
    """One key per entry of the Secret, ordered by the entries' names; none if the folder cannot be read.

    The kubelet's own entries begin with two dots. Whitespace around a key is dropped, because `echo` adds a newline.
    Entries that no header can carry are ignored.
    """
    try:
        entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith(".."))
    except OSError:
        return ()
    return tuple(key for key in map(_read_key, entries) if key)


def _read_key(entry: Path) -> str:
    try:
        key = entry.read_bytes()[: MOST_BYTES + 1].decode("ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""
    return key if key.isprintable() and " " not in key and len(key) <= MOST_BYTES else ""


def keys_folder(variables: Mapping[str, str]) -> Path | None:
    """The folder with the keys; None if no key is required."""
    return Environment(variables).optional_path(API_KEYS_DIR)


class RequireApiKey:
    """Answers 401 to requests without a known key, except for OPEN_PATHS. If there are no keys, to all of them."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._folder = keys_folder(os.environ)
        self._digests: tuple[bytes, ...] = ()
        self._read_at = -REFRESH_SECONDS

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if self._is_open(scope) or self._knows(_bearer_of(scope)):
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": POLICY_VIOLATION, "reason": "Unauthorized"})
        else:
            await _answer_unauthorised(send)

    def _is_open(self, scope: Message) -> bool:
        """Whether a request needs no key. Browsers send OPTIONS without one to learn what they may send."""
        if scope["type"] not in ("http", "websocket") or scope.get("method") == "OPTIONS":
            return True
        return scope["path"].removeprefix(scope.get("root_path", "")) in OPEN_PATHS

    def _knows(self, key: bytes | None) -> bool:
        if key is None:
            return False
        self._refresh(REFRESH_SECONDS)
        return self._is_known(key) or (self._refresh(REFRESH_UNKNOWN_SECONDS) and self._is_known(key))

    def _is_known(self, key: bytes) -> bool:
        digest = hashlib.sha256(key).digest()
        return any(hmac.compare_digest(digest, known) for known in self._digests)

    def _refresh(self, age_seconds: float) -> bool:
        """Read the files again if the known keys are older than this. Returns whether it did."""
        if time.monotonic() - self._read_at < age_seconds:
            return False
        self._read_at = time.monotonic()
        keys = read_keys(self._folder) if self._folder else ()
        self._digests = tuple(hashlib.sha256(key.encode()).digest() for key in keys)
        return True


def _bearer_of(scope: Message) -> bytes | None:
    """The key of the only Authorization header; None if there is none, several, or another scheme."""
    found = [value for name, value in scope.get("headers", ()) if name.lower() == b"authorization"]
    scheme, _, key = found[0].partition(b" ") if len(found) == 1 else (b"", b"", b"")
    return key.strip() if scheme.lower() == b"bearer" and key.strip() else None


async def _answer_unauthorised(send: Send) -> None:
    headers = [(b"content-type", b"application/json"), (b"www-authenticate", b"Bearer")]
    await send({"type": "http.response.start", "status": UNAUTHORISED, "headers": headers})
    await send({"type": "http.response.body", "body": b'{"error":"Unauthorized"}'})
