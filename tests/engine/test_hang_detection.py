"""Hangs and what resembles them, with figures from reports."""

from dataclasses import replace

import pytest

from flash_engine.launcher.hang_detection import (
    CONFIRM_SECONDS,
    GpuReading,
    ReportedHang,
    StallWindow,
    Vitals,
    hang_signature,
)
from flash_engine.launcher.progress import Milestone, Progress

HANG_SECONDS = 90.0

MAX_Q = GpuReading(memory_mib=420, busy_percent=100, watts=90, limit_watts=300, pcie_mib_per_second=0.0)
"""Reported: 370 to 500 MiB, 100 %, 85 to 98 W of 300 W."""
WORKSTATION = GpuReading(memory_mib=480, busy_percent=100, watts=140, limit_watts=600, pcie_mib_per_second=0.2)
LOADED = replace(MAX_Q, memory_mib=88_000, watts=98)
AT_REST = GpuReading(memory_mib=420, busy_percent=0, watts=18, limit_watts=300, pcie_mib_per_second=0.0)
AT_WORK = replace(LOADED, watts=270)

QUIET = Vitals(at=0.0, logged_at=0.0, cpu_seconds=30.0, io_bytes=10_000_000)


def looks(vitals: Vitals, seconds: float = HANG_SECONDS, **per_second: float) -> StallWindow:
    """One observation per second of an engine in which only the figures in `per_second` change."""
    window = StallWindow.begin(vitals)
    for second in range(1, round(seconds) + 1):
        moved = {name: getattr(vitals, name) + rate * second for name, rate in per_second.items()}
        window = window.after(replace(vitals, at=vitals.at + second, **moved))
    return window


def of_gpus(*gpus: GpuReading) -> Vitals:
    return replace(QUIET, gpus=gpus)


HANGS = {
    "S1: NCCL's first collective, two Max-Q cards": (of_gpus(MAX_Q, MAX_Q), Milestone.NCCL, {}, "S1"),
    "S1: the same on two cards of 600 W": (of_gpus(WORKSTATION, WORKSTATION), Milestone.NCCL, {}, "S1"),
    "S1: its processes burn a core each, as they wait for the stream": (
        of_gpus(MAX_Q, MAX_Q), Milestone.NCCL, {"cpu_seconds": 2.0}, "S1"),
    "S1: of cards that do not tell of PCIe": (
        of_gpus(*[replace(MAX_Q, pcie_mib_per_second=None)] * 2), Milestone.NCCL, {}, "S1"),
    "S2: all-reduce of its own in autotuning, memory full": (
        of_gpus(LOADED, LOADED), Milestone.KV_CACHE, {"cpu_seconds": 1.0}, "S2"),
    "S2: while graphs are captured": (of_gpus(LOADED, LOADED), Milestone.CAPTURING, {}, "S2"),
    "S2: one rank waits for another that never comes": (
        of_gpus(replace(LOADED, watts=65), replace(AT_REST, memory_mib=88_000)), Milestone.WEIGHTS, {}, "S2"),
    "S1: the same in NCCL, on four cards": (of_gpus(AT_REST, MAX_Q, AT_REST, AT_REST), Milestone.NCCL, {}, "S1"),
    "S1 without NVML: nothing is done and nothing said": (QUIET, Milestone.NOTHING, {}, "S1"),
    "S2 without NVML": (QUIET, Milestone.WEIGHTS, {}, "S2"),
    "without NVML, and timers tick": (QUIET, Milestone.NCCL, {"cpu_seconds": 0.002, "io_bytes": 200}, "S1"),
}  # fmt: skip


@pytest.mark.parametrize(("vitals", "milestone", "moves", "expected"), HANGS.values(), ids=HANGS.keys())
def test_a_hang(vitals: Vitals, milestone: Milestone, moves: dict[str, float], expected: str) -> None:
    found = hang_signature(looks(vitals, **moves), milestone, HANG_SECONDS)
    assert found is not None
    assert found.signature == expected
    assert "90 s" in found.detail
    assert hang_signature(looks(vitals, HANG_SECONDS - 1, **moves), milestone, HANG_SECONDS) is None, (
        "not a second earlier"
    )


