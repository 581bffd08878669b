"""Ranks without a GPU, each with its own way to end: `python fake_ranks.py WAYS --variant=… --rank=…`.

WAYS are ARM=WAY,…; `other` stands for the arms that are not named. A way may be for one rank: WAY@0. Each rank
leaves its pid, and those of what it starts, as names of files in $FAKE_RANK_PIDS.
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


def say(step: str, **fields: object) -> None:
    print(json.dumps({"step": step, **fields}), flush=True)


def start(rank: int) -> None:
    say("device", uuid=f"GPU-{rank}", nccl="2.30.4")
    say("ready", kernel="")


def finish(rank: int) -> None:
    say("begun", what="bf16, 8192 bytes, eager")
    for size in SIZES:
        say("timed", bytes=size, micros=9.0 + rank)
    say("done")


def healthy(rank: int) -> None:
    start(rank)
    finish(rank)


def one_gpu(_rank: int) -> None:
    say("device", uuid="GPU-0", nccl="2.30.4")
    say("ready", kernel="triton")
    finish(0)


def hang(rank: int) -> None:
    start(rank)
    say("begun", what="bf16, 8192 bytes, eager")
    time.sleep(FOREVER)


def deaf(rank: int) -> None:
    """Hangs, and heeds no signal that can be ignored."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    hang(rank)


def slow(rank: int) -> None:
    """Longer than a step may take, but every step is in time."""
    start(rank)
    for step in range(6):
        say("begun", what=f"step {step}")
        time.sleep(0.25)
    finish(rank)


def unready(_rank: int) -> None:
    time.sleep(FOREVER)


def wrong(rank: int) -> None:
    start(rank)
    say("wrong", detail="bf16, 8192 bytes, eager, round 1: 4096 of 4096 wrong, first at 0: expected 7, got 0")


def refused(rank: int) -> None:
    say("device", uuid=f"GPU-{rank}", nccl="2.30.4")
    say("refused", detail="cuIpcOpenMemHandle_v2: CUDA_ERROR_PEER_ACCESS_UNSUPPORTED (217)")


def failed(rank: int) -> None:
    start(rank)
    raise RuntimeError("CUDA error: out of memory")


def killed(rank: int) -> None:
    start(rank)
    os.kill(os.getpid(), signal.SIGSEGV)


def chatty(rank: int) -> None:
    """Says much that is no progress."""
    start(rank)
    while True:
        print("NCCL INFO something", '{"step": 7}', "[1]", '{"step": "unheard of"}', "{", sep="\n", flush=True)
        sys.stdout.buffer.write(b"\xff\xfe\n")
        time.sleep(0.05)


def parent(rank: int) -> None:
    """Ends well, but what it started goes on, and holds the pipe: one in its session, one in its own."""
    for apart in (False, True):
        child = subprocess.Popen(("sleep", str(FOREVER)), start_new_session=apart)
        leave_pid(child.pid)
    start(rank)
    finish(rank)
    time.sleep(FOREVER)


def leave_pid(pid: int) -> None:
    Path(os.environ["FAKE_RANK_PIDS"], str(pid)).touch()


def main() -> None:
    options = dict(argument.lstrip("-").split("=", 1) for argument in sys.argv[2:])
    ways = dict(pair.split("=", 1) for pair in sys.argv[1].split(","))
    way, _, only = ways.get(options["arm"], ways.get("other", "healthy")).partition("@")
    rank = int(options["rank"])
    leave_pid(os.getpid())
    chosen = globals()[way] if only in {"", str(rank)} else hang
    chosen(rank)


if __name__ == "__main__":
    main()
