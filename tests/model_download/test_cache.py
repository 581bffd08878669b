"""The limit of the cache, which models are evicted for it, and which never are because they are in use."""

import fcntl
import os
import time
from pathlib import Path

import pytest

from download_harness import DownloadHarness, write_repository
from flash_engine.model_cache import GRACE_SECONDS, ModelSnapshot, file_lock, snapshots_in
from flash_engine.model_download.disk_space import DiskSpace, eviction_candidates
from hub_stub import COMMIT, HubStub

LONG_AGO = time.time() - 10 * GRACE_SECONDS


def a_model(root: Path, name: str, *, size: int = 1000, age: float = 10 * GRACE_SECONDS) -> ModelSnapshot:
    """A complete snapshot, last used `age` seconds ago."""
    model = ModelSnapshot(root, f"owner/{name}", COMMIT)
    model.folder.mkdir(parents=True)
    (model.folder / "weights").write_bytes(b"x" * size)
    model.write_manifest([{"name": "weights", "size": size}])
    with model.in_use() as complete:
        assert complete
    at = time.time() - age
    for path in model.folder.parent.glob(f"{COMMIT}.*"):
        os.utime(path, (at, at))
    return model


FORMER_MANIFEST = """{
 "version": 1,
 "repository": "owner/model",
 "commit": "0123456789abcdef0123456789abcdef01234567",
 "files": [
  {"name": "config.json", "size": 2, "sha256": null, "gitSha1": "9e26dfeeb6e641a33dae4961196235bdb965b21b"},
  {"name": "encoding/encode.py", "size": 3, "sha256": null, "gitSha1": "8fa2136f688510d6f4367b1c79a06907d4ca8885"}
 ]
}"""
"""As release 0.1 wrote it."""


async def test_a_cache_of_an_earlier_release_is_used_without_a_download(harness: DownloadHarness) -> None:
    """Spells out the names on disk, which must never change."""
    repository = harness.cache / "hub" / "owner--model"
    (repository / COMMIT / "encoding").mkdir(parents=True)
    (repository / COMMIT / "config.json").write_text("{}")
    (repository / COMMIT / "encoding" / "encode.py").write_text("#\n\n")
    (repository / f"{COMMIT}.manifest.json").write_text(FORMER_MANIFEST)
    for name in (f"{COMMIT}.fetch.lock", f"{COMMIT}.use.lock", "../../space.lock"):
        (repository / name).touch()

    with file_lock(repository / f"{COMMIT}.fetch.lock", fcntl.LOCK_EX):
        (model,) = snapshots_in(harness.cache)
        assert model.is_downloading()
        assert not model.is_evictable()
    code, fetch = await harness.fetch(FLASH_MODEL_REVISION=COMMIT, HF_ENDPOINT="http://hub.invalid:1")

    assert code == 0, fetch.output
    assert fetch.model == repository / COMMIT
    assert harness.hub.sent.total() == 0


