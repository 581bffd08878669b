"""A bound and what goes for it; and what never does, for somebody uses it."""

import os
import time
from pathlib import Path

import pytest

from download_harness import Bench, a_repository
from flash_engine.model_cache import GRACE_SECONDS, StoredModel, models_in
from flash_engine.model_download.disk_space import Room, eviction_candidates
from hub_stub import COMMIT, HubStub

LONG_AGO = time.time() - 10 * GRACE_SECONDS


def a_model(root: Path, name: str, *, size: int = 1000, age: float = 10 * GRACE_SECONDS) -> StoredModel:
    """Whole, and last used so many seconds ago."""
    model = StoredModel(root, f"owner/{name}", COMMIT)
    model.folder.mkdir(parents=True)
    (model.folder / "weights").write_bytes(b"x" * size)
    model.write_manifest([{"name": "weights", "size": size}])
    with model.used() as whole:
        assert whole
    at = time.time() - age
    for path in model.folder.parent.glob(f"{COMMIT}.*"):
        os.utime(path, (at, at))
    return model


def grow_old(root: Path) -> None:
    for path in (root / "hub").glob("*/*.*"):
        os.utime(path, (LONG_AGO, LONG_AGO))


@pytest.mark.parametrize(
    ("room", "wanted", "lacking"),
    [
        (Room(free=100 << 20, stored=0, promised=0, bound=None), 50 << 20, 0),
        (Room(free=100 << 20, stored=0, promised=50 << 20, bound=None), 50 << 20, 16 << 20),
        (Room(free=100 << 20, stored=70 << 20, promised=0, bound=100 << 20), 50 << 20, 20 << 20),
        (Room(free=10 << 20, stored=70 << 20, promised=0, bound=100 << 20), 50 << 20, 56 << 20),
    ],
    ids=["it fits", "not beside what another one fetches", "not within the bound", "not on the volume"],
)
def test_what_has_to_go(room: Room, wanted: int, lacking: int) -> None:
    assert room.lacks(wanted) == lacking


def test_the_least_recently_used_goes_first_and_nothing_goes_in_vain(tmp_path: Path) -> None:
    newer, older = a_model(tmp_path, "newer", age=2000), a_model(tmp_path, "older", age=3000)

    assert eviction_candidates(500, [newer, older]) == [older]
    assert eviction_candidates(1500, [newer, older]) == [older, newer]
    assert eviction_candidates(2500, [newer, older]) == []
    assert eviction_candidates(0, [newer, older]) == []


def test_what_is_used_or_was_a_moment_ago_is_never_removed(tmp_path: Path) -> None:
    held, recent, old = a_model(tmp_path, "held"), a_model(tmp_path, "recent", age=60), a_model(tmp_path, "old")
    with held.used():
        os.utime(held.beside(".manifest.json"), (LONG_AGO, LONG_AGO))
        assert [model.is_removable() for model in (held, recent, old)] == [False, False, True]
        assert [model.remove_unused() for model in (held, recent, old)] == [0, 0, 1000]
    assert [model.repository for model in models_in(tmp_path)] == ["owner/held", "owner/recent"]
    assert not old.is_whole()


def test_a_model_is_whole_only_with_its_manifest_and_every_byte(tmp_path: Path) -> None:
    model = a_model(tmp_path, "model")
    assert model.is_whole()
    (model.folder / "weights").write_bytes(b"x" * 999)
    assert not model.is_whole()
    (model.folder / "weights").write_bytes(b"x" * 1000)
    model.beside(".manifest.json").unlink()
    assert not model.is_whole()


async def test_a_model_that_nobody_uses_goes_for_one_that_is_wanted(bench: Bench) -> None:
    bound = {"FLASH_MODEL_CACHE_GIBIBYTES": "0.02"}
    _, first = await bench.fetch("first", **bound)
    grow_old(bench.cache)
    bench.hub.repository, bench.hub.folder = "owner/other", a_repository(bench.folder / "other", seed=1)

    code, second = await bench.fetch("second", **bound)

    assert code == 0, second.output
    assert "removed from the cache" in second.output
    assert [model.repository for model in models_in(bench.cache)] == ["owner/other"]
    assert not (first.run_dir / "model").exists(), "the link of a pod that is gone leads nowhere"


async def test_a_model_that_an_engine_holds_is_not_given_up_for_another(bench: Bench) -> None:
    bound = {"FLASH_MODEL_CACHE_GIBIBYTES": "0.02"}
    await bench.fetch("first", **bound)
    bench.hub.repository, bench.hub.folder = "owner/other", a_repository(bench.folder / "other", seed=1)
    bench.hub.sent.clear()
    (model,) = models_in(bench.cache)
    with model.used():
        grow_old(bench.cache)
        code, second = await bench.fetch("second", **bound)

    assert code == 1
    assert "its models take 12.0 MiB of 20.5 MiB" in second.record["failure"]
    assert bench.hub.sent.total() == 0
    assert model.is_whole()


async def test_room_that_is_promised_to_one_model_is_not_given_to_another(bench: Bench) -> None:
    """Each would fit by itself."""
    bound = {"FLASH_MODEL_CACHE_GIBIBYTES": "0.15"}
    bench.slow_and_large()
    first = await bench.start("first", **bound)
    await first.until(lambda record: record["phase"] == "Downloading")
    async with HubStub(bench.hub.folder, "owner/other").running() as other:
        code, second = await bench.fetch("second", FLASH_MODEL_SOURCE="hf://owner/other", HF_ENDPOINT=other, **bound)

    assert code == 1
    assert "are promised to another model" in second.record["failure"]
    assert await first.end() == 0, first.output


async def test_what_is_left_of_a_removal_or_a_broken_disk_is_fetched_again(bench: Bench) -> None:
    await bench.fetch("first", FLASH_MODEL_REVISION=COMMIT)
    (model,) = models_in(bench.cache)
    (model.folder / "config.json").unlink()
    bench.hub.sent.clear()

    code, fetch = await bench.fetch("second", FLASH_MODEL_REVISION=COMMIT)

    assert code == 0, fetch.output
    assert set(bench.hub.sent) == {"config.json"}
