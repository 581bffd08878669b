"""Inspects a checkpoint on a hub with range requests; and every error of a hub."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from aiohttp.test_utils import TestServer

from fake_checkpoint import FakeCheckpoint
from flash_engine.checkpoint.finding import CheckpointError
from flash_engine.checkpoint.hub import part_of
from flash_engine.checkpoint.inspection import inspect
from flash_engine.checkpoint.source import open_model
from hub_stub import COMMIT, HubStub

TOKEN = "hf_notarealtokenbutlongenough00000"  # noqa: S105 - of the stub


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[tuple[HubStub, str]]:
    stub = HubStub(FakeCheckpoint.make("seed").save(tmp_path / "repository", shards=2))
    async with TestServer(stub.app()) as server:
        yield stub, str(server.make_url("")).rstrip("/")


async def look(
    endpoint: str, *arguments: str, checkpoint: str = "hf://owner/model", **environment: str
) -> dict[str, Any]:
    """Runs the command as a process, because huggingface_hub reads its settings when it is imported."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "flash_engine.checkpoint", "inspect", checkpoint, "--json", *arguments,
        env={**kept, "HF_ENDPOINT": endpoint, "HF_HOME": "/nonexistent", **environment},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    assert not err, err.decode()
    found: dict[str, Any] = json.loads(out)
    assert process.returncode == (0 if found["servable"] else 1)
    return found


async def test_only_headers_are_fetched(hub: tuple[HubStub, str]) -> None:
    stub, endpoint = hub
    found = await look(endpoint, "--revision", COMMIT)

    assert found["layout"] == "W4A16-FP8, INT4 MTP"
    assert found["findings"] == []
    assert found["commit"] == COMMIT
    shards = [size for name, size in stub.served if name.endswith(".safetensors")]
    assert len(shards) == 2, "one request for each header"
    stored = sum(file.stat().st_size for file in stub.folder.glob("*.safetensors"))
    assert sum(shards) < stored / 4


async def test_a_branch_is_resolved_once_and_reported_as_not_pinned(hub: tuple[HubStub, str]) -> None:
    _, endpoint = hub
    found = await look(endpoint, "--revision", "main")

    (note,) = found["findings"]
    assert (note["code"], note["severity"]) == ("NotPinned", "note")
    assert COMMIT in note["remedy"]


async def test_a_checkpoint_on_a_hub_has_the_same_findings_as_in_a_folder(hub: tuple[HubStub, str]) -> None:
    stub, endpoint = hub
    stub.rewrite_config("num_nextn_predict_layers", 0)
    found = await look(endpoint, "--revision", COMMIT, "--speculation", "mtp")

    assert [finding["code"] for finding in found["findings"]] == ["UnknownTensor"]


@pytest.mark.parametrize(
    ("status", "code", "found_as", "remedy"),
    [
        pytest.param(403, "GatedRepo", "AccessDenied", "accept the terms", id="gated"),
        pytest.param(401, "", "AccessDenied", "HF_TOKEN", id="invalid token"),
        pytest.param(401, "RepoNotFound", "NoSuchRepository", "HF_TOKEN", id="private repository"),
        pytest.param(403, "", "AccessDenied", "HF_TOKEN", id="token without access"),
        pytest.param(500, "", "Unreachable", "later", id="server error"),
        pytest.param(429, "", "Unreachable", "later", id="too many requests"),
    ],
)
async def test_each_error_of_the_hub_has_its_code(
    hub: tuple[HubStub, str], status: int, code: str, found_as: str, remedy: str
) -> None:
    stub, endpoint = hub
    stub.refuse = (status, code)
    (finding,) = (await look(endpoint, HF_TOKEN=TOKEN))["findings"]

    assert finding["code"] == found_as
    assert remedy in finding["remedy"]
    assert TOKEN not in json.dumps(finding)
    assert stub.tokens == {f"Bearer {TOKEN}"}


async def test_a_missing_revision(hub: tuple[HubStub, str]) -> None:
    _, endpoint = hub
    (finding,) = (await look(endpoint, "--revision", "f" * 40))["findings"]

    assert finding["code"] == "NoSuchRepository"
    assert "no revision" in finding["message"]


async def test_a_missing_repository(hub: tuple[HubStub, str]) -> None:
    stub, endpoint = hub
    stub.repository = "owner/other"
    (finding,) = (await look(endpoint))["findings"]

    assert finding["code"] == "NoSuchRepository"
    assert "owner/model" in finding["message"]


async def test_a_hub_whose_name_cannot_be_resolved() -> None:
    (finding,) = (await look("http://hub.invalid:1"))["findings"]

    assert finding["code"] == "Unreachable"
    assert "DNS" in finding["remedy"]


async def test_a_hub_that_refuses_connections() -> None:
    (finding,) = (await look("http://127.0.0.1:9"))["findings"]

    assert finding["code"] == "Unreachable"


async def test_the_hub_is_not_contacted_in_offline_mode(hub: tuple[HubStub, str]) -> None:
    stub, endpoint = hub
    (finding,) = (await look(endpoint, HF_HUB_OFFLINE="1"))["findings"]

    assert finding["code"] == "Unreachable"
    assert "HF_HUB_OFFLINE" in finding["message"]
    assert stub.served == []


async def test_an_invalid_repository_name(hub: tuple[HubStub, str]) -> None:
    _, endpoint = hub
    (finding,) = (await look(endpoint, checkpoint="hf://a/b/c"))["findings"]

    assert finding["code"] == "NoSuchRepository"
    assert "hf://OWNER/NAME" in finding["remedy"]


@pytest.mark.parametrize("model", ["s3://bucket/model", "a/b/c", "not a name", "x" * 300])
def test_neither_a_folder_nor_a_repository(model: str) -> None:
    """vLLM's model argument may be anything."""
    (finding,) = inspect(lambda: open_model(model)).findings
    assert finding.code == "NotFound"
    assert "neither a folder nor OWNER/NAME" in finding.message


FILE = bytes(range(100))
PARTS: dict[str, tuple[int, dict[str, str], bytes]] = {
    "the part": (206, {"Content-Range": "bytes 10-14/100", "Content-Length": "5"}, FILE[10:15]),
    "the part, without a word about it": (206, {}, FILE[10:15]),
    "more than the part": (206, {"Content-Range": "bytes 10-99/100"}, FILE[10:]),
    "the whole file, as some proxies do": (200, {}, FILE),
}


@pytest.mark.parametrize(("status", "headers", "content"), PARTS.values(), ids=PARTS.keys())
def test_only_the_requested_range_is_read(status: int, headers: dict[str, str], content: bytes) -> None:
    pieces = [content[at : at + 7] for at in range(0, len(content), 7)]
    assert part_of(httpx2.Response(status, headers=headers, content=iter(pieces)), "a", 10, 5) == FILE[10:15]


def test_a_different_range_is_never_accepted_as_the_requested_one() -> None:
    other = httpx2.Response(206, headers={"Content-Range": "bytes 1000-1004/9999"}, content=b"other")
    with pytest.raises(CheckpointError, match="sent 'bytes 1000-1004/9999' of a when asked for the bytes from 10"):
        part_of(other, "a", 10, 5)
