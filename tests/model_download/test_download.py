"""flash-fetch against a hub: what comes, what is gone on with, and what is not believed."""

import asyncio
import filecmp
import json
import signal
from pathlib import Path

from download_harness import SHARD_BYTES, SHARDS, Bench, Fetch
from hub_stub import COMMIT

TOKEN = "hf_notarealtokenbutlongenough00000"  # noqa: S105 - of the stub
SHARD = "model-00002-of-00003.safetensors"


def assert_whole(fetch: Fetch, bench: Bench) -> None:
    """Byte for byte what the hub has, and nothing beside."""
    wanted = {path.relative_to(bench.hub.folder) for path in bench.hub.folder.rglob("*") if path.is_file()}
    wanted.discard(Path("pytorch_model.bin"))
    found = {path.relative_to(fetch.model) for path in fetch.model.rglob("*") if path.is_file()}
    assert found == wanted
    assert all(filecmp.cmp(fetch.model / name, bench.hub.folder / name, shallow=False) for name in wanted)


async def test_a_model_comes_whole_and_the_engine_is_led_to_it(bench: Bench) -> None:
    code, fetch = await bench.fetch(FLASH_MODEL_REVISION=COMMIT)

    assert code == 0, fetch.output
    assert_whole(fetch, bench)
    record = fetch.record
    assert (record["phase"], record["commit"], record["warning"]) == ("Complete", COMMIT, None)
    assert record["bytes"] == record["totalBytes"] > SHARDS * SHARD_BYTES
    manifest = json.loads(fetch.model.with_name(f"{COMMIT}.manifest.json").read_text())
    assert {file["name"] for file in manifest["files"]} == {*(f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)),
                                                            "config.json", "encoding/encode.py"}  # fmt: skip
    assert (fetch.model / SHARD).stat().st_mode & 0o222 == 0, "engines share it, so none may change it"


