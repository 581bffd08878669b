"""Each way in which a model does not come: a sentence that says what to do, and no trace of Python."""

import json
import os
from pathlib import Path

import pytest

from download_harness import SHARD_BYTES, Bench, Fetch, a_small_disk
from hub_stub import COMMIT

NO_PATIENCE = {"FLASH_FETCH_STALL_SECONDS": "0.5"}


def assert_told(code: int, fetch: Fetch, *words: str) -> None:
    """In the record and as the last line of the log, which the kubelet shows."""
    assert code == 1, fetch.output
    record = fetch.record
    assert record["phase"] == "Failed"
    for word in words:
        assert word in record["failure"]
    assert not [line for line in fetch.output.splitlines() if not line.startswith("{")], "every line is of the log"
    assert json.loads(fetch.output.splitlines()[-1])["error"] == record["failure"]


@pytest.mark.parametrize(
    ("status", "error", "word"),
    [
        pytest.param(401, "", "refuses owner/model to this token (401)", id="a token that is none"),
        pytest.param(403, "", "refuses owner/model to this token (403)", id="a token without access"),
        pytest.param(403, "GatedRepo", "terms that this token's owner has not accepted", id="gated"),
        pytest.param(401, "RepoNotFound", "knows no owner/model", id="a private one looks like none"),
        pytest.param(500, "", "the hub answered 500", id="a hub that is ill"),
    ],
)
async def test_a_hub_that_refuses(bench: Bench, status: int, error: str, word: str) -> None:
    bench.hub.refuse = (status, error)
    code, fetch = await bench.fetch(**NO_PATIENCE)
    assert_told(code, fetch, word)


async def test_a_commit_that_is_not_there(bench: Bench) -> None:
    code, fetch = await bench.fetch(FLASH_MODEL_REVISION="e" * 40)
    assert_told(code, fetch, f"no revision {'e' * 40}", "model.revision")


async def test_a_repository_that_is_not_there(bench: Bench) -> None:
    code, fetch = await bench.fetch(FLASH_MODEL_SOURCE="hf://owner/other")
    assert_told(code, fetch, "knows no owner/other", "model.credentialsSecret")


async def test_a_name_that_no_hub_is_found_by(bench: Bench) -> None:
    code, fetch = await bench.fetch(HF_ENDPOINT="http://hub.invalid:1", **NO_PATIENCE)
    assert_told(code, fetch, "cannot be reached", "DNS")


async def test_a_hub_that_is_away_for_a_moment_is_asked_again(bench: Bench) -> None:
    bench.hub.refuse = (503, "")
    fetch = await bench.start()
    record = await fetch.until(lambda record: "asking again" in record.get("message", ""))
    assert (record["phase"], record["failure"]) == ("Resolving", None)
    bench.hub.refuse = None
    assert await fetch.end() == 0


