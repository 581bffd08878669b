"""A stub of a model hub, serving a repository from a folder to the real huggingface_hub client.

The answers follow what the client expects (huggingface_hub 2.4, hf_api.py and utils/_http.py: X-Error-Code identifies
the error). As on the real hub, large files redirect to a storage host, which must not be sent the token.
"""

import asyncio
import hashlib
import json
import re
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CHUNK = 64 << 10


@lru_cache
def _checksums(path: Path, size: int, _changed: int) -> tuple[str, str]:
    """Git's SHA-1, and SHA-256. Cached, because a hub does not compute them for each request."""
    sha1, sha256 = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False), hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            sha1.update(chunk)
            sha256.update(chunk)
    return sha1.hexdigest(), sha256.hexdigest()


@dataclass
class HubStub:
    """`refuse`: a status and an error code with which to answer every request; `refuse_headers` go with it."""

    folder: Path
    repository: str = "owner/model"
    commit: str = COMMIT
    """The commit of the branch main."""
    refuse: tuple[int, str] | None = None
    refuse_headers: dict[str, str] = field(default_factory=dict)
    asked_at: list[float] = field(default_factory=list)
    """When the list of files was asked for, by the monotonic clock."""
    tokens: set[str | None] = field(default_factory=set)
    storage_tokens: set[str | None] = field(default_factory=set)
    """The Authorization headers that the storage host received."""
    served: list[tuple[str, int]] = field(default_factory=list)
    """File and size of each range that was sent completely."""
    sent: Counter[str] = field(default_factory=Counter)
    """Bytes sent of each file, including interrupted transfers."""
    storage: str = ""
    """Address of the storage host. If empty, the hub sends the files itself."""
    cut_after: dict[str, list[int]] = field(default_factory=dict)
    """For each file, the numbers of bytes after which its next transfers are interrupted."""
    corrupt: Counter[str] = field(default_factory=Counter)
    """How many of a file's next transfers have a wrong byte."""
    bytes_per_second: int | None = None
    """The rate of each transfer."""
    ignores_ranges: bool = False
    """Whether to send the whole file whatever range was requested, as some proxies do."""
    silent: set[str] = field(default_factory=set)
    """Files of which no data is sent."""

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/api/models/{repository:.+?}", self.info)
        app.router.add_get("/{repository:[^/]+/[^/]+}/resolve/{revision}/{file:.+}", self.file)
        return app

    def storage_app(self) -> web.Application:
        """The storage host."""
        app = web.Application()
        app.router.add_get("/stored/{file:.+}", self.stored)
        return app

    @asynccontextmanager
    async def running(self, host: str = "127.0.0.1") -> AsyncIterator[str]:
        """Runs both hosts. Yields the hub's address."""
        async with TestServer(self.storage_app(), host=host) as storage, TestServer(self.app(), host=host) as hub:
            self.storage = str(storage.make_url("")).rstrip("/")
            yield str(hub.make_url("")).rstrip("/")

    @property
    def total(self) -> int:
        return sum(path.stat().st_size for path in self.files())

    async def info(self, request: web.Request) -> web.Response:
        """`/api/models/OWNER/NAME[/revision/REVISION]`."""
        self.asked_at.append(time.monotonic())
        self.tokens.add(request.headers.get("Authorization"))
        if self.refuse:
            return self._refusal(*self.refuse)
        repository, _, revision = request.match_info["repository"].partition("/revision/")
        if repository != self.repository:
            return web.json_response({"error": "no"}, status=404, headers={"X-Error-Code": "RepoNotFound"})
        if revision not in ("", "main", self.commit):
            return web.json_response({"error": "no"}, status=404, headers={"X-Error-Code": "RevisionNotFound"})
        files = [self.sibling(path) for path in self.files()]
        return web.json_response({"id": repository, "sha": self.commit, "siblings": files})

    def _refusal(self, status: int, code: str) -> web.Response:
        headers = {**self.refuse_headers, **({"X-Error-Code": code} if code else {})}
        return web.json_response({"error": "no"}, status=status, headers=headers)

    def files(self) -> list[Path]:
        return sorted(path for path in self.folder.rglob("*") if path.is_file())

    def sibling(self, path: Path) -> dict[str, Any]:
        """A file's entry in the listing. A hub gives the SHA-256 only of large files, and git's SHA-1 of all."""
        stat = path.stat()
        made: dict[str, Any] = {"rfilename": str(path.relative_to(self.folder)), "size": stat.st_size}
        sha1, sha256 = _checksums(path, stat.st_size, stat.st_mtime_ns)
        made["blobId"] = sha1
        if path.suffix == ".safetensors":
            made["lfs"] = {"sha256": sha256, "size": stat.st_size, "pointerSize": 135}
        return made

    async def file(self, request: web.Request) -> web.StreamResponse:
        self.tokens.add(request.headers.get("Authorization"))
        if self.refuse:
            return self._refusal(*self.refuse)
        name = request.match_info["file"]
        if request.match_info["revision"] != self.commit or not (self.folder / name).is_file():
            return web.json_response({"error": "no"}, status=404, headers={"X-Error-Code": "EntryNotFound"})
        if self.storage and name.endswith(".safetensors"):
            return web.Response(status=302, headers={"Location": f"{self.storage}/stored/{name}"})
        return await self._send(request, name)

    async def stored(self, request: web.Request) -> web.StreamResponse:
        self.storage_tokens.add(request.headers.get("Authorization"))
        return await self._send(request, request.match_info["file"])

    async def _send(self, request: web.Request, name: str) -> web.StreamResponse:
        content = (self.folder / name).read_bytes()
        asked = (
            re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", "")) if not self.ignores_ranges else None
        )
        start = int(asked[1]) if asked else 0
        end = int(asked[2]) + 1 if asked and asked[2] else len(content)
        size, content = len(content), content[start:end]
        if self.corrupt[name] > 0 and content:
            self.corrupt[name] -= 1
            content = bytes([content[0] ^ 1]) + content[1:]
        headers = {"Content-Length": str(len(content))}
        if asked:
            headers["Content-Range"] = f"bytes {start}-{start + len(content) - 1}/{size}"
        response = web.StreamResponse(status=206 if asked else 200, headers=headers)
        await response.prepare(request)
        if name in self.silent:
            await asyncio.sleep(3600)
        limit = self.cut_after[name].pop(0) if self.cut_after.get(name) else len(content)
        await self._stream(response, name, content[:limit])
        if limit < len(content):
            assert request.transport is not None
            request.transport.abort()
            return response
        self.served.append((name, len(content)))
        return response

    async def _stream(self, response: web.StreamResponse, name: str, content: bytes) -> None:
        for begin in range(0, len(content), CHUNK):
            chunk = content[begin : begin + CHUNK]
            await response.write(chunk)
            self.sent[name] += len(chunk)
            if self.bytes_per_second:
                await asyncio.sleep(len(chunk) / self.bytes_per_second)

    def rewrite_config(self, key: str, value: object) -> None:
        config = json.loads((self.folder / "config.json").read_text())
        (self.folder / "config.json").write_text(json.dumps({**config, key: value}))


@contextmanager
def in_a_thread(hub: HubStub, host: str) -> Iterator[str]:
    """Runs the hub in a thread, for tests without an event loop. Yields its address."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="hub-stub")
    thread.start()
    running = hub.running(host)
    try:
        yield asyncio.run_coroutine_threadsafe(running.__aenter__(), loop).result(30)
        asyncio.run_coroutine_threadsafe(running.__aexit__(None, None, None), loop).result(30)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
