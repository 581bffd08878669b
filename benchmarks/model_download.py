"""Measures how fast flash-fetch is when the network is not the limit.

    .venv/bin/python benchmarks/model_download.py [GIBIBYTES]

flash-fetch runs as a process, and a server on the same machine and cores sends the files with sendfile. The first
figure is the whole download, with SHA-256 of every byte and fsync; the second is SHA-256 alone, of the same files with
as many threads.
"""

import asyncio
import hashlib
import os
import re
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from download_harness import DownloadHarness
from hub_stub import HubStub

SHARDS = 8


def a_large_repository(folder: Path, gibibytes: float) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    block = os.urandom(8 << 20)
    for number in range(SHARDS):
        with (folder / f"model-{number}.safetensors").open("wb") as file:
            for _ in range(round(gibibytes * 128 / SHARDS)):
                file.write(block)
    return folder


def sender(folder: Path) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = folder / self.path.rpartition("/")[2]
            asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            start, size = int(asked[1]) if asked else 0, path.stat().st_size
            self.send_response(206 if asked else 200)
            self.send_header("Content-Length", str(size - start))
            self.end_headers()
            with path.open("rb") as file:
                self.connection.sendfile(file, start)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def hashing_seconds(files: list[Path]) -> float:
    def digest(path: Path) -> str:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    began = time.monotonic()
    with ThreadPoolExecutor(SHARDS) as pool:
        list(pool.map(digest, files))
    return time.monotonic() - began


async def main(gibibytes: float) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        hub = HubStub(await asyncio.to_thread(a_large_repository, folder / "repository", gibibytes))
        await asyncio.to_thread(lambda: [hub.sibling(path) for path in hub.files()])
        server = sender(hub.folder)
        async with hub.running() as endpoint:
            hub.storage = f"http://127.0.0.1:{server.server_address[1]}"
            harness = DownloadHarness(folder, hub, endpoint)
            began = time.monotonic()
            code, fetch = await harness.fetch()
            seconds = time.monotonic() - began
        assert code == 0, fetch.output
        hashing = await asyncio.to_thread(hashing_seconds, sorted(fetch.model.glob("*.safetensors")))
        server.shutdown()
        mb_per_s = hub.total / 1e6 / seconds
        print(f"{hub.total / 1e9:.1f} GB in {seconds:.1f} s: {mb_per_s:.0f} MB/s on {os.cpu_count()} cores")
        print(f"SHA-256 alone: {hub.total / 1e6 / hashing:.0f} MB/s")


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1]) if sys.argv[1:] else 2.0))
