"""The launcher with a shared cache: it locks its model, and keeps what its engine compiles."""

import fcntl
import json
import os
import shutil
import time
from pathlib import Path

import pytest

from flash_engine.launcher import jit_cache
from flash_engine.launcher.jit_cache import VARIABLES, environment, key, slot
from flash_engine.model_cache import GRACE_SECONDS, USE_LOCK, ModelSnapshot, file_lock
from launcher_harness import TELL, Launcher, wait_for_phase
from waiting import eventually

COMMIT = "0123456789abcdef0123456789abcdef01234567"
SLEEP = "import time; time.sleep(600)"
TELL_CACHES = f"""
import json, os
print(json.dumps({{name: os.environ.get(name) for name in {tuple(VARIABLES)!r}}}))
"""


@pytest.fixture
def model(launcher: Launcher, tmp_path: Path) -> ModelSnapshot:
    """A complete model in a cache, linked as by flash-fetch, and last used long ago."""
    made = ModelSnapshot(tmp_path / "cache", "owner/name", COMMIT)
    made.folder.mkdir(parents=True)
    (made.folder / "config.json").write_text("{}")
    made.write_manifest([{"name": "config.json", "size": 2}])
    (launcher.run_dir / "model").symlink_to(made.folder)
    grow_old(made)
    return made


def grow_old(model: ModelSnapshot) -> None:
    long_ago = time.time() - 2 * GRACE_SECONDS
    for path in model.folder.parent.glob(f"{COMMIT}.*"):
        os.utime(path, (long_ago, long_ago))


def serve(launcher: Launcher, model: ModelSnapshot, program: str, **settings: str) -> tuple[int, str, str]:
    process = launcher.start(
        launcher.program(program), "serve", str(launcher.run_dir / "model"), patience=0,
        FLASH_MODEL_CACHE=str(model.root), **settings,
    )  # fmt: skip
    out, err = process.communicate(timeout=30)
    return process.returncode, out, err


def test_a_model_is_locked_while_its_engine_runs_and_protected_for_a_while_after(
    launcher: Launcher, model: ModelSnapshot
) -> None:
    assert model.is_evictable()
    process = launcher.start(
        launcher.program(SLEEP), "serve", str(launcher.run_dir / "model"), patience=0,
        FLASH_MODEL_CACHE=str(model.root),
    )  # fmt: skip
    wait_for_phase(launcher, "Starting")
    grow_old(model)
    assert model.remove_if_unused() == 0, "its lock is held"
    process.terminate()
    process.wait(timeout=30)

    assert not model.is_evictable(), "the container may start anew"
    grow_old(model)
    assert model.remove_if_unused() == 2


def test_a_killed_launchers_lock_is_released(launcher: Launcher, model: ModelSnapshot) -> None:
    process = launcher.start(
        launcher.program(SLEEP), "serve", str(launcher.run_dir / "model"), patience=0,
        FLASH_MODEL_CACHE=str(model.root),
    )  # fmt: skip
    wait_for_phase(launcher, "Starting")
    pid = launcher.document("engine.json")["pid"]
    process.kill()
    process.wait(timeout=30)
    try:
        grow_old(model)
        assert model.is_evictable(), "the engine itself holds nothing"
    finally:
        os.killpg(pid, 9)


def test_a_missing_model_ends_the_start_with_a_remedy(launcher: Launcher, model: ModelSnapshot) -> None:
    shutil.rmtree(model.folder)
    code, out, _ = serve(launcher, model, TELL)

    assert (code, out) == (3, "")
    rejection = launcher.document("engine.json")["rejection"]
    assert "owner/name at commit 0123456789ab is no longer complete" in rejection
    assert "delete this pod" in rejection


def test_a_rejection_stays_until_another_inspection_passes(launcher: Launcher, model: ModelSnapshot) -> None:
    """The kubelet restarts a rejected container repeatedly, and the verdict must not change with each attempt."""
    (model.folder / "config.json").rename(model.root / "aside")
    assert serve(launcher, model, SLEEP)[0] == 3
    rejection = launcher.document("engine.json")["rejection"]

    with file_lock(model.sidecar(USE_LOCK), fcntl.LOCK_EX):
        launcher.start(
            launcher.program(SLEEP), "serve", str(launcher.run_dir / "model"), patience=0,
            FLASH_MODEL_CACHE=str(model.root),
        )  # fmt: skip
        eventually(lambda: launcher.document("engine.json")["starts"] == 2, "a second start")
        assert launcher.document("engine.json")["rejection"] == rejection
        (model.root / "aside").rename(model.folder / "config.json")

    wait_for_phase(launcher, "Starting")
    loading = launcher.document("engine.json")
    assert (loading["rejection"], loading["exit"]) == (None, None)


def test_a_model_outside_the_cache_is_not_locked(launcher: Launcher, tmp_path: Path) -> None:
    (launcher.run_dir / "model").symlink_to(tmp_path)
    process = launcher.start(
        launcher.program(TELL), "serve", "/model", patience=0, FLASH_MODEL_CACHE=str(tmp_path / "cache")
    )
    process.communicate(timeout=30)
    assert process.returncode == 0


