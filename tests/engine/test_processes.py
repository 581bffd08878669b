"""What /proc and NVML show of an engine: real processes, lines of the kernel, and GPUs behind a stub."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flash_engine.launcher.gpu_watch import STALE_SECONDS, GpuWatch, read_gpus
from flash_engine.launcher.hang_detection import GpuReading
from flash_engine.nvml import load_pynvml
from flash_engine.processes import Family, Process, ProcessTree, members, process_tree
from waiting import eventually

STAT = "4242 (VLLM::Worker (0) x) S 4200 4100 4100 0 -1 4194304 900 0 3 0 250 50 30 20 20 0 7 0 88 1 2"


def test_a_line_of_the_kernel_is_read_whatever_the_name() -> None:
    process = Process.parse(STAT)
    assert process.name == "VLLM::Worker (0) x"
    assert (process.pid, process.state, process.parent, process.session) == (4242, "S", 4200, 4100)
    assert process.cpu_seconds == 350 / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize("line", ["", "1 (x", "1 (x) S 2", "one (x) S 1 1 1 0 0 0 0 0 0 0 0 0 0 0"])
def test_an_invalid_line_is_rejected(line: str) -> None:
    with pytest.raises((ValueError, IndexError)):
        Process.parse(line)


def process(pid: int, parent: int, session: int, name: str = "python3", state: str = "S") -> Process:
    return Process(pid, name, state, parent, session, 1.0)


def test_the_process_tree_is_the_session_and_everything_it_started() -> None:
    everything = [
        process(1, 0, 1),
        process(10, 1, 10),
        process(11, 10, 10),
        process(12, 11, 12, "ninja"),
        process(13, 12, 13, "nvcc"),
        process(20, 1, 20),
        process(30, 1, 10),
    ]
    assert {found.pid for found in members(10, reversed(everything))} == {10, 11, 12, 13, 30}


def in_proc(folder: Path, process: Process, environment: str = "") -> None:
    """As the kernel writes it."""
    own = folder / str(process.pid)
    own.mkdir()
    line = f"{process.pid} ({process.name}) {process.state} {process.parent} 1 {process.session}"
    (own / "stat").write_text(f"{line} {'0 ' * 13}{process.threads} 0")
    (own / "environ").write_bytes(environment.encode())


@pytest.mark.parametrize(
    ("stray", "environment", "adopts", "expected"),
    [
        (process(50, 1, 50), "A=1\0FLASH_STARTED_AS=mine\0", False, {10, 50}),
        (process(50, 1, 50), "FLASH_STARTED_AS=another", False, {10}),
        (process(50, 1, 50), "A=FLASH_STARTED_AS=mine", False, {10}),
        (process(50, os.getpid(), 50), "", True, {10, 50}),
        (process(50, os.getpid(), 50), "", False, {10}),
        (process(40, os.getpid(), 40), "", True, {10}),
        (process(50, 1, 10, state="Z"), "", False, {10}),
        (replace(process(50, 1, 10, state="Z"), threads=3), "", False, {10, 50}),
    ],
    ids=["marked", "marked by another", "a mark in a value", "an orphan that came to us", "a child of another's",
         "a child from before", "a zombie", "a zombie with threads in the kernel"],
)  # fmt: skip
def test_descendants_are_found_in_other_sessions(
    stray: Process,
    environment: str,
    *,
    adopts: bool,
    expected: set[int],
    tmp_path: Path,
) -> None:
    for found in (process(10, 1, 10), process(os.getpid(), 1, 1), process(60, 1, 60)):
        in_proc(tmp_path, found)
    in_proc(tmp_path, stray, environment)
    family = Family(10, "mine", adopts=adopts, before=frozenset({40}))
    assert {found.pid for found in family.living(tmp_path)} == expected


NAMES = {
    "compilers": ((("nvcc", "S"), ("ptxas-blackwell", "R"), ("cc1plus", "R")), 3),
    "none: vLLM's own, and one that has ended": ((("python3", "S"), ("VLLM::EngineCor", "R"), ("ptxas", "Z")), 0),
}


@pytest.mark.parametrize(("names", "expected"), NAMES.values(), ids=NAMES.keys())
def test_compilers_are_known_by_name(names: tuple[tuple[str, str], ...], expected: int) -> None:
    tree = ProcessTree(tuple(process(9, 1, 9, name, state) for name, state in names), 0)
    assert len(tree.compilers) == expected


def test_a_process_that_waits_for_a_disk_is_seen() -> None:
    assert ProcessTree((process(9, 1, 9, state="D"),), 0).waits_for_disk
    assert not ProcessTree((process(9, 1, 9),), 0).waits_for_disk


# One child in a session of its own, as a compiler may be; it works when it gets input.
WORKER = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print(child.pid, flush=True)
input()
while time.process_time() < 0.5:
    pass
open(os.devnull, "w").write("x" * 3_000_000)
print("done", flush=True)
time.sleep(600)
"""