NO_HANGS = {
    "the engine has started and waits for requests": (QUIET, Milestone.READY, {}),
    "it has started, and a driver calls idle GPUs busy": (of_gpus(LOADED, LOADED), Milestone.READY, {}),
    "something was logged each second": (of_gpus(MAX_Q, MAX_Q), Milestone.NCCL, {"logged_at": 1.0}),
    "GPUs that work": (of_gpus(AT_WORK, AT_WORK), Milestone.KV_CACHE, {}),
    "one GPU waits for the other, whose process computes": (
        of_gpus(MAX_Q, AT_REST), Milestone.NCCL, {"cpu_seconds": 2.0}),
    "one GPU waits for the other, whose process reads": (
        of_gpus(MAX_Q, AT_REST), Milestone.NCCL, {"cpu_seconds": 1.0, "io_bytes": 50_000}),
    "one GPU waits for the other, whose process waits for a disk": (
        replace(of_gpus(MAX_Q, AT_REST), waits_for_disk=True), Milestone.NCCL, {}),
    "one GPU waits for another that works": (of_gpus(LOADED, AT_WORK), Milestone.KV_CACHE, {}),
    "one GPU waits while data goes to the other": (
        of_gpus(MAX_Q, replace(AT_REST, pcie_mib_per_second=900.0)), Milestone.NCCL, {}),
    "GPUs at rest: a lock or a download, and no lost write": (of_gpus(AT_REST, AT_REST), Milestone.NOTHING, {}),
    "weights move over PCIe": (
        of_gpus(*[replace(LOADED, pcie_mib_per_second=12_000.0)] * 2), Milestone.NCCL, {}),
    "compiling, of which without NVML nothing else is known": (QUIET, Milestone.WEIGHTS, {"cpu_seconds": 0.9}),
    "weights load slowly from a disk": (QUIET, Milestone.NCCL, {"io_bytes": 5_000_000}),
    "a mapped file is waited for": (replace(QUIET, waits_for_disk=True), Milestone.NCCL, {}),
}  # fmt: skip


@pytest.mark.parametrize(("vitals", "milestone", "moves"), NO_HANGS.values(), ids=NO_HANGS.keys())
def test_other_silence_is_not_a_hang(vitals: Vitals, milestone: Milestone, moves: dict[str, float]) -> None:
    assert hang_signature(looks(vitals, 10 * HANG_SECONDS, **moves), milestone, HANG_SECONDS) is None


@pytest.mark.parametrize("gpus", [None, (LOADED, LOADED)], ids=["without NVML", "GPUs that spin"])
def test_compilers_make_a_long_silence_benign(gpus: tuple[GpuReading, ...] | None) -> None:
    vitals = replace(QUIET, gpus=gpus, compilers=("cicc", "ptxas"))
    found = hang_signature(looks(vitals, 600), Milestone.KV_CACHE, HANG_SECONDS)
    assert found is not None
    assert found.signature == "S9"
    assert "cicc, ptxas" in found.detail


def test_the_time_counts_anew_when_the_compilers_have_ended() -> None:
    compiling = looks(replace(of_gpus(LOADED, LOADED), compilers=("nvcc",)), 300)
    alone = replace(compiling.latest, compilers=())
    soon, late = replace(alone, at=alone.at + 1), compiling
    for second in range(1, 92):
        late = late.after(replace(alone, at=alone.at + second))
    assert hang_signature(compiling.after(soon), Milestone.KV_CACHE, HANG_SECONDS) is None
    found = hang_signature(late, Milestone.KV_CACHE, HANG_SECONDS)
    assert found is not None
    assert found.signature == "S2"


def test_a_gpu_that_waits_while_a_core_is_used_is_a_hang_after_twice_the_time() -> None:
    """The core may poll for that GPU, or compute for the other one."""
    waits = of_gpus(LOADED, replace(AT_REST, memory_mib=88_000))
    early = hang_signature(looks(waits, 2 * HANG_SECONDS - 1, cpu_seconds=1.0), Milestone.WEIGHTS, HANG_SECONDS)
    late = hang_signature(looks(waits, 2 * HANG_SECONDS, cpu_seconds=1.0), Milestone.WEIGHTS, HANG_SECONDS)
    assert early is None
    assert late is not None
    assert "one GPU waits for another that does nothing" in late.detail
    assert "100 % and 0 %" in late.detail


def reported(vitals: Vitals, seconds: float, **per_second: float) -> ReportedHang:
    """One observation per second, after the gate has reported a hang."""
    seen = ReportedHang.begin(vitals)
    for second in range(1, round(seconds) + 1):
        moved = {name: getattr(vitals, name) + rate * second for name, rate in per_second.items()}
        seen = seen.after(replace(vitals, at=vitals.at + second, **moved))
    return seen


REPORTED: dict[str, tuple[Vitals, dict[str, float], bool, bool]] = {
    "both GPUs spin": (of_gpus(LOADED, LOADED), {}, True, True),
    "both GPUs spin, and are polled for": (of_gpus(LOADED, LOADED), {"cpu_seconds": 2.0}, True, True),
    "one GPU spins, and the other does nothing": (of_gpus(LOADED, AT_REST), {"cpu_seconds": 1.0}, True, True),
    "nothing is done at all": (of_gpus(AT_REST, AT_REST), {}, True, False),
    "nothing is done at all, without NVML": (QUIET, {}, True, False),
    "it logs, and does nothing": (QUIET, {"logged_at": 1.0}, True, False),
    "a kernel is compiled in the process": (of_gpus(AT_REST, AT_REST), {"cpu_seconds": 1.0}, False, False),
    "the same without NVML": (QUIET, {"cpu_seconds": 1.0}, False, False),
    "one rank compiles, and the other waits": (of_gpus(LOADED, AT_REST), {"cpu_seconds": 2.0}, False, True),
    "a compiler runs": (replace(QUIET, compilers=("ptxas",)), {}, False, False),
    "its GPUs work": (of_gpus(AT_WORK, AT_WORK), {}, False, False),
    "kernels are read from a cache": (of_gpus(AT_REST, AT_REST), {"io_bytes": 2_000_000}, False, False),
}  # fmt: skip


