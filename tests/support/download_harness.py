"""A hub, a cache, and flash-fetch as a process of its own: huggingface_hub reads its settings when it is imported."""

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
"""huggingface_hub writes 10 MB at a time, so the course of a smaller file is not to be seen."""


def a_repository(folder: Path, *, seed: int = 0, shard_bytes: int = SHARD_BYTES) -> Path:
    """Files as a model has them, one in a folder of its own, and one that no engine reads."""
    chance = random.Random(seed)
    (folder / "encoding").mkdir(parents=True)
    for number in range(SHARDS):
        name = f"model-{number + 1:05}-of-{SHARDS:05}.safetensors"
        (folder / name).write_bytes(chance.randbytes(shard_bytes))
    (folder / "config.json").write_text(json.dumps({"model_type": "deepseek_v4", "seed": seed}))
    (folder / "encoding" / "encode.py").write_text("# how a chat becomes a prompt\n")
    (folder / "pytorch_model.bin").write_bytes(b"the same weights again")
    return folder


@dataclass
class Fetch:
    """One run of flash-fetch. `record` is its delivery.json."""

    run_dir: Path
    process: asyncio.subprocess.Process
    output: str = ""

    @property
    def record(self) -> dict[str, Any]:
        try:
            document: dict[str, Any] = json.loads((self.run_dir / "delivery.json").read_text())
        except FileNotFoundError:
            return {"phase": "none yet", "bytes": 0}
        return document

    @property
    def model(self) -> Path:
        return (self.run_dir / "model").resolve(strict=True)

    async def end(self) -> int:
        _, err = await self.process.communicate()
        self.output += err.decode()
        assert self.process.returncode is not None
        return self.process.returncode

    async def until(self, holds: Callable[[dict[str, Any]], bool], *, seconds: float = 60) -> dict[str, Any]:
        await eventually_async(
            lambda: holds(self.record), "the delivery's record as it should be", seconds=seconds, pause=0.02,
            alive=lambda: self.process.returncode is None, seen=lambda: self.record,
        )  # fmt: skip
        return self.record


@dataclass
class Bench:
    """One hub, one cache, as many runs as a test needs."""

    folder: Path
    hub: HubStub
    endpoint: str
    fetches: list[Fetch] = field(default_factory=list)

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    def slow_and_large(self) -> None:
        """A transfer that takes seconds, and shows how far it has come."""
        self.hub.folder = a_repository(self.folder / "large", shard_bytes=LARGE_SHARD_BYTES)
        self.hub.bytes_per_second = 8 << 20

    async def start(self, name: str = "pod", **environment: str) -> Fetch:
        """`name` is the pod: a second run of the same name is its container started again."""
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
        fetch = Fetch(run_dir, process)
        self.fetches.append(fetch)
        return fetch

    async def fetch(self, name: str = "pod", **environment: str) -> tuple[int, Fetch]:
        fetch = await self.start(name, **environment)
        return await fetch.end(), fetch


class Registries:
    """Registries over one storage: an open one to push to, and such as a test asks for.

    `bench.hub` is the storage behind one that redirects to it: what a real one cannot be brought to do, to be slow, to
    break off and to spoil a byte, it does.
    """

    def __init__(self, bench: Bench, root: Path, stack: ExitStack) -> None:
        self.bench = bench
        self.root = root
        self._stack = stack
        self.open = self.start()

    def start(self, **settings: Document) -> ImageRegistry:
        return self._stack.enter_context(ImageRegistry(self.root, settings).running())

    def start_redirecting(self, **settings: Document) -> ImageRegistry:
        """Blobs come from another host, as from an object store."""
        redirect = {"name": "redirect", "options": {"baseurl": f"{self.bench.hub.storage}/stored"}}
        return self.start(middleware={"storage": [redirect]}, **settings)


@contextmanager
def a_small_disk(folder: Path, options: str) -> Iterator[None]:
    """A real file system of its own, in memory (root)."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)
