"""flash-fetch with a hub: downloads, resumed downloads, and files that fail verification."""

import asyncio
import filecmp
import json
import signal
from pathlib import Path

from download_harness import SHARD_BYTES, SHARDS, DownloadHarness, FetchProcess
from hub_stub import COMMIT

TOKEN = "hf_notarealtokenbutlongenough00000"  # noqa: S105 - of the stub
SHARD = "model-00002-of-00003.safetensors"


def assert_complete(fetch: FetchProcess, harness: DownloadHarness) -> None:
    """Byte for byte what the hub has, and no other files."""
    wanted = {path.relative_to(harness.hub.folder) for path in harness.hub.folder.rglob("*") if path.is_file()}
    wanted.discard(Path("pytorch_model.bin"))
    found = {path.relative_to(fetch.model) for path in fetch.model.rglob("*") if path.is_file()}
    assert found == wanted
    assert all(filecmp.cmp(fetch.model / name, harness.hub.folder / name, shallow=False) for name in wanted)


async def test_a_model_is_downloaded_completely_and_linked_for_the_engine(harness: DownloadHarness) -> None:
    code, fetch = await harness.fetch(FLASH_MODEL_REVISION=COMMIT)

    assert code == 0, fetch.output
    assert_complete(fetch, harness)
    record = fetch.record
    assert (record["phase"], record["commit"], record["warning"]) == ("Complete", COMMIT, None)
    assert record["bytes"] == record["totalBytes"] > SHARDS * SHARD_BYTES
    manifest = json.loads(fetch.model.with_name(f"{COMMIT}.manifest.json").read_text())
    assert {file["name"] for file in manifest["files"]} == {*(f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)),
                                                            "config.json", "encoding/encode.py"}  # fmt: skip
    assert (fetch.model / SHARD).stat().st_mode & 0o222 == 0, "engines share it, so none may change it"


