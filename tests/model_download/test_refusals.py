"""Every way a download can fail gives a message that says what to do, without a traceback."""

import json
import os
from pathlib import Path

import pytest

from download_harness import SHARD_BYTES, DownloadHarness, FetchProcess, small_disk
from flash_engine.model_download.failure import DownloadError
from flash_engine.model_download.workflow import check_proxies
from hub_stub import COMMIT

NO_PATIENCE = {"FLASH_FETCH_STALL_SECONDS": "0.5"}


def assert_failed_with(code: int, fetch: FetchProcess, *fragments: str) -> None:
    """The failure is in the record, and is the last line of the log, which the kubelet shows."""
    assert code == 1, fetch.output
    record = fetch.record
    assert record["phase"] == "Failed"
    for fragment in fragments:
        assert fragment in record["failure"]
    assert not [line for line in fetch.output.splitlines() if not line.startswith("{")], "every line is a log record"
    assert json.loads(fetch.output.splitlines()[-1])["error"] == record["failure"]


@pytest.mark.parametrize(
    ("status", "error", "fragment"),
    [
        pytest.param(401, "", "denies this token access to owner/model (401)", id="invalid token"),
        pytest.param(403, "", "denies this token access to owner/model (403)", id="token without access"),
        pytest.param(403, "GatedRepo", "this token's owner has not accepted its terms", id="gated"),
        pytest.param(401, "RepoNotFound", "has no repository owner/model", id="private repository"),
        pytest.param(500, "", "the hub answered 500", id="server error"),
    ],
)
async def test_each_error_of_the_hub_has_its_message(
    harness: DownloadHarness, status: int, error: str, fragment: str
) -> None:
    harness.hub.refuse = (status, error)
    code, fetch = await harness.fetch(**NO_PATIENCE)
    assert_failed_with(code, fetch, fragment)


def throttle(harness: DownloadHarness, seconds: int) -> None:
    harness.hub.refuse, harness.hub.refuse_headers = (429, ""), {"Retry-After": str(seconds)}


async def test_a_hub_that_throttles_is_not_asked_before_it_allows_it(harness: DownloadHarness) -> None:
    """The first attempt says so and ends, because it would have to wait for longer than its patience."""
    throttle(harness, seconds=3)
    code, fetch = await harness.fetch(**NO_PATIENCE)
    assert_failed_with(
        code, fetch, "the hub throttles this address or account and asks to wait 3 s (429)",
        "set model.credentialsSecret to a Secret with a token", "model.cache.type to Node or Claim",
        "model.hubEndpoint",
    )  # fmt: skip

    harness.hub.refuse = None
    code, again = await harness.fetch()
    assert code == 0, again.output
    first, second = harness.hub.asked_at
    assert second - first > 2.5


async def test_the_record_says_that_a_hub_asked_to_wait(harness: DownloadHarness) -> None:
    """It waits for longer than any machine takes to start the second attempt, which finds nothing to wait for later."""
    throttle(harness, seconds=600)
    await harness.fetch(**NO_PATIENCE)
    again = await harness.start()
    waiting = await again.wait_until(lambda record: "asked to wait" in record.get("message", ""))
    again.process.terminate()
    await again.wait()
    assert "the hub throttles" in waiting["failure"], "why, until there is something better to say"
    assert len(harness.hub.asked_at) == 1


async def test_a_hub_on_this_machine_is_not_asked_through_a_proxy(harness: DownloadHarness) -> None:
    proxies = dict.fromkeys(("http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"), "http://127.0.0.1:1")
    code, fetch = await harness.fetch(**proxies, NO_PROXY="", no_proxy="")
    assert code == 0, fetch.output


async def test_a_missing_commit(harness: DownloadHarness) -> None:
    code, fetch = await harness.fetch(FLASH_MODEL_REVISION="e" * 40)
    assert_failed_with(code, fetch, f"no revision {'e' * 40}", "model.revision")


async def test_a_missing_repository(harness: DownloadHarness) -> None:
    code, fetch = await harness.fetch(FLASH_MODEL_SOURCE="hf://owner/other")
    assert_failed_with(code, fetch, "has no repository owner/other", "model.credentialsSecret")


async def test_a_hub_name_that_cannot_be_resolved(harness: DownloadHarness) -> None:
    code, fetch = await harness.fetch(HF_ENDPOINT="http://hub.invalid:1", **NO_PATIENCE)
    assert_failed_with(code, fetch, "cannot be reached", "DNS")


async def test_an_unavailable_hub_is_retried(harness: DownloadHarness) -> None:
    harness.hub.refuse = (503, "")
    fetch = await harness.start()
    record = await fetch.wait_until(lambda record: "retrying in" in record.get("message", ""))
    assert (record["phase"], record["failure"]) == ("Resolving", None)
    harness.hub.refuse = None
    assert await fetch.wait() == 0


