"""Benchmark of `mtp-quantise restore` and `verify --source` from disk to disk, in the real size, on synthetic data.

    python disk_to_disk.py --out FOLDER [--work FOLDER] [--experts 256] [--tokens 473003] [--runs 3] [--device auto]

Each run is a process of its own, its start included: the first also compiles kernels, the last but one reads inputs
that were dropped from the page cache, and the last waits for the device after each stage to say where time goes. Writes
FOLDER/disk_to_disk.jsonl, one measurement a line, and prints the same. Needs 21 GB in the work folder, torch and
safetensors, and on a GPU triton. Where rich, jinja2 or matplotlib is missing, plain substitutes stand in for it,
without the report's page.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import IO, Any, Final

ROOT: Final = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "images" / "quantiser"), str(ROOT / "contracts")]

STEP: Final = re.compile(r"^(?P<what>.+): (?P<seconds>[\d.]+) s$")
STAGES: Final = "MTP_BENCHMARK_STAGES"


@dataclass
class Log:
    path: Path
    started: float = field(default_factory=time.perf_counter)

    def __call__(self, what: str, **measured: Any) -> None:
        line = json.dumps({"what": what, "at": round(time.perf_counter() - self.started, 2), **measured})
        print(line, flush=True)
        with self.path.open("a") as out:
            out.write(line + "\n")


@dataclass
class Ran:
    """One process of the command."""

    code: int
    seconds: float
    stdout: str
    lines: list[tuple[float, str]]
    """Seconds from its start, and the line of its stderr."""

    @property
    def longest_silence(self) -> float:
        times = [0.0, *(at for at, _ in self.lines), self.seconds]
        return max(later - earlier for earlier, later in pairwise(times))

    def steps(self) -> dict[str, float]:
        """Seconds of each step that the command reports when it ends."""
        found = (STEP.match(line) for _, line in self.lines)
        return {match["what"]: float(match["seconds"]) for match in found if match}


def ran(*arguments: str, stages: bool = False) -> Ran:
    command = [sys.executable, str(Path(__file__).with_name("quantiser_process.py")), *arguments]
    environment = {**os.environ, **({STAGES: "1"} if stages else {}), "PYTHONUNBUFFERED": "1"}
    began = time.perf_counter()
    lines: list[tuple[float, str]] = []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        reader = threading.Thread(target=collect, args=(process.stderr, began, lines))
        reader.start()
        stdout = process.stdout.read()
        reader.join()
    return Ran(process.returncode, time.perf_counter() - began, stdout, lines)


def collect(stderr: IO[str], began: float, lines: list[tuple[float, str]]) -> None:
    lines.extend((time.perf_counter() - began, line.rstrip()) for line in stderr)


def report(log: Log, what: str, run: Ran, **more: Any) -> None:
    """Where it failed, its last lines say why."""
    failed = {} if run.code == 0 else {"stdout": run.stdout[-2000:], "stderr": [line for _, line in run.lines][-40:]}
    log(
        what, code=run.code, seconds=round(run.seconds, 2), steps=run.steps(),
        longest_silence=round(run.longest_silence, 2), lines=[[round(at, 2), line] for at, line in run.lines][-60:],
        **failed, **more,
    )  # fmt: skip


def drop_from_cache(paths: list[Path]) -> None:
    """Reads come from the disk next time. Only clean pages can be dropped, so everything is written first."""
    os.sync()
    for path in paths:
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def disk_speed(folder: Path, log: Log, size: int = 1 << 30) -> None:
    """Of one thread, to judge the rest by: the floor of any run."""
    block, path = os.urandom(1 << 24), folder / "disk-speed"
    began = time.perf_counter()
    with path.open("wb") as file:
        for _ in range(size // len(block)):
            file.write(block)
        copied = time.perf_counter() - began
        os.fsync(file.fileno())
    written = time.perf_counter() - began
    drop_from_cache([path])
    rates = {"write_gb_s": size / 1e9 / written, "write_to_cache_gb_s": size / 1e9 / copied}
    for name in ("read_gb_s", "read_from_cache_gb_s"):
        began = time.perf_counter()
        with path.open("rb", buffering=0) as file:
            while file.read(1 << 24):
                pass
        rates[name] = size / 1e9 / (time.perf_counter() - began)
    path.unlink()
    log("disk, one thread", **{name: round(rate, 2) for name, rate in rates.items()})


def measure(arguments: argparse.Namespace, log: Log) -> None:
    import torch  # noqa: PLC0415 - only now, for the processes measured import it themselves

    import full_size_inputs  # noqa: PLC0415

    work: Path = arguments.work
    device = torch.device("cuda" if torch.cuda.is_available() and arguments.device != "cpu" else "cpu")
    log(
        "machine", device=torch.cuda.get_device_name() if device.type == "cuda" else "a CPU",
        cores=len(os.sched_getaffinity(0)), torch=torch.__version__, missing=missing(),
        date=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), data="synthetic",
        free_gb=round(shutil.disk_usage(work).free / 1e9),
    )  # fmt: skip
    began = time.perf_counter()
    inputs = full_size_inputs.write(work, arguments.experts, arguments.tokens, device)
    if device.type == "cuda":
        torch.cuda.empty_cache()
    log("inputs written", experts=arguments.experts, tokens=arguments.tokens, gb=round(inputs.bytes() / 1e9, 2),
        seconds=round(time.perf_counter() - began, 1))  # fmt: skip
    disk_speed(work, log)
    whole = work / "whole"
    restore = ["restore", "--base", str(inputs.base), "--source", str(inputs.source), "--out", str(whole),
               "--capture", str(inputs.capture), "--device", arguments.device]  # fmt: skip
    names = ["restore, first run", *[f"restore, warm, {number + 1}" for number in range(arguments.runs)]]
    for name in (*names, "restore, inputs not in the page cache", "restore, stage by stage"):
        shutil.rmtree(whole, ignore_errors=True)
        if "not in the page cache" in name:
            drop_from_cache(inputs.paths())
        done = ran(*restore, stages="stage" in name)
        report(log, name, done, result=done.stdout.strip()[-600:])
        if done.code:
            return
    for name in ("verify --source", "verify --source, again"):
        report(log, name, ran("verify", str(whole), "--source", str(inputs.source), "--device", arguments.device))


def missing() -> list[str]:
    from quantiser_process import missing as found  # noqa: PLC0415

    return found()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="for the log")
    parser.add_argument(
        "--work", type=Path, help="for inputs and outputs, on a local disk; removed at the end (OUT/work)"
    )
    parser.add_argument("--experts", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=473_003)
    parser.add_argument("--runs", type=int, default=3, help="warm ones")
    parser.add_argument("--device", choices=["auto", "cuda", "cpu"], default="auto")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    arguments.work = (arguments.work or arguments.out / "work").resolve()
    arguments.work.mkdir(parents=True)
    try:
        measure(arguments, Log(arguments.out / "disk_to_disk.jsonl"))
    finally:
        shutil.rmtree(arguments.work)


if __name__ == "__main__":
    main()
