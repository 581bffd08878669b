"""What a new deployment costs the operator: .venv/bin/python benchmarks/reconcile_cost.py [--count 300] [--beside DIR]

The operator's workers, queue and store run against an API server in memory, which answers writes and tells of them as
events. HTTP, TLS and kopf are left out, so the figures are for comparison, and need no cluster.

    .venv/bin/python benchmarks/reconcile_cost.py --rounds 5 --beside ../another-checkout

compares this checkout with another one: by turns, in a process for each turn.

CPU      of the process without the API server in memory, from the first deployment until nothing is left to do
plans    calls of `plan`; one that is made again from live objects counts as well
"""

import argparse
import asyncio
import cProfile
import json
import os
import pstats
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any, cast
from unittest.mock import patch

import aiohttp

from flash_operator.core.plan import Plan, plan
from flash_operator.runtime import logs
from flash_operator.runtime.api_connection import ApiConnection
from flash_operator.runtime.cluster import Cluster
from operator_in_memory import ApiInMemory, OperatorInMemory, a_new_deployment

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("contracts", "operator")
QUIET_SECONDS = 2.5
"""Longer than any look that a new deployment asks for."""

Figures = dict[str, float]


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=300, help="deployments")
    parser.add_argument("--rate", type=float, default=20.0, help="applied each second")
    parser.add_argument("--early-events", action="store_true", help="events come before the answers to their writes")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each checkout")
    parser.add_argument("--beside", type=Path, help="another checkout, measured by turns with this one")
    parser.add_argument("--profile", action="store_true", help="one run of this checkout, and what takes its time")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    logs.configure("json")
    if options.profile:
        profiled(options)
    elif options.one:
        print(json.dumps(asyncio.run(measured(options))))
    else:
        for line in compared(options):
            print(line, flush=True)
    return 0


def profiled(options: argparse.Namespace) -> None:
    profile = cProfile.Profile()
    with profile:
        asyncio.run(measured(options))
    pstats.Stats(profile).sort_stats("tottime").print_stats(40).sort_stats("cumulative").print_stats(60)


def compared(options: argparse.Namespace) -> Iterator[str]:
    roots = {"this checkout": ROOT, **({"the other": options.beside.resolve()} if options.beside else {})}
    found: dict[str, list[Figures]] = {name: [] for name in roots}
    for _ in range(options.rounds):
        for name, root in roots.items():
            found[name].append(one_turn(root, options))
    figures = tuple(found["this checkout"][0])
    yield f"| for each of {options.count} new deployments, median of {options.rounds} | {' | '.join(figures)} |"
    yield f"| --- |{' ---: |' * len(figures)}"
    for name, turns in found.items():
        yield f"| {name} | {' | '.join(f'{median(turn[figure] for turn in turns):.1f}' for figure in figures)} |"


def one_turn(root: Path, options: argparse.Namespace) -> Figures:
    early = ["--early-events"] if options.early_events else []
    command = [sys.executable, __file__, "--one", f"--count={options.count}", f"--rate={options.rate}", *early]
    packages = [*(root / package for package in PACKAGES), ROOT / "tests" / "support"]
    path = os.pathsep.join(map(str, packages))
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE, check=True)
    return cast("Figures", json.loads(done.stdout.splitlines()[-1]))


async def measured(options: argparse.Namespace) -> Figures:
    """One turn."""
    plans, planned_at = 0, time.monotonic()

    def counted(*args: Any) -> Plan:
        nonlocal plans, planned_at
        plans, planned_at = plans + 1, time.monotonic()
        return plan(*args)

    api = ApiInMemory(early=options.early_events)
    async with aiohttp.ClientSession() as session:
        operator = OperatorInMemory(api, session)
        await operator.start()
        read, cpu = operator.cluster.reads, time.process_time() - api.seconds
        with patch("flash_operator.runtime.reconciler.plan", counted):
            await apply_all(api, options.count, options.rate)
            while time.monotonic() - planned_at < QUIET_SECONDS:
                await asyncio.sleep(0.1)
        spent = time.process_time() - api.seconds - cpu
        await operator.stop()
    writes, reads = operator.cluster.writes, operator.cluster.reads - read
    found = {"CPU ms": 1000 * spent, "plans": plans, "writes": writes, "reads": reads}
    return {name: figure / options.count for name, figure in found.items()}


async def apply_all(api: ApiInMemory, count: int, rate: float) -> None:
    user, began = Cluster(cast("ApiConnection", api)), time.monotonic()
    for number in range(count):
        await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
        await user.apply(a_new_deployment(number))


if __name__ == "__main__":
    sys.exit(main())
