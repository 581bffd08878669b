"""Ranks without a GPU that behave as requested: `python fake_ranks.py BEHAVIOURS --variant=… --rank=…`.

BEHAVIOURS is VARIANT=BEHAVIOUR,…; `other` stands for the variants that are not listed. BEHAVIOUR@0 applies to one rank
only. Each rank records its pid, and the pids of its children, as file names in $FAKE_RANK_PIDS.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

FOREVER = 3600
SIZES = (8192, 16384, 65536, 262144, 1048576)


def report_step(step: str, **fields: object) -> None:
    print(json.dumps({"step": step, **fields}), flush=True)


def start(rank: int) -> None:
    report_step("device", uuid=f"GPU-{rank}", nccl="2.30.4")
    report_step("ready", kernel="")


def finish(rank: int) -> None:
    report_step("begun", what="bf16, 8192 bytes, eager")
    for size in SIZES:
        report_step("timed", bytes=size, micros=9.0 + rank)
    report_step("done")


def healthy(rank: int) -> None:
    start(rank)
    finish(rank)


def one_gpu(_rank: int) -> None:
    report_step("device", uuid="GPU-0", nccl="2.30.4")
    report_step("ready", kernel="triton")
    finish(0)


def hang(rank: int) -> None:
    start(rank)
    report_step("begun", what="bf16, 8192 bytes, eager")
    time.sleep(FOREVER)


def deaf(rank: int) -> None:
    """Hangs and ignores every signal that can be ignored."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    hang(rank)


def slow(rank: int) -> None:
    """Takes longer than the time limit of a step in total, but each step is in time."""
    start(rank)
    for step in range(6):
        report_step("begun", what=f"step {step}")
        time.sleep(0.25)
    finish(rank)


def unready(_rank: int) -> None:
    time.sleep(FOREVER)


def wrong(rank: int) -> None:
    start(rank)
    report_step("wrong", detail="bf16, 8192 bytes, eager, round 1: 4096 of 4096 wrong, first at 0: expected 7, got 0")


def refused(rank: int) -> None:
    report_step("device", uuid=f"GPU-{rank}", nccl="2.30.4")
    report_step("refused", detail="cuIpcOpenMemHandle_v2: CUDA_ERROR_PEER_ACCESS_UNSUPPORTED (217)")


def failed(rank: int) -> None:
    start(rank)
    raise RuntimeError("CUDA error: out of memory")


def killed(rank: int) -> None:
    start(rank)
    os.kill(os.getpid(), signal.SIGSEGV)


def chatty(rank: int) -> None:
    """Prints much that is not progress."""
    start(rank)
    while True:
        print("NCCL INFO something", '{"step": 7}', "[1]", '{"step": "unheard of"}', "{", sep="\n", flush=True)
        sys.stdout.buffer.write(b"\xff\xfe\n")
        time.sleep(0.05)


def parent(rank: int) -> None:
    """Passes, but leaves children that hold the pipe: in its session, in one of its own, and there without a parent."""
    for apart in (False, True):
        child = subprocess.Popen(("sleep", str(FOREVER)), start_new_session=apart)
        record_pid(child.pid)
    record_pid(orphan())
    start(rank)
    finish(rank)
    time.sleep(FOREVER)


def orphan() -> int:
    """The pid of a process in a session of its own whose parent has ended."""
    source = f"import subprocess; print(subprocess.Popen(('sleep', '{FOREVER}'), start_new_session=True).pid)"
    with subprocess.Popen((sys.executable, "-S", "-c", source), stdout=subprocess.PIPE) as process:
        return int(process.stdout.readline() if process.stdout else 0)


def record_pid(pid: int) -> None:
    Path(os.environ["FAKE_RANK_PIDS"], str(pid)).touch()


def main() -> None:
    options = dict(argument.lstrip("-").split("=", 1) for argument in sys.argv[2:])
    behaviours = dict(pair.split("=", 1) for pair in sys.argv[1].split(","))
    behaviour, _, only = behaviours.get(options["variant"], behaviours.get("other", "healthy")).partition("@")
    rank = int(options["rank"])
    record_pid(os.getpid())
    chosen = globals()[behaviour] if only in {"", str(rank)} else hang
    chosen(rank)


if __name__ == "__main__":
    main()
