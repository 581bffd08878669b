"""The real flash-p2p-test with fake ranks of every kind: its report, its exit code, and that it leaves no process."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from p2p_ranks.p2p_harness import PATIENCE, P2pTestRun, state_of
from waiting import eventually

StartRun = Callable[..., P2pTestRun]
ONE = "--variants=ncclP2pOff"


def test_healthy_ranks_give_a_healthy_report_that_the_operator_can_read(start_run: StartRun) -> None:
    code, report, read = start_run("other=healthy").ended()
    assert code == 0
    assert report["verdict"] == read.verdict == "healthy"
    assert [variant["arm"] for variant in report["arms"]] == ["ncclP2pOff", "nccl", "ncclP2p", "peer"]
    assert report["gpus"] == ["GPU-0", "GPU-1"]
    assert (report["version"], report["nccl"], report["schema"][:3]) == (1, "2.30.4", "v1-")
    assert read.variants[0].micros == {8192: 10.0, 16384: 10.0, 65536: 10.0, 262144: 10.0, 1048576: 10.0}
    assert read.variant_times.nccl_p2p_off == 40.0


@pytest.mark.parametrize(
    ("behaviours", "code", "verdict", "outcome", "detail"),
    [
        ("nccl=deaf", 3, "hang", "hang", "no progress in bf16, 8192 bytes, eager"),
        ("nccl=chatty", 3, "hang", "hang", "no progress in the first step"),
        ("nccl=wrong@1", 4, "corrupt", "corrupt", "rank 1: bf16, 8192 bytes, eager, round 1: 4096 of 4096 wrong"),
        ("nccl=refused", 5, "notPossible", "notPossible", "rank 0: cuIpcOpenMemHandle_v2"),
        ("nccl=killed@0", 6, "inconclusive", "inconclusive", "rank 0 was killed by SIGSEGV"),
        ("nccl=failed", 6, "inconclusive", "inconclusive", "RuntimeError: CUDA error: out of memory"),
        ("nccl=slow", 6, "inconclusive", "healthy", None),
        ("nccl=parent", 6, "inconclusive", "healthy", None),
    ],
)
def test_every_outcome_is_reported_and_no_process_is_left(
    start_run: StartRun, behaviours: str, code: int, verdict: str, outcome: str, detail: str | None
) -> None:
    run = start_run(behaviours, "--variants=ncclP2pOff,nccl")
    ended, report, read = run.ended()
    assert (ended, read.verdict) == (code, verdict)
    variant = report["arms"][1]
    assert variant["outcome"] == outcome
    assert detail is None or detail in variant["detail"]
    assert run.alive() == []


def test_ranks_that_never_become_ready_are_slow_and_not_hung(start_run: StartRun) -> None:
    run = start_run("other=unready@1", ONE, "--start-seconds=0.5")
    code, report, _ = run.ended()
    assert code == 6
    assert "not ready in time" in report["arms"][0]["detail"]
    assert run.alive() == []


def test_a_variant_that_hangs_leaves_time_for_the_later_ones(start_run: StartRun) -> None:
    """The deadline leaves seconds for each of the others, which take a fraction of one on an idle machine."""
    run = start_run("ncclP2pOff=unready", "--deadline-seconds=12", "--start-seconds=3600")
    code, report, _ = run.ended()
    assert code == 6
    assert [variant["outcome"] for variant in report["arms"]] == ["inconclusive", "healthy", "healthy", "healthy"]
    assert "time ran out" in report["arms"][0]["detail"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_request_to_stop_gives_a_report_and_frees_the_gpus(start_run: StartRun, number: signal.Signals) -> None:
    run = start_run("other=deaf", "--step-seconds=60")
    run.wait_for_ranks(2)
    run.process.send_signal(number)
    asked = time.monotonic()
    code, report, _ = run.ended()
    assert time.monotonic() - asked < 10
    assert code == 6
    assert "was asked to stop" in report["reason"]
    assert run.alive() == []
    assert len(run.pids) == 2, "no other variant is started"


def test_two_ranks_on_one_gpu_prove_nothing(start_run: StartRun) -> None:
    code, report, _ = start_run("other=one_gpu").ended()
    assert code == 6
    assert "only one GPU" in report["reason"]
    assert report["gpus"] == ["GPU-0"]


def test_real_ranks_report_that_torch_is_missing(tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    command = (sys.executable, "-m", "flash_engine.p2p_test", ONE, f"--report={file}")
    blocked = {**os.environ, "PYTHONPATH": str(_without_torch(tmp_path))}
    ended = subprocess.run(command, env=blocked, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 6
    assert "no torch here" in file.read_text()
    assert "inconclusive" in ended.stderr


def _without_torch(folder: Path) -> Path:
    folder.joinpath("torch.py").write_text("raise ImportError('no torch here')")
    return folder


def test_a_report_is_written_into_the_existing_file(start_run: StartRun, tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    file.write_text("x" * 9000)
    inode = file.stat().st_ino
    start_run("other=healthy", ONE).ended()
    assert file.stat().st_ino == inode


def test_a_report_that_cannot_be_written_is_still_printed() -> None:
    command = (sys.executable, "-m", "flash_engine.p2p_test", ONE, "--report=/nowhere/report.json")
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 6
    assert "could not write the report" in ended.stderr
    assert '"verdict":"inconclusive"' in ended.stdout


BAD_USAGE = {
    "--variants=warp": "unknown variant: 'warp'; choose from ncclP2pOff, nccl, ncclP2p, peer",
    "--variants=": "unknown variant: ''",
    "--step-seconds=0": "'0' is not a number of seconds above 0",
    "--start-seconds=soon": "'soon' is not a number of seconds above 0",
    "--deadline-seconds=nan": "'nan' is not a number",
    "--what": "unrecognized arguments: --what",
}


@pytest.mark.parametrize(("bad", "message"), BAD_USAGE.items())
def test_bad_usage_has_a_message_and_an_exit_code(bad: str, message: str) -> None:
    ended = subprocess.run(
        (sys.executable, "-m", "flash_engine.p2p_test", bad), capture_output=True, text=True, check=False, timeout=60
    )
    assert ended.returncode == 2
    assert "usage:" in ended.stderr
    assert message in ended.stderr


def test_help_lists_the_variants_and_the_exit_codes() -> None:
    ended = subprocess.run(
        (sys.executable, "-m", "flash_engine.p2p_test", "--help"),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    for text in ("ncclP2pOff", "exit codes", "example"):
        assert text in ended.stdout


def test_a_rank_does_not_outlive_a_parent_that_is_killed() -> None:
    """The real rank's own protection: a kernel that spins would keep the GPU."""
    rank = (
        "import os, time; from flash_engine.p2p_test.rank import die_with_parent; die_with_parent(); "
        "print(os.getpid(), flush=True); time.sleep(60)"
    )
    parent = f"import subprocess, sys; subprocess.run((sys.executable, '-c', {rank!r}))"
    process = subprocess.Popen((sys.executable, "-c", parent), stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout
        pid = int(process.stdout.readline())
        process.kill()
        # The pipe closes when its last holder exits, a moment before the kernel reports that process as dead.
        assert process.stdout.read() == ""
    ended = {None, "Z", "X"}
    eventually(lambda: state_of(pid) in ended, "the rank has ended", seconds=PATIENCE, seen=lambda: state_of(pid))