async def test_a_token_reaches_the_hub_alone_and_no_log(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    code, fetch = await bench.fetch(FLASH_HUB_TOKEN_FILE=str(tmp_path / "token"))

    assert code == 0, fetch.output
    assert bench.hub.tokens == {f"Bearer {TOKEN}"}
    assert bench.hub.storage_tokens == {None}, "the other host is none of the hub's"
    assert TOKEN not in fetch.output
    assert TOKEN not in json.dumps(fetch.record)


async def test_by_hand_a_token_may_come_from_the_environment(bench: Bench) -> None:
    code, fetch = await bench.fetch(HF_TOKEN=TOKEN)

    assert code == 0, fetch.output
    assert bench.hub.tokens == {f"Bearer {TOKEN}"}
    assert bench.hub.storage_tokens == {None}


async def test_killed_at_a_third_it_goes_on_from_there(bench: Bench) -> None:
    bench.slow_and_large()
    fetch = await bench.start(FLASH_MODEL_REVISION=COMMIT)
    await fetch.until(lambda record: record["bytes"] > 0.3 * record.get("totalBytes", 1 << 60))
    fetch.process.send_signal(signal.SIGKILL)
    assert await fetch.end() == -signal.SIGKILL
    assert fetch.record["phase"] == "Downloading"
    stored = sum(path.stat().st_size for path in (bench.cache / "hub").rglob("*.flash-part"))
    assert stored > 0.25 * bench.hub.total
    bench.hub.sent.clear()
    bench.hub.bytes_per_second = None

    code, again = await bench.fetch(FLASH_MODEL_REVISION=COMMIT)

    assert code == 0, again.output
    assert_whole(again, bench)
    assert bench.hub.sent.total() <= bench.hub.total - stored
    assert again.record["attempts"] == 2


async def test_transfers_that_break_are_gone_on_with(bench: Bench) -> None:
    bench.hub.cut_after[SHARD] = [1 << 20, 300_000, 1]
    code, fetch = await bench.fetch()

    assert code == 0, fetch.output
    assert_whole(fetch, bench)
    assert bench.hub.sent[SHARD] < 2 * SHARD_BYTES
    assert bench.hub.cut_after[SHARD] == []


async def test_a_whole_file_where_the_rest_of_it_was_asked_for_is_no_rest(bench: Bench) -> None:
    bench.hub.cut_after[SHARD] = [1 << 20]
    bench.hub.ignores_ranges = True
    code, fetch = await bench.fetch()

    assert code == 0, fetch.output
    assert_whole(fetch, bench)


async def test_a_file_that_was_whole_when_its_fetch_was_killed_is_only_compared(bench: Bench) -> None:
    await bench.fetch("first")
    shard = next((bench.cache / "hub").rglob(SHARD))
    shard.rename(shard.with_name(f"{SHARD}.flash-part"))
    bench.hub.sent.clear()

    code, fetch = await bench.fetch("second")

    assert code == 0, fetch.output
    assert_whole(fetch, bench)
    assert bench.hub.sent.total() == 0


async def test_an_unfinished_file_that_was_spoilt_on_the_disk_is_not_believed(bench: Bench) -> None:
    await bench.fetch("first")
    shard = next((bench.cache / "hub").rglob(SHARD))
    shard.rename(part := shard.with_name(f"{SHARD}.flash-part"))
    part.chmod(0o644)
    part.write_bytes(bytes(SHARD_BYTES // 2))

    code, fetch = await bench.fetch("second")

    assert code == 0, fetch.output
    assert_whole(fetch, bench)
    assert "wrong checksum" in fetch.output


async def test_a_file_that_is_wrong_once_is_fetched_again(bench: Bench) -> None:
    bench.hub.spoil[SHARD] = 1
    code, fetch = await bench.fetch()

    assert code == 0, fetch.output
    assert_whole(fetch, bench)
    assert "wrong checksum" in fetch.output


async def test_a_file_that_stays_wrong_is_refused_by_name_and_removed(bench: Bench) -> None:
    bench.hub.spoil[SHARD] = 100
    code, fetch = await bench.fetch()

    assert code == 1
    failure = fetch.record["failure"]
    assert fetch.record["phase"] == "Failed"
    assert SHARD in failure
    assert "expected SHA-256" in failure
    assert "found" in failure
    assert not list((bench.cache / "hub").rglob(f"{SHARD}*"))
    assert not list((bench.cache / "hub").rglob("*.manifest.json"))
    assert not (fetch.run_dir / "model").exists()


async def test_a_small_file_that_is_wrong_is_seen_too(bench: Bench) -> None:
    bench.hub.spoil["config.json"] = 100
    code, fetch = await bench.fetch()

    assert code == 1
    assert "git's SHA-1" in fetch.record["failure"]


async def test_a_pinned_model_in_the_cache_needs_no_hub(bench: Bench) -> None:
    await bench.fetch("first", FLASH_MODEL_REVISION=COMMIT)
    bench.hub.sent.clear()
    code, fetch = await bench.fetch("second", FLASH_MODEL_REVISION=COMMIT, HF_ENDPOINT="http://hub.invalid:1")

    assert code == 0, fetch.output
    assert_whole(fetch, bench)
    assert "the hub was not asked" in fetch.record["message"]


async def test_two_replicas_on_a_node_fetch_once_and_the_second_tells_of_the_first(bench: Bench) -> None:
    bench.slow_and_large()
    first = await bench.start("first")
    await first.until(lambda record: record["phase"] == "Downloading" and record["bytes"] > 0)
    second = await bench.start("second")
    waiting = await second.until(lambda record: record["phase"] == "Waiting" and "fetching" in record["message"])

    assert "another replica" in waiting["message"]
    assert [await first.end(), await second.end()] == [0, 0]
    assert_whole(second, bench)
    fetched = bench.hub.total - (bench.hub.folder / "pytorch_model.bin").stat().st_size
    assert bench.hub.sent.total() == fetched
    assert first.model == second.model


async def test_where_the_first_replica_dies_the_second_goes_on(bench: Bench) -> None:
    bench.slow_and_large()
    first = await bench.start("first")
    await first.until(lambda record: record["phase"] == "Downloading" and record["bytes"] > 1 << 20)
    second = await bench.start("second")
    await second.until(lambda record: record["phase"] == "Waiting")
    first.process.kill()
    await first.end()
    stored = sum(path.stat().st_size for path in (bench.cache / "hub").rglob("*.flash-part"))
    bench.hub.sent.clear()
    bench.hub.bytes_per_second = None

    assert await second.end() == 0, second.output
    assert_whole(second, bench)
    assert bench.hub.sent.total() <= bench.hub.total - stored, "what the first one had was not fetched again"


async def test_a_branch_that_moves_between_two_replicas_is_told_by_both_commits(bench: Bench) -> None:
    _, first = await bench.fetch("first", FLASH_MODEL_REVISION="main")
    bench.hub.commit = "f" * 40
    _, second = await bench.fetch("second", FLASH_MODEL_REVISION="main")

    assert (first.record["commit"], second.record["commit"]) == (COMMIT, "f" * 40)
    assert "main is a branch" in first.record["warning"]
    assert f"set model.revision to {COMMIT}" in first.record["warning"]
    assert first.model != second.model


async def test_progress_tells_bytes_rate_and_what_is_left(bench: Bench) -> None:
    bench.slow_and_large()
    fetch = await bench.start()
    record = await fetch.until(lambda record: record.get("etaSeconds") is not None and record["bytes"] > 1 << 20)
    fetch.process.kill()

    assert 0 < record["bytes"] < record["totalBytes"]
    assert record["bytesPerSecond"] > 0
    assert record["message"].startswith("fetching ")
    assert "of 96.0 MiB at " in record["message"]
    assert record["message"].endswith(" left")


async def test_sigterm_ends_it_at_once_and_keeps_what_is_there(bench: Bench) -> None:
    bench.slow_and_large()
    fetch = await bench.start()
    await fetch.until(lambda record: record["bytes"] > 1 << 20)
    fetch.process.terminate()

    async with asyncio.timeout(5):
        assert await fetch.end() == 128 + signal.SIGTERM
    assert list((bench.cache / "hub").rglob("*.flash-part"))