async def test_a_failure_is_kept_until_the_next_attempt_makes_progress(harness: DownloadHarness) -> None:
    await harness.fetch(HF_ENDPOINT="http://hub.invalid:1", **NO_PATIENCE)
    harness.serve_slowly()
    again = await harness.start()
    listed = await again.wait_until(lambda record: record["commit"] == COMMIT)
    assert "cannot be reached" in listed["failure"]

    record = await again.wait_until(lambda record: record["bytes"] > SHARD_BYTES // 2)
    assert record["failure"] is None


async def test_a_secret_without_a_token(harness: DownloadHarness, tmp_path: Path) -> None:
    code, fetch = await harness.fetch(FLASH_HUB_TOKEN_FILE=str(tmp_path / "none"), FLASH_HUB_SECRET="hub")  # noqa: S106
    assert_failed_with(
        code, fetch, "the Secret hub does not exist, or has no key token", "kubectl create secret generic hub"
    )


async def test_a_model_above_the_limit_is_refused_before_its_download(harness: DownloadHarness) -> None:
    code, fetch = await harness.fetch(FLASH_MODEL_CACHE_GIBIBYTES="0.01")
    assert_failed_with(
        code, fetch, "needs 12.0 MiB", "allows only 10.2 MiB for all models", "raise model.cache.maxGibibytes"
    )
    assert harness.hub.sent.total() == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts a small file system; CI is root")
async def test_a_model_that_does_not_fit_on_the_volume_is_refused_before_its_download(harness: DownloadHarness) -> None:
    with small_disk(harness.cache, "size=20m"):
        code, fetch = await harness.fetch()
        assert_failed_with(code, fetch, "needs 12.0 MiB more", "20.0 MiB are free", "nothing was downloaded")
        assert harness.hub.sent.total() == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts a small file system; CI is root")
async def test_a_volume_that_another_process_fills_during_the_download(harness: DownloadHarness) -> None:
    with small_disk(harness.cache, "size=40m"):
        harness.hub.bytes_per_second = 1 << 20
        fetch = await harness.start()
        await fetch.wait_until(lambda record: record["phase"] == "Downloading")
        (harness.cache / "of-another-process").write_bytes(bytes(37 << 20))
        assert_failed_with(await fetch.wait(), fetch, "the volume is full", "something else is writing to the volume")


async def test_a_transfer_that_stalls(harness: DownloadHarness) -> None:
    harness.hub.silent.add("model-00001-of-00003.safetensors")
    code, fetch = await harness.fetch(FLASH_FETCH_STALL_SECONDS="2", HF_HUB_DOWNLOAD_TIMEOUT="1")
    assert_failed_with(
        code, fetch, "no data of model-00001-of-00003.safetensors arrived for 2 s", "the next attempt resumes there"
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts a small file system; CI is root")
async def test_a_folder_on_the_node_that_the_pod_cannot_write(harness: DownloadHarness) -> None:
    """Root can write everywhere, so the folder is a read-only file system."""
    with small_disk(harness.cache, "ro,size=1m"):
        code, fetch = await harness.fetch(
            FLASH_MODEL_CACHE_KIND="Node", FLASH_MODEL_CACHE_NAME="/var/lib/deepseek-flash/models"
        )
        assert_failed_with(
            code,
            fetch,
            "cannot write to the node's folder",
            "install -d -o 65532 -g 65532 /var/lib/deepseek-flash/models",
        )


async def test_an_unforeseen_error_has_a_message_too(harness: DownloadHarness) -> None:
    """The hub sends an invalid listing."""

    def nonsense(_path: Path) -> dict[str, object]:
        return {"rfilename": "a", "size": 1, "lfs": {"no": "checksum"}}

    harness.hub.sibling = nonsense  # type: ignore[method-assign, assignment]
    code, fetch = await harness.fetch()
    assert_failed_with(code, fetch, "KeyError", "a bug in flash-fetch")
    assert "hf_api.py" in fetch.output, "the traceback"


async def test_a_file_name_outside_the_models_folder_is_refused(harness: DownloadHarness, tmp_path: Path) -> None:
    def outside(path: Path) -> dict[str, object]:
        return {"rfilename": "../../outside", "size": path.stat().st_size, "blobId": "0" * 40}

    harness.hub.sibling = outside  # type: ignore[method-assign]  # a malicious hub
    code, fetch = await harness.fetch()
    assert_failed_with(code, fetch, "'../../outside'")
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
async def test_an_invalid_setting(harness: DownloadHarness, name: str, value: str) -> None:
    code, fetch = await harness.fetch(**{name: value})
    assert code == 2
    assert f"{name} is {value!r}; it must be " in json.loads(fetch.output.splitlines()[-1])["error"]


@pytest.mark.parametrize("name", ["ALL_PROXY", "https_proxy"])
def test_a_socks_proxy_is_named(name: str) -> None:
    with pytest.raises(DownloadError, match=f"{name} names a SOCKS proxy"):
        check_proxies({name: "socks5h://proxy.example:1080"})
    check_proxies({name: "http://proxy.example:3128", "NO_PROXY": "socks"})