@pytest.mark.parametrize(("vitals", "moves", "hangs", "spin"), REPORTED.values(), ids=REPORTED.keys())
def test_an_engine_that_gave_no_token(vitals: Vitals, moves: dict[str, float], hangs: bool, spin: bool) -> None:  # noqa: FBT001
    seen = reported(vitals, CONFIRM_SECONDS, **moves)
    assert seen.is_confirmed(HANG_SECONDS) is hangs
    assert (seen.computing is None) is hangs
    assert seen.evidence["gpusSpin"] is spin
    assert not reported(vitals, CONFIRM_SECONDS - 1, **moves).is_confirmed(HANG_SECONDS), "not a second earlier"


def test_an_engine_that_stops_computing_is_looked_at_anew() -> None:
    seen = reported(replace(QUIET, compilers=("ptxas",)), 300)
    for second in range(1, 20):
        seen = seen.after(replace(QUIET, at=300.0 + second))
    assert not seen.is_confirmed(HANG_SECONDS)
    assert seen.computing == "ptxas compiles"
    assert seen.after(replace(QUIET, at=320.0)).is_confirmed(HANG_SECONDS)


MEMORY = {"stands still but for a trifle": (30.0, True), "grows": (700.0, False)}


@pytest.mark.parametrize(("grown", "hangs"), MEMORY.values(), ids=MEMORY.keys())
def test_memory_that(grown: float, hangs: bool) -> None:  # noqa: FBT001 - a table
    window = looks(of_gpus(MAX_Q, MAX_Q), 45)
    later = replace(MAX_Q, memory_mib=MAX_Q.memory_mib + grown)
    for second in range(46, 92):
        window = window.after(replace(of_gpus(MAX_Q, later), at=float(second)))
    assert (hang_signature(window, Milestone.NCCL, HANG_SECONDS) is not None) is hangs


def test_time_in_which_the_launcher_was_frozen_does_not_count() -> None:
    """The container was frozen: the clock ran on, and the engine did not."""
    window = looks(QUIET, 10).after(replace(QUIET, at=3600.0))
    assert hang_signature(window, Milestone.NCCL, HANG_SECONDS) is None


def test_without_the_driver_processes_alone_decide() -> None:
    window = looks(of_gpus(AT_REST, AT_REST), 30)
    for second in range(31, 125):
        window = window.after(replace(QUIET, at=float(second)))
    found = hang_signature(window, Milestone.NCCL, HANG_SECONDS)
    assert found is not None
    assert "the GPUs' state is unknown" in found.detail


def test_the_evidence_is_small_and_has_the_figures() -> None:
    found = hang_signature(looks(of_gpus(MAX_Q, MAX_Q)), Milestone.NCCL, HANG_SECONDS)
    assert found is not None
    assert "90 of 300 W" in found.detail
    assert "420 and 420 MiB" in found.detail
    assert found.evidence["milestone"] == "NCCL"
    assert found.evidence["gpus"][0] == {
        "memoryMib": 420, "busyPercent": 100, "watts": 90, "limitWatts": 300, "pcieMibPerSecond": 0.0
    }  # fmt: skip


LINES = {
    "(Worker_TP0 pid=90) INFO 11-24 12:00:01 [pynccl.py:111] vLLM is using nccl==2.30.4": Milestone.NCCL,
    "INFO 11-24 12:01:00 [default_loader.py:300] Loading weights took 31.20 seconds": Milestone.WEIGHTS,
    "(EngineCore pid=80) INFO 11-24 [kv_cache_utils.py:1087] GPU KV cache size: 1,234 tokens": Milestone.KV_CACHE,
    "Capturing CUDA graphs (mixed prefill-decode, PIECEWISE):   0%|          | 0/51": Milestone.CAPTURING,
    "INFO:     Application startup complete.": Milestone.READY,
    'INFO:     127.0.0.1:40000 - "GET /health HTTP/1.1" 200 OK': Milestone.READY,
    'INFO:     127.0.0.1:40000 - "GET /health HTTP/1.1" 503 Service Unavailable': Milestone.NOTHING,
}


@pytest.mark.parametrize(("line", "milestone"), LINES.items())
def test_a_log_line_shows_a_milestone(line: str, milestone: Milestone) -> None:
    progress = Progress(0.0)
    progress.observe([line], 5.0)
    assert (progress.milestone, progress.logged_at) == (milestone, 5.0)
    progress.observe(["INFO 11-24 [pynccl.py:111] vLLM is using nccl==2.30.4"], 6.0)
    assert progress.milestone == max(milestone, Milestone.NCCL), "it does not go back"


def test_messages_about_waiting_are_not_progress() -> None:
    progress = Progress(0.0)
    progress.observe(
        ["INFO [shm_broadcast.py:681] No available shared memory broadcast block found in 60 seconds"], 60.0
    )
    progress.observe(["DEBUG [utils.py:9] Waiting for 1 local, 0 remote core engine proc(s) to start."], 70.0)
    assert progress.logged_at == 0.0
    assert progress.last_line.startswith("DEBUG")
