"""What CI cannot run: the readings of a node, the p2p test, and timings of its variants, on real GPUs.

    PYTHONPATH=contracts:operator:images/engine:images/node:tests/support python3 benchmarks/p2p_test_on_gpus.py FOLDER

Needs torch with CUDA, triton, and the dependencies of flash-node. Writes everything into FOLDER: a dump of the node and
its picture, the reports of the p2p test (all GPUs, one GPU, a stopped rank, a rank with wrong data), and the times of
every variant. docs/topology.md has the results so far.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flash_contracts.flags.derivation import PCIE_LOW_LATENCY
from flash_engine.p2p_test.runner import RANK_COMMAND
from flash_engine.p2p_test.variants import WORLD, rank_environment, variant_named

COMMAND = "import sys; from flash_engine.p2p_test.__main__ import main; sys.exit(main(sys.argv[2:], eval(sys.argv[1])))"
WRONG_INPUT = (*RANK_COMMAND, "--backend=p2p_ranks.faulty_backends:WrongInputBackend")
STOPPED = (*RANK_COMMAND, "--backend=p2p_ranks.faulty_backends:StoppingBackend")
SIZES = (8 << 10, 64 << 10, 256 << 10, 1 << 20, 16 << 20)
STEP_SECONDS = 8
RANKS_SECONDS = 120
FREE_SECONDS = 20


@dataclass(frozen=True)
class TimedVariant:
    """A variant of the p2p test to time, with additional environment variables."""

    name: str
    variant: str
    environment: Mapping[str, str]


TIMED_VARIANTS = (
    TimedVariant("P2P off", "ncclP2pOff", {}),
    TimedVariant("P2P off, PcieLowLatency", "ncclP2pOff", PCIE_LOW_LATENCY),
    TimedVariant("P2P on", "ncclP2p", {}),
    TimedVariant("P2P on, PcieLowLatency", "ncclP2p", PCIE_LOW_LATENCY),
    TimedVariant("peer", "peer", {}),
)
BASELINES = {"P2P off, PcieLowLatency": "P2P off", "P2P on, PcieLowLatency": "P2P on", "peer": "P2P on"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--rounds", type=int, default=4, help="how often to time each variant (default: 4)")
    parser.add_argument("--only", default="node,test,one,hang,corrupt,times", help="parts, separated by commas")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    parts: dict[str, Callable[[], None]] = {
        "node": lambda: node(options.folder),
        "test": lambda: p2p_test(options.folder, "test"),
        "one": lambda: p2p_test(options.folder, "one", CUDA_VISIBLE_DEVICES="0"),
        "hang": lambda: p2p_test(options.folder, "hang", ranks=STOPPED),
        "corrupt": lambda: p2p_test(options.folder, "corrupt", ranks=WRONG_INPUT),
        "times": lambda: times(options.folder, options.rounds),
    }
    for name in options.only.split(","):
        print(f"=== {name}", flush=True)
        began = time.monotonic()
        parts[name]()
        took = time.monotonic() - began
        print(f"    {took:.1f} s; GPU memory in use: {memory()}", flush=True)


def node(folder: Path) -> None:
    """Save the readings of NVML and /sys, with the output of nvidia-smi for comparison."""
    outputs = [run("nvidia-smi", "topo", "-m"), run("nvidia-smi", "topo", "-p2p", "w"), run("nvidia-smi", "-q")]
    (folder / "nvidia-smi.txt").write_text("\n".join(outputs))
    print(outputs[0])
    files = (f"--save={folder}/node.json", f"--svg={folder}/node.svg")
    print(run(sys.executable, "-m", "flash_node.topology", *files))


def p2p_test(folder: Path, name: str, ranks: Sequence[str] = RANK_COMMAND, **environment: str) -> None:
    """Run flash-p2p-test once. Print its verdict and the processes that it left behind."""
    report = folder / f"{name}.json"
    command = (
        sys.executable,
        "-c",
        COMMAND,
        repr(tuple(ranks)),
        f"--step-seconds={STEP_SECONDS}",
        f"--report={report}",
    )
    done = subprocess.run(command, env={**os.environ, **environment}, stdout=subprocess.PIPE, check=False, timeout=400)
    found = json.loads(report.read_text())
    print(f"    exit code {done.returncode}: {found['verdict']}: {found['reason']}")
    print(f"    ranks left: {list(ranks_alive())}")


def ranks_alive() -> Iterator[int]:
    for process in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (process / "cmdline").read_text().split("\0")
        except OSError:
            continue
        if "flash_engine.p2p_test.rank" in arguments:
            yield int(process.name)


def memory() -> str:
    """MiB in use on each GPU, and how long it took to fall to 0: the driver cleans up a killed process over time."""
    began = time.monotonic()
    while True:
        used = run("nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits").split()
        if set(used) == {"0"} or time.monotonic() - began > FREE_SECONDS:
            return f"{', '.join(used)} MiB after {time.monotonic() - began:.1f} s"
        time.sleep(0.2)


def times(folder: Path, rounds: int) -> None:
    """Time every variant once per round, so that drift of the machine affects them all."""
    measured: dict[str, list[dict[str, float]]] = {timed.name: [] for timed in TIMED_VARIANTS}
    for number in range(rounds):
        for timed in TIMED_VARIANTS:
            found = time_variant(timed)
            measured[timed.name].append(found)
            print(f"    round {number + 1}, {timed.name}: {found}", flush=True)
    (folder / "times.json").write_text(json.dumps(measured, indent=1))
    print("\n".join(table(measured)))


def time_variant(timed: TimedVariant) -> dict[str, float]:
    """Microseconds of one all-reduce on the slower rank."""
    with tempfile.TemporaryDirectory() as folder:
        sizes = ",".join(map(str, SIZES))
        environment = {
            **rank_environment(variant_named(timed.variant), os.environ, Path(folder)),
            **timed.environment,
        }
        processes = [
            subprocess.Popen(
                (sys.executable, "-m", "p2p_ranks.timed_rank", f"--variant={timed.variant}", f"--rank={rank}",
                 f"--rendezvous={folder}/rendezvous", f"--sizes={sizes}"),
                env=environment, stdout=subprocess.PIPE, text=True,
            )
            for rank in range(WORLD)
        ]  # fmt: skip
        try:
            outputs = [process.communicate(timeout=RANKS_SECONDS)[0] for process in processes]
        finally:
            for process in processes:
                process.kill()
    ranks = [times_of(output.splitlines()) for output in outputs]
    return {key: max(rank[key] for rank in ranks) for key in ranks[0]}


def times_of(lines: Sequence[str]) -> dict[str, float]:
    steps: list[dict[str, Any]] = [json.loads(line) for line in lines]
    return {key_of(step["bytes"], eager=step["eager"]): step["micros"] for step in steps if step["step"] == "timed"}


def key_of(size: int, *, eager: bool) -> str:
    return f"{size >> 10} KiB{' eager' if eager else ''}"


def table(measured: Mapping[str, Sequence[Mapping[str, float]]]) -> Iterator[str]:
    """Median and range of each variant, then its ratio to its baseline in the same round."""
    keys = [key_of(size, eager=eager) for size in SIZES for eager in (False, True)]
    yield f"| variant | {' | '.join(keys)} |"
    yield "| --- |" + " --- |" * len(keys)
    for name, rounds in measured.items():
        columns = [[found[key] for found in rounds] for key in keys]
        yield f"| {name}, us | {' | '.join(spread(column, '.1f') for column in columns)} |"
    for name, baseline in BASELINES.items():
        pairs = list(zip(measured[name], measured[baseline], strict=True))
        columns = [[one[key] / other[key] for one, other in pairs] for key in keys]
        yield f"| {name} / {baseline} | {' | '.join(spread(column, '.2f') for column in columns)} |"


def spread(values: Sequence[float], form: str) -> str:
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def run(*command: str) -> str:
    """Standard output, or standard error if there is none."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    return done.stdout or done.stderr


if __name__ == "__main__":
    main()