def test_compiled_kernels_are_found_by_the_next_start(launcher: Launcher, model: ModelSnapshot) -> None:
    jit = model.root / "jit"
    _, first, _ = serve(launcher, model, TELL_CACHES, FLASH_JIT_DIR=str(jit))
    _, second, _ = serve(launcher, model, TELL_CACHES, FLASH_JIT_DIR=str(jit))

    message = json.loads(first)
    assert message == json.loads(second)
    assert message["VLLM_CACHE_ROOT"] == f"{jit}/{key()}/0/vllm"
    assert all(path.startswith(f"{jit}/{key()}/0") for path in message.values())


def test_an_unusable_jit_folder_does_not_stop_the_engine(launcher: Launcher, model: ModelSnapshot) -> None:
    (model.root / "jit").write_text("not a folder")
    code, out, err = serve(launcher, model, TELL_CACHES, FLASH_JIT_DIR=str(model.root / "jit"))

    assert code == 0
    assert json.loads(out)["TRITON_CACHE_DIR"] is None
    assert "JIT cache not available" in err


def test_two_concurrent_engines_use_different_slots(tmp_path: Path) -> None:
    with slot(tmp_path, "key") as first, slot(tmp_path, "key") as second:
        assert [first.name, second.name] == ["0", "1"]
    with slot(tmp_path, "key") as third:
        assert third == first, "what the first one compiled is there"


def test_unused_slots_are_removed(tmp_path: Path) -> None:
    with slot(tmp_path, "old") as old, slot(tmp_path, "held") as held:
        long_ago = time.time() - 2 * jit_cache.KEEP_SECONDS
        for name in ("old", "held"):
            os.utime(tmp_path / name / "0.lock", (long_ago, long_ago))
        (old / "kernel").write_text("")
        (held / "kernel").write_text("")
        with slot(tmp_path, "new"):
            assert (old / "kernel").exists(), "it is held"
    with slot(tmp_path, "held"), slot(tmp_path, "new"):
        assert not old.exists()


def test_the_cache_key_includes_versions_and_gpus(tmp_path: Path) -> None:
    assert "_no-gpu_" in key(tmp_path)
    for bus, model in (("02", "NVIDIA T400"), ("01", "NVIDIA RTX PRO 6000 (96 GB)"), ("03", "NVIDIA T400")):
        (tmp_path / bus).mkdir()
        (tmp_path / bus / "information").write_text(f"Model: \t {model}\nIRQ: 7\n")
    assert "_NVIDIA-RTX-PRO-6000-96-GB-+NVIDIA-T400_" in key(tmp_path)


EPYC = "processor\t: 0\nmodel name\t: AMD EPYC 9354 @ 3.2GHz\nflags\t\t: fpu avx2 avx512f\n"
CPUS = {
    "EPYC": EPYC,
    "another model": EPYC.replace("9354", "7402P"),
    "a guest that may not use AVX-512": EPYC.replace(" avx512f", ""),
    "cores of two kinds": EPYC + EPYC.replace(" avx512f", ""),
    "Grace": "processor\t: 0\nFeatures\t: fp asimd sve2\nCPU implementer\t: 0x41\nCPU part\t: 0xd4f\n",
    "another ARM": "processor\t: 0\nFeatures\t: fp asimd sve2\nCPU implementer\t: 0xc0\nCPU part\t: 0xd4f\n",
    "nothing known": "",
}


def test_the_cache_key_includes_the_cpu(tmp_path: Path) -> None:
    """Compilers build for the CPU on which they run, and a cache on a claim is used by every node."""
    keys = set()
    for number, text in enumerate(CPUS.values()):
        (tmp_path / f"{number}").write_text(text)
        keys.add(key(tmp_path, tmp_path / f"{number}"))
    assert len(keys) == len(CPUS)
    (tmp_path / "more").write_text(EPYC * 64 + EPYC.replace("fpu avx2 avx512f", "avx512f  fpu avx2"))
    assert key(tmp_path, tmp_path / "more") == key(tmp_path, tmp_path / "0"), "whatever the number and order"
    assert "AMD-EPYC-9354-3.2GHz-" in key(tmp_path, tmp_path / "0")
    assert key(tmp_path, tmp_path / "absent").endswith("-unknown")


def test_the_cache_key_is_a_valid_folder_name(tmp_path: Path) -> None:
    for number in range(9):
        (tmp_path / f"{number}").mkdir()
        (tmp_path / f"{number}" / "information").write_text(f"Model: {number} {'long name ' * 9}\n")
    assert len(key(tmp_path)) < 255
    assert key(tmp_path) != key(tmp_path, tmp_path / "absent")


def test_every_cache_variable_points_into_the_slot(tmp_path: Path) -> None:
    assert environment(tmp_path) == {
        "XDG_CACHE_HOME": str(tmp_path),
        "VLLM_CACHE_ROOT": str(tmp_path / "vllm"),
        "FLASHINFER_WORKSPACE_BASE": str(tmp_path),
        "TRITON_CACHE_DIR": str(tmp_path / "triton"),
        "TILELANG_CACHE_DIR": str(tmp_path / "tilelang"),
        "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "inductor"),
        "DG_JIT_CACHE_DIR": str(tmp_path / "deep_gemm"),
        "CUDA_CACHE_PATH": str(tmp_path / "nv"),
    }