async def test_a_failure_stays_in_sight_until_another_attempt_has_come_further(bench: Bench) -> None:
    await bench.fetch(HF_ENDPOINT="http://hub.invalid:1", **NO_PATIENCE)
    bench.slow_and_large()
    again = await bench.start()
    listed = await again.until(lambda record: record["commit"] == COMMIT)
    assert "cannot be reached" in listed["failure"]

    record = await again.until(lambda record: record["bytes"] > SHARD_BYTES // 2)
    assert record["failure"] is None


async def test_a_secret_without_a_token(bench: Bench, tmp_path: Path) -> None:
    code, fetch = await bench.fetch(FLASH_HUB_TOKEN_FILE=str(tmp_path / "none"), FLASH_HUB_SECRET="hub")  # noqa: S106
    assert_told(code, fetch, "the Secret hub has no key token", "kubectl create secret generic hub")


async def test_a_model_beyond_the_bound_is_refused_before_its_first_byte(bench: Bench) -> None:
    code, fetch = await bench.fetch(FLASH_MODEL_CACHE_GIBIBYTES="0.01")
    assert_told(code, fetch, "takes 12.0 MiB", "allows all models 10.2 MiB", "raise it")
    assert bench.hub.sent.total() == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts a small file system; CI is root")
async def test_a_disk_without_room_is_refused_before_the_first_byte(bench: Bench) -> None:
    """On a real file system that is too small."""
    with a_small_disk(bench.cache, "size=20m"):
        code, fetch = await bench.fetch()
        assert_told(code, fetch, "needs 12.0 MiB more", "20.0 MiB are free", "nothing was fetched")
        assert bench.hub.sent.total() == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts a small file system; CI is root")
async def test_a_disk_that_somebody_else_fills_meanwhile(bench: Bench) -> None:
    with a_small_disk(bench.cache, "size=40m"):
        bench.hub.bytes_per_second = 1 << 20
        fetch = await bench.start()
        await fetch.until(lambda record: record["phase"] == "Downloading")
        (bench.cache / "somebody's").write_bytes(bytes(37 << 20))
        assert_told(await fetch.end(), fetch, "the volume was full", "something else writes to it")


async def test_a_file_of_which_nothing_comes(bench: Bench) -> None:
    bench.hub.silent.add("model-00001-of-00003.safetensors")
    code, fetch = await bench.fetch(FLASH_FETCH_STALL_SECONDS="2", HF_HUB_DOWNLOAD_TIMEOUT="1")
    assert_told(code, fetch, "no byte of model-00001-of-00003.safetensors came for 2 s", "what is here stays")


@pytest.mark.skipif(os.geteuid() != 0, reason="a folder of another user is made by root; CI is root")
async def test_a_folder_of_the_node_that_the_pod_may_not_write(bench: Bench) -> None:
    """Root may write everywhere, so the folder is a file system that nobody may write to."""
    with a_small_disk(bench.cache, "ro,size=1m"):
        code, fetch = await bench.fetch(
            FLASH_MODEL_CACHE_KIND="Node", FLASH_MODEL_CACHE_NAME="/var/lib/deepseek-flash/models"
        )
        assert_told(code, fetch, "cannot be written", "install -d -o 65532 -g 65532 /var/lib/deepseek-flash/models")


async def test_what_nobody_thought_of_has_a_sentence_too(bench: Bench) -> None:
    """A list that is none of a hub's."""

    def nonsense(_path: Path) -> dict[str, object]:
        return {"rfilename": "a", "size": 1, "lfs": {"no": "checksum"}}

    bench.hub.sibling = nonsense  # type: ignore[method-assign, assignment]
    code, fetch = await bench.fetch()
    assert_told(code, fetch, "KeyError", "a fault of flash-fetch")
    assert "hf_api.py" in fetch.output, "where it happened"


async def test_a_name_that_leads_out_of_the_models_folder_is_not_followed(bench: Bench, tmp_path: Path) -> None:
    def outside(path: Path) -> dict[str, object]:
        return {"rfilename": "../../outside", "size": path.stat().st_size, "blobId": "0" * 40}

    bench.hub.sibling = outside  # type: ignore[method-assign]  # a hub that means ill
    code, fetch = await bench.fetch()
    assert_told(code, fetch, "'../../outside'")
    assert not [name for _, _, names in os.walk(tmp_path) for name in names if name == "outside"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("FLASH_MODEL_SOURCE", "s3://bucket"),
        ("FLASH_MODEL_CACHE_KIND", "Cloud"),
        ("FLASH_MODEL_CACHE_GIBIBYTES", "-1"),
        ("FLASH_FETCH_STALL_SECONDS", "soon"),
    ],
)
async def test_a_setting_that_makes_no_sense(bench: Bench, name: str, value: str) -> None:
    code, fetch = await bench.fetch(**{name: value})
    assert code == 2
    assert f"{name}={value!r}" in json.loads(fetch.output.splitlines()[-1])["error"]