async def test_a_token_is_sent_only_to_the_hub_and_never_logged(harness: DownloadHarness, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    code, fetch = await harness.fetch(FLASH_HUB_TOKEN_FILE=str(tmp_path / "token"))

    assert code == 0, fetch.output
    assert harness.hub.tokens == {f"Bearer {TOKEN}"}
    assert harness.hub.storage_tokens == {None}, "the storage host belongs to someone else"
    assert TOKEN not in fetch.output
    assert TOKEN not in json.dumps(fetch.record)


async def test_a_token_may_come_from_the_environment(harness: DownloadHarness) -> None:
    code, fetch = await harness.fetch(HF_TOKEN=TOKEN)

    assert code == 0, fetch.output
    assert harness.hub.tokens == {f"Bearer {TOKEN}"}
    assert harness.hub.storage_tokens == {None}


async def test_a_download_that_was_killed_is_resumed(harness: DownloadHarness) -> None:
    harness.serve_slowly()
    fetch = await harness.start(FLASH_MODEL_REVISION=COMMIT)
    await fetch.wait_until(lambda record: record["bytes"] > 0.3 * record.get("totalBytes", 1 << 60))
    fetch.process.send_signal(signal.SIGKILL)
    assert await fetch.wait() == -signal.SIGKILL
    assert fetch.record["phase"] == "Downloading"
    stored = sum(path.stat().st_size for path in (harness.cache / "hub").rglob("*.flash-part"))
    assert stored > 0.25 * harness.hub.total
    harness.hub.sent.clear()
    harness.hub.bytes_per_second = None

    code, again = await harness.fetch(FLASH_MODEL_REVISION=COMMIT)

    assert code == 0, again.output
    assert_complete(again, harness)
    assert harness.hub.sent.total() <= harness.hub.total - stored
    assert again.record["attempts"] == 2


async def test_interrupted_transfers_are_resumed(harness: DownloadHarness) -> None:
    harness.hub.cut_after[SHARD] = [1 << 20, 300_000, 1]
    code, fetch = await harness.fetch()

    assert code == 0, fetch.output
    assert_complete(fetch, harness)
    assert harness.hub.sent[SHARD] < 2 * SHARD_BYTES
    assert harness.hub.cut_after[SHARD] == []


async def test_a_server_that_ignores_ranges_does_not_corrupt_a_resumed_file(harness: DownloadHarness) -> None:
    harness.hub.cut_after[SHARD] = [1 << 20]
    harness.hub.ignores_ranges = True
    code, fetch = await harness.fetch()

    assert code == 0, fetch.output
    assert_complete(fetch, harness)


async def test_a_partial_file_that_is_already_complete_is_only_verified(harness: DownloadHarness) -> None:
    await harness.fetch("first")
    shard = next((harness.cache / "hub").rglob(SHARD))
    shard.rename(shard.with_name(f"{SHARD}.flash-part"))
    harness.hub.sent.clear()

    code, fetch = await harness.fetch("second")

    assert code == 0, fetch.output
    assert_complete(fetch, harness)
    assert harness.hub.sent.total() == 0


async def test_a_partial_file_that_was_corrupted_on_disk_is_detected(harness: DownloadHarness) -> None:
    await harness.fetch("first")
    shard = next((harness.cache / "hub").rglob(SHARD))
    shard.rename(part := shard.with_name(f"{SHARD}.flash-part"))
    part.chmod(0o644)
    part.write_bytes(bytes(SHARD_BYTES // 2))

    code, fetch = await harness.fetch("second")

    assert code == 0, fetch.output
    assert_complete(fetch, harness)
    assert "wrong checksum" in fetch.output


async def test_a_corrupted_file_is_downloaded_again(harness: DownloadHarness) -> None:
    harness.hub.corrupt[SHARD] = 1
    code, fetch = await harness.fetch()

    assert code == 0, fetch.output
    assert_complete(fetch, harness)
    assert "wrong checksum" in fetch.output


async def test_a_file_that_is_corrupted_twice_is_named_and_removed(harness: DownloadHarness) -> None:
    harness.hub.corrupt[SHARD] = 100
    code, fetch = await harness.fetch()

    assert code == 1
    failure = fetch.record["failure"]
    assert fetch.record["phase"] == "Failed"
    assert SHARD in failure
    assert "expected SHA-256" in failure
    assert "found" in failure
    assert not list((harness.cache / "hub").rglob(f"{SHARD}*"))
    assert not list((harness.cache / "hub").rglob("*.manifest.json"))
    assert not (fetch.run_dir / "model").exists()


async def test_a_corrupted_small_file_is_detected(harness: DownloadHarness) -> None:
    harness.hub.corrupt["config.json"] = 100
    code, fetch = await harness.fetch()

    assert code == 1
    assert "git's SHA-1" in fetch.record["failure"]


async def test_a_pinned_model_in_the_cache_needs_no_hub(harness: DownloadHarness) -> None:
    await harness.fetch("first", FLASH_MODEL_REVISION=COMMIT)
    harness.hub.sent.clear()
    code, fetch = await harness.fetch("second", FLASH_MODEL_REVISION=COMMIT, HF_ENDPOINT="http://hub.invalid:1")

    assert code == 0, fetch.output
    assert_complete(fetch, harness)
    assert "the hub was not asked" in fetch.record["message"]


async def test_two_replicas_on_a_node_download_once_and_the_second_reports_the_firsts_progress(
    harness: DownloadHarness,
) -> None:
    harness.serve_slowly()
    first = await harness.start("first")
    await first.wait_until(lambda record: record["phase"] == "Downloading" and record["bytes"] > 0)
    second = await harness.start("second")
    waiting = await second.wait_until(lambda record: record["phase"] == "Waiting" and "fetching" in record["message"])

    assert "another replica" in waiting["message"]
    assert [await first.wait(), await second.wait()] == [0, 0]
    assert_complete(second, harness)
    fetched = harness.hub.total - (harness.hub.folder / "pytorch_model.bin").stat().st_size
    assert harness.hub.sent.total() == fetched
    assert first.model == second.model


async def test_if_the_first_replica_dies_the_second_continues(harness: DownloadHarness) -> None:
    harness.serve_slowly()
    first = await harness.start("first")
    await first.wait_until(lambda record: record["phase"] == "Downloading" and record["bytes"] > 1 << 20)
    second = await harness.start("second")
    await second.wait_until(lambda record: record["phase"] == "Waiting")
    first.process.kill()
    await first.wait()
    stored = sum(path.stat().st_size for path in (harness.cache / "hub").rglob("*.flash-part"))
    harness.hub.sent.clear()
    harness.hub.bytes_per_second = None

    assert await second.wait() == 0, second.output
    assert_complete(second, harness)
    assert harness.hub.sent.total() <= harness.hub.total - stored, "what the first one had was not fetched again"


async def test_a_branch_that_moves_between_two_replicas_is_reported_with_both_commits(harness: DownloadHarness) -> None:
    _, first = await harness.fetch("first", FLASH_MODEL_REVISION="main")
    harness.hub.commit = "f" * 40
    _, second = await harness.fetch("second", FLASH_MODEL_REVISION="main")

    assert (first.record["commit"], second.record["commit"]) == (COMMIT, "f" * 40)
    assert "main is a branch" in first.record["warning"]
    assert f"set model.revision to {COMMIT}" in first.record["warning"]
    assert first.model != second.model


async def test_progress_has_bytes_rate_and_time_left(harness: DownloadHarness) -> None:
    harness.serve_slowly()
    fetch = await harness.start()
    record = await fetch.wait_until(lambda record: record.get("etaSeconds") is not None and record["bytes"] > 1 << 20)
    fetch.process.kill()

    assert 0 < record["bytes"] < record["totalBytes"]
    assert record["bytesPerSecond"] > 0
    assert record["message"].startswith("fetching ")
    assert "of 96.0 MiB at " in record["message"]
    assert record["message"].endswith(" left")


async def test_sigterm_ends_it_at_once_and_keeps_partial_files(harness: DownloadHarness) -> None:
    harness.serve_slowly()
    fetch = await harness.start()
    await fetch.wait_until(lambda record: record["bytes"] > 1 << 20)
    fetch.process.terminate()

    async with asyncio.timeout(5):
        assert await fetch.wait() == 128 + signal.SIGTERM
    assert list((harness.cache / "hub").rglob("*.flash-part"))