async def test_a_partial_download_of_an_earlier_release_is_resumed(harness: DownloadHarness) -> None:
    folder = harness.cache / "hub" / "owner--model" / COMMIT
    folder.mkdir(parents=True)
    shard = "model-00001-of-00003.safetensors"
    content = (harness.hub.folder / shard).read_bytes()
    (folder / f"{shard}.flash-part").write_bytes(content[: len(content) // 2])

    code, fetch = await harness.fetch(FLASH_MODEL_REVISION=COMMIT)

    assert code == 0, fetch.output
    assert harness.hub.sent[shard] == len(content) - len(content) // 2


def test_the_names_of_all_files_are_on_disk_before_the_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a power cut, a manifest must not name files that are lost."""
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(str(Path(f"/proc/self/fd/{number}").readlink())))
    model = ModelSnapshot(tmp_path, "owner/model", COMMIT)
    (model.folder / "encoding").mkdir(parents=True)
    model.write_manifest([{"name": "encoding/encode.py", "size": 0}])

    folders = [tmp_path, *(tmp_path / name for name in ("hub", "hub/owner--model", f"hub/owner--model/{COMMIT}"))]
    at = next(number for number, path in enumerate(synced) if "manifest" in path)
    assert {*map(str, folders), str(model.folder / "encoding")} <= set(synced[:at])
    assert synced[-1] == str(model.folder.parent), "the manifest's own name"


MANIFESTS = ["[]", '{"files": 1}', '{"files": [1]}', '{"files": [{}]}', '{"files": [{"name": "a"}]}', "{", "",
             '{"files": [{"name": 1, "size": 1}]}', '{"files": [{"name": "\\u0000", "size": 1}]}']  # fmt: skip


@pytest.mark.parametrize("text", MANIFESTS)
def test_a_manifest_that_is_damaged_makes_no_model_complete(tmp_path: Path, text: str) -> None:
    model = ModelSnapshot(tmp_path, "owner/model", COMMIT)
    model.folder.mkdir(parents=True)
    model.folder.with_name(f"{COMMIT}.manifest.json").write_text(text)
    assert not model.is_complete()


def grow_old(root: Path) -> None:
    for path in (root / "hub").glob("*/*.*"):
        os.utime(path, (LONG_AGO, LONG_AGO))


@pytest.mark.parametrize(
    ("space", "wanted", "shortfall"),
    [
        (DiskSpace(free=100 << 20, stored=0, reserved=0, limit_bytes=None), 50 << 20, 0),
        (DiskSpace(free=100 << 20, stored=0, reserved=50 << 20, limit_bytes=None), 50 << 20, 16 << 20),
        (DiskSpace(free=100 << 20, stored=70 << 20, reserved=0, limit_bytes=100 << 20), 50 << 20, 20 << 20),
        (DiskSpace(free=10 << 20, stored=70 << 20, reserved=0, limit_bytes=100 << 20), 50 << 20, 56 << 20),
    ],
    ids=["fits", "space is reserved for another model", "above the limit", "not enough on the volume"],
)
def test_the_shortfall_of_disk_space(space: DiskSpace, wanted: int, shortfall: int) -> None:
    assert space.shortfall(wanted) == shortfall


def test_the_least_recently_used_is_evicted_first_and_none_if_that_is_not_enough(tmp_path: Path) -> None:
    newer, older = a_model(tmp_path, "newer", age=2000), a_model(tmp_path, "older", age=3000)

    assert eviction_candidates(500, [newer, older]) == [older]
    assert eviction_candidates(1500, [newer, older]) == [older, newer]
    assert eviction_candidates(2500, [newer, older]) == []
    assert eviction_candidates(0, [newer, older]) == []


def test_a_model_that_is_in_use_or_was_recently_is_never_removed(tmp_path: Path) -> None:
    held, recent, old = a_model(tmp_path, "held"), a_model(tmp_path, "recent", age=60), a_model(tmp_path, "old")
    with held.in_use():
        os.utime(held.sidecar(".manifest.json"), (LONG_AGO, LONG_AGO))
        assert [model.is_evictable() for model in (held, recent, old)] == [False, False, True]
        assert [model.remove_if_unused() for model in (held, recent, old)] == [0, 0, 1000]
    assert [model.repository for model in snapshots_in(tmp_path)] == ["owner/held", "owner/recent"]
    assert not old.is_complete()


def test_a_snapshot_is_complete_only_with_its_manifest_and_every_byte(tmp_path: Path) -> None:
    model = a_model(tmp_path, "model")
    assert model.is_complete()
    (model.folder / "weights").write_bytes(b"x" * 999)
    assert not model.is_complete()
    (model.folder / "weights").write_bytes(b"x" * 1000)
    model.sidecar(".manifest.json").unlink()
    assert not model.is_complete()


async def test_an_unused_model_is_evicted_for_another(harness: DownloadHarness) -> None:
    limit = {"FLASH_MODEL_CACHE_GIBIBYTES": "0.02"}
    _, first = await harness.fetch("first", **limit)
    grow_old(harness.cache)
    harness.hub.repository, harness.hub.folder = "owner/other", write_repository(harness.folder / "other", seed=1)

    code, second = await harness.fetch("second", **limit)

    assert code == 0, second.output
    assert "removed from the cache" in second.output
    assert [model.repository for model in snapshots_in(harness.cache)] == ["owner/other"]
    assert not (first.run_dir / "model").exists(), "the link of the first pod, which is gone, is dangling"


async def test_a_model_that_an_engine_serves_is_not_evicted(harness: DownloadHarness) -> None:
    limit = {"FLASH_MODEL_CACHE_GIBIBYTES": "0.02"}
    await harness.fetch("first", **limit)
    harness.hub.repository, harness.hub.folder = "owner/other", write_repository(harness.folder / "other", seed=1)
    harness.hub.sent.clear()
    (model,) = snapshots_in(harness.cache)
    with model.in_use():
        grow_old(harness.cache)
        code, second = await harness.fetch("second", **limit)

    assert code == 1
    assert "the models there take 12.0 MiB of 20.5 MiB" in second.record["failure"]
    assert harness.hub.sent.total() == 0
    assert model.is_complete()


async def test_disk_space_that_is_reserved_for_one_model_is_not_given_to_another(harness: DownloadHarness) -> None:
    """Each model would fit alone."""
    limit = {"FLASH_MODEL_CACHE_GIBIBYTES": "0.15"}
    harness.serve_slowly()
    first = await harness.start("first", **limit)
    await first.wait_until(lambda record: record["phase"] == "Downloading")
    async with HubStub(harness.hub.folder, "owner/other").running() as other:
        code, second = await harness.fetch("second", FLASH_MODEL_SOURCE="hf://owner/other", HF_ENDPOINT=other, **limit)

    assert code == 1
    assert "are reserved for another model" in second.record["failure"]
    assert await first.wait() == 0, first.output


async def test_files_missing_from_the_cache_are_downloaded_again(harness: DownloadHarness) -> None:
    await harness.fetch("first", FLASH_MODEL_REVISION=COMMIT)
    (model,) = snapshots_in(harness.cache)
    (model.folder / "config.json").unlink()
    harness.hub.sent.clear()

    code, fetch = await harness.fetch("second", FLASH_MODEL_REVISION=COMMIT)

    assert code == 0, fetch.output
    assert set(harness.hub.sent) == {"config.json"}
