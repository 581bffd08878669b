"""Runs flash-fetch with a stub hub and a cache. As a process, because huggingface_hub reads its settings on import."""

import asyncio
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hub_stub import HubStub
from image_registry import Document, ImageRegistry
from waiting import eventually_async

SHARDS = 3
SHARD_BYTES = 4 << 20
LARGE_SHARD_BYTES = 32 << 20
"""huggingface_hub writes 10 MB at a time, so smaller files show no progress."""


def write_repository(folder: Path, *, seed: int = 0, shard_bytes: int = SHARD_BYTES) -> Path:
    """Writes files like a model's, one of them in a subfolder and one that flash-fetch skips."""
    chance = random.Random(seed)
    (folder / "encoding").mkdir(parents=True)
    for number in range(SHARDS):
        name = f"model-{number + 1:05}-of-{SHARDS:05}.safetensors"
        (folder / name).write_bytes(chance.randbytes(shard_bytes))
    (folder / "config.json").write_text(json.dumps({"model_type": "deepseek_v4", "seed": seed}))
    (folder / "encoding" / "encode.py").write_text("# turns a chat into a prompt\n")
    (folder / "pytorch_model.bin").write_bytes(b"the same weights again")
    return folder


@dataclass
class FetchProcess:
    """One run of flash-fetch. `record` is the content of its delivery.json."""

    run_dir: Path
    process: asyncio.subprocess.Process
    output: str = ""

    @property
    def record(self) -> dict[str, Any]:
        try:
            document: dict[str, Any] = json.loads((self.run_dir / "delivery.json").read_text())
        except FileNotFoundError:
            return {"phase": "not written yet", "bytes": 0}
        return document

    @property
    def model(self) -> Path:
        return (self.run_dir / "model").resolve(strict=True)

    async def wait(self) -> int:
        _, err = await self.process.communicate()
        self.output += err.decode()
        assert self.process.returncode is not None
        return self.process.returncode

    async def wait_until(self, holds: Callable[[dict[str, Any]], bool], *, seconds: float = 60) -> dict[str, Any]:
        await eventually_async(
            lambda: holds(self.record), "the expected download record", seconds=seconds, pause=0.02,
            alive=lambda: self.process.returncode is None, seen=lambda: self.record,
        )  # fmt: skip
        return self.record


@dataclass
class DownloadHarness:
    """A hub, a cache, and any number of runs."""

    folder: Path
    hub: HubStub
    endpoint: str
    fetches: list[FetchProcess] = field(default_factory=list)

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    def serve_slowly(self) -> None:
        """Serves a larger model slowly, so that a transfer takes seconds and shows progress."""
        self.hub.folder = write_repository(self.folder / "large", shard_bytes=LARGE_SHARD_BYTES)
        self.hub.bytes_per_second = 8 << 20

    async def start(self, name: str = "pod", **environment: str) -> FetchProcess:
        """`name` is the pod's. A second run with the same name is a restart of its container."""
        run_dir = self.folder / "run" / name
        run_dir.mkdir(parents=True, exist_ok=True)
        self.cache.mkdir(exist_ok=True)
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "FLASH_"))}
        settings = {
            "HF_ENDPOINT": self.endpoint,
            "HOME": str(self.folder),
            "FLASH_MODEL_SOURCE": f"hf://{self.hub.repository}",
            "FLASH_MODEL_CACHE": str(self.cache),
            "FLASH_RUN_DIR": str(run_dir),
            "FLASH_FETCH_STALL_SECONDS": "20",
            **environment,
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "flash_engine.model_download",
            env={**kept, **settings}, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        fetch = FetchProcess(run_dir, process)
        self.fetches.append(fetch)
        return fetch

    async def fetch(self, name: str = "pod", **environment: str) -> tuple[int, FetchProcess]:
        fetch = await self.start(name, **environment)
        return await fetch.wait(), fetch


class Registries:
    """Registries that share one storage: an open one to push to, and others as a test needs them.

    `harness.hub` is the storage host behind a redirecting registry. It can do what a real registry cannot be made to
    do: be slow, interrupt transfers and corrupt bytes.
    """

    def __init__(self, harness: DownloadHarness, root: Path, stack: ExitStack) -> None:
        self.harness = harness
        self.root = root
        self._stack = stack
        self.open = self.start()

    def start(self, **settings: Document) -> ImageRegistry:
        return self._stack.enter_context(ImageRegistry(self.root, settings).running())

    def start_redirecting(self, **settings: Document) -> ImageRegistry:
        """A registry that redirects blob requests to another host, as to an object store."""
        redirect = {"name": "redirect", "options": {"baseurl": f"{self.harness.hub.storage}/stored"}}
        return self.start(middleware={"storage": [redirect]}, **settings)


@contextmanager
def small_disk(folder: Path, options: str) -> Iterator[None]:
    """Mounts a small file system in memory. Needs root."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)
