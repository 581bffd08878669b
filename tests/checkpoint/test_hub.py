"""A checkpoint on a hub, looked at by range requests; and every way in which a hub can refuse."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestServer

from fake_checkpoint import Lookalike
from flash_engine.checkpoint.inspection import inspect
from flash_engine.checkpoint.source import open_model
from hub_stub import COMMIT, HubStub

TOKEN = "hf_notarealtokenbutlongenough00000"  # noqa: S105 - of the stub


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[tuple[HubStub, str]]:
    stub = HubStub(Lookalike.make("seed").save(tmp_path / "repository", shards=2))
    async with TestServer(stub.app()) as server:
        yield stub, str(server.make_url("")).rstrip("/")


async def look(
    endpoint: str, *arguments: str, checkpoint: str = "hf://owner/model", **environment: str
) -> dict[str, Any]:
    """The command line as a process of its own: huggingface_hub reads its settings when it is imported."""
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


async def test_headers_alone_are_fetched(hub: tuple[HubStub, str]) -> None:
    stub, endpoint = hub
    found = await look(endpoint, "--revision", COMMIT)

    assert found["layout"] == "W4A16-FP8, INT4 MTP"
    assert found["findings"] == []
    assert found["commit"] == COMMIT
    shards = [size for name, size in stub.served if name.endswith(".safetensors")]
    assert len(shards) == 2, "one request for each header"
    stored = sum(file.stat().st_size for file in stub.folder.glob("*.safetensors"))
    assert sum(shards) < stored / 4


async def test_a_branch_is_resolved_once_and_named_as_one_that_can_move(hub: tuple[HubStub, str]) -> None:
    _, endpoint = hub
    found = await look(endpoint, "--revision", "main")

    (note,) = found["findings"]
    assert (note["code"], note["severity"]) == ("NotPinned", "note")
    assert COMMIT in note["remedy"]


async def test_what_is_wrong_with_a_checkpoint_is_found_on_a_hub_as_in_a_folder(hub: tuple[HubStub, str]) -> None:
    stub, endpoint = hub
    stub.rewrite_config("num_nextn_predict_layers", 0)
    found = await look(endpoint, "--revision", COMMIT, "--speculation", "mtp")

    assert [finding["code"] for finding in found["findings"]] == ["UnknownTensor"]


@pytest.mark.parametrize(
    ("status", "code", "found_as", "remedy"),
    [
        pytest.param(403, "GatedRepo", "AccessDenied", "accept them", id="gated"),
        pytest.param(401, "", "AccessDenied", "HF_TOKEN", id="a token that is none"),
        pytest.param(401, "RepoNotFound", "NoSuchRepository", "HF_TOKEN", id="a private one looks like none"),
        pytest.param(403, "", "AccessDenied", "HF_TOKEN", id="a token without access"),
        pytest.param(500, "", "Unreachable", "later", id="a hub that is ill"),
        pytest.param(429, "", "Unreachable", "later", id="too many requests"),
    ],
)
async def test_a_refusal_is_told_apart(
    hub: tuple[HubStub, str], status: int, code: str, found_as: str, remedy: str
) -> None:
    stub, endpoint = hub
    stub.refuse = (status, code)
    (finding,) = (await look(endpoint, HF_TOKEN=TOKEN))["findings"]

    assert finding["code"] == found_as
    assert remedy in finding["remedy"]
    assert TOKEN not in json.dumps(finding)
    assert stub.tokens == {f"Bearer {TOKEN}"}


async def test_a_revision_that_is_gone_is_said_so(hub: tuple[HubStub, str]) -> None:
    _, endpoint = hub
    (finding,) = (await look(endpoint, "--revision", "f" * 40))["findings"]

    assert finding["code"] == "NoSuchRepository"
    assert "no revision" in finding["message"]


async def test_a_repository_that_is_not_there_is_said_so(hub: tuple[HubStub, str]) -> None:
    stub, endpoint = hub
    stub.repository = "owner/other"
    (finding,) = (await look(endpoint))["findings"]

    assert finding["code"] == "NoSuchRepository"
    assert "owner/model" in finding["message"]


async def test_a_hub_that_no_name_leads_to_is_said_so() -> None:
    (finding,) = (await look("http://hub.invalid:1"))["findings"]

    assert finding["code"] == "Unreachable"
    assert "DNS" in finding["remedy"]


async def test_a_hub_that_nothing_answers_at_is_said_so() -> None:
    (finding,) = (await look("http://127.0.0.1:9"))["findings"]

    assert finding["code"] == "Unreachable"


async def test_without_permission_to_ask_no_hub_is_asked(hub: tuple[HubStub, str]) -> None:
    stub, endpoint = hub
    (finding,) = (await look(endpoint, HF_HUB_OFFLINE="1"))["findings"]

    assert finding["code"] == "Unreachable"
    assert "HF_HUB_OFFLINE" in finding["message"]
    assert stub.served == []


async def test_what_is_no_name_of_a_repository_is_said_so(hub: tuple[HubStub, str]) -> None:
    _, endpoint = hub
    (finding,) = (await look(endpoint, checkpoint="hf://a/b/c"))["findings"]

    assert finding["code"] == "NoSuchRepository"
    assert "hf://OWNER/NAME" in finding["remedy"]


@pytest.mark.parametrize("model", ["s3://bucket/model", "a/b/c", "not a name", "x" * 300])
def test_what_is_neither_a_folder_nor_a_repository_is_said_so(model: str) -> None:
    """As vLLM may be told of it."""
    (finding,) = inspect(lambda: open_model(model)).findings
    assert finding.code == "NotFound"
    assert "neither a folder nor OWNER/NAME" in finding.message