@pytest.fixture
def engine() -> Iterator[subprocess.Popen[str]]:
    made = subprocess.Popen(
        [sys.executable, "-c", WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert made.stdout is not None
    child = int(made.stdout.readline())
    yield made
    for pid in (child, made.pid):
        os.kill(pid, 9)
    made.communicate()


def test_real_processes_are_found_and_what_they_do_is_counted(engine: subprocess.Popen[str]) -> None:
    before = process_tree(engine.pid)
    assert len(before.processes) == 2
    assert engine.stdin is not None
    assert engine.stdout is not None
    engine.stdin.write("\n")
    engine.stdin.flush()
    assert engine.stdout.readline() == "done\n"

    after = process_tree(engine.pid)
    assert after.cpu_seconds - before.cpu_seconds >= 0.3
    assert after.io_bytes - before.io_bytes >= 3_000_000
    assert after.compilers == ()


def test_an_ended_leader_has_no_process_tree(tmp_path: Path) -> None:
    (tmp_path / "77").mkdir()
    (tmp_path / "self").mkdir()
    assert process_tree(77, tmp_path) == ProcessTree((), 0)


class NvmlStub:
    """NVML's functions, of two GPUs as they were reported to hang; units are NVML's: bytes, mW, KiB/s."""

    NVMLError = OSError
    NVML_PCIE_UTIL_TX_BYTES, NVML_PCIE_UTIL_RX_BYTES, nvmlMemory_v2 = 0, 1, 33554472  # noqa: N815 - NVML's names

    def __init__(self) -> None:
        self.broken = ""

    def nvmlInit(self) -> None:  # noqa: N802
        if self.broken == "nvmlInit":
            raise OSError("Driver Not Loaded")

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetMemoryInfo(self, _handle: int, version: int) -> Any:  # noqa: N802
        assert version == self.nvmlMemory_v2
        return SimpleNamespace(used=420 << 20)

    def nvmlDeviceGetUtilizationRates(self, _handle: int) -> Any:  # noqa: N802
        return SimpleNamespace(gpu=100)

    def nvmlDeviceGetPowerUsage(self, _handle: int) -> int:  # noqa: N802
        return 90_000

    def nvmlDeviceGetEnforcedPowerLimit(self, _handle: int) -> int:  # noqa: N802
        return 300_000

    def nvmlDeviceGetPcieThroughput(self, _handle: int, _counter: int) -> int:  # noqa: N802
        if self.broken == "nvmlDeviceGetPcieThroughput":
            raise OSError("Not Supported")
        return 512


def test_gpus_are_read_in_our_units() -> None:
    assert read_gpus(NvmlStub()) == (GpuReading(420, 100, 90, 300, 1.0),) * 2


def test_a_gpu_without_pcie_counters_is_read() -> None:
    nvml = NvmlStub()
    nvml.broken = "nvmlDeviceGetPcieThroughput"
    assert [gpu.pcie_mib_per_second for gpu in read_gpus(nvml)] == [None, None]


def test_a_reading_arrives_after_its_request_and_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flash_engine.launcher.gpu_watch.READ_SECONDS", 0.01)
    watch = GpuWatch(NvmlStub)
    eventually(lambda: watch.latest(time.monotonic()) is not None, "a reading")
    assert watch.latest(time.monotonic() + 2 * STALE_SECONDS) is None


def test_gpus_without_nvml_are_unknown_which_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    nvml = NvmlStub()
    nvml.broken = "nvmlInit"
    watch = GpuWatch(lambda: nvml)

    def errors() -> list[str]:
        assert watch.latest(0.0) is None
        return [vars(record)["fields"]["error"] for record in caplog.records]

    eventually(lambda: "Driver Not Loaded" in "".join(errors()), "the log has the error", seen=errors)
    assert len(errors()) == 1


def test_vllms_copy_of_pynvml_is_loaded_without_vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "vllm" / "third_party").mkdir(parents=True)
    (tmp_path / "vllm" / "__init__.py").write_text("raise RuntimeError('this brings torch')")
    (tmp_path / "vllm" / "third_party" / "pynvml.py").write_text(
        "import sys\nme = sys.modules[__name__]\nnvmlInit = 5\n"
    )
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "pynvml", raising=False)
    monkeypatch.delitem(sys.modules, "flash_pynvml", raising=False)
    assert load_pynvml().nvmlInit == 5


def test_a_missing_pynvml_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "pynvml", raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(ImportError, match="neither pynvml nor vLLM"):
        load_pynvml()
