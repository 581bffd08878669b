"""The confusion matrix of the gate: python benchmarks/gate_verdicts.py [--runs 20] [--clock virtual|real] [--markdown]

Runs every scenario `runs` times with random timing beside a real gate. With the virtual clock minutes pass in
milliseconds, and other processes have no influence; with the real one several runs share this process and the machine.
The exit code is 1 if any verdict is wrong.
"""

import argparse
import asyncio
import logging
import os
import platform
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from statistics import median

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn
from rich.table import Table

from engine_stub.virtual_time import run_in_virtual_time
from gate_matrix.run import Outcome, run
from gate_matrix.scenarios import SCENARIOS, Scenario

HEADINGS = ("engine", "right verdict", "runs", "verdicts", "false Ready", "false NotReady", "wrong reason", "seconds")

Job = tuple[Scenario, int]

DEFAULT_WATCH = {"watchSeconds": 5, "windows": 3, "stallSeconds": 60}

VOID_SHARE = 0.1
VOID_TRIES = 3
"""By the real clock, a busy machine may slow the stub down. It then deviates from the scenario, so the run is void and
repeated. After VOID_TRIES void runs it is left out, and counted as void."""


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20, help="runs of each scenario")
    parser.add_argument("--clock", choices=("virtual", "real"), default="virtual", help="clock for the runs")
    parser.add_argument("--lanes", type=int, default=6, help="concurrent runs, with the real clock")
    parser.add_argument("--only", default="", help="run only scenarios whose name contains this")
    parser.add_argument("--default-watch", action="store_true", help="monitor serving engines at the default interval")
    parser.add_argument("--markdown", action="store_true", help="print the table as in docs/readiness.md")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    scenarios = [scenario for scenario in SCENARIOS if options.only in scenario.name]
    if options.default_watch:
        scenarios = [replace(s, config={**s.config, "serving": DEFAULT_WATCH}) for s in scenarios]
    jobs = [(scenario, seed) for seed in range(options.runs) for scenario in scenarios]
    outcomes = play(jobs, clock=options.clock, lanes=options.lanes)
    void = [outcome for outcome in outcomes if outcome.late_share > VOID_SHARE]
    outcomes = [outcome for outcome in outcomes if outcome.late_share <= VOID_SHARE]
    rows = [row(scenario, [o for o in outcomes if o.scenario is scenario]) for scenario in scenarios]
    if options.markdown:
        print(markdown(rows))
    else:
        show(rows)
    print(summary(outcomes, options.clock) + (f"; {len(void)} void" if void else ""))
    wrong = [outcome for outcome in outcomes if not outcome.right]
    for outcome in wrong:
        print(f"wrong: {outcome.scenario.name}: {outcome.reasons} {outcome.ready} {outcome.messages[-1:]}")
    return 1 if wrong else 0


def play(jobs: Sequence[Job], *, clock: str, lanes: int) -> list[Outcome]:
    """Run all jobs, with a progress bar on stderr."""
    columns = (*Progress.get_default_columns(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(f"{clock} clock", total=len(jobs))
        if clock == "real":
            return asyncio.run(_in_lanes(jobs, lanes, lambda: progress.advance(task)))
        outcomes = []
        for scenario, seed in jobs:
            outcomes.append(run_in_virtual_time(run(scenario, seed)))
            progress.advance(task)
        return outcomes


async def _in_lanes(jobs: Sequence[Job], lanes: int, done: Callable[[], None]) -> list[Outcome]:
    free = asyncio.Semaphore(lanes)

    async def one(scenario: Scenario, seed: int) -> Outcome:
        async with free:
            for _ in range(VOID_TRIES):
                outcome = await run(scenario, seed)
                if outcome.late_share <= VOID_SHARE:
                    break
        done()
        return outcome

    return await asyncio.gather(*(one(*job) for job in jobs))


def row(scenario: Scenario, outcomes: Sequence[Outcome]) -> tuple[str, ...]:
    """One line of the table."""
    counted = Counter(outcome.reason for outcome in outcomes)
    verdicts = ", ".join(f"{reason} {times}" for reason, times in counted.most_common())
    wrong = sum(outcome.wrong_reason for outcome in outcomes)
    seconds = [
        outcome.seconds_to_detect if scenario.fails_while_serving else outcome.seconds_to_ready for outcome in outcomes
    ]
    known = [second for second in seconds if second is not None]
    timing = f"{median(known):.1f} (at most {max(known):.1f})" if known else ""
    return (
        scenario.name,
        " or ".join(scenario.reasons),
        str(len(outcomes)),
        verdicts,
        str(sum(outcome.false_ready for outcome in outcomes)),
        str(sum(outcome.false_not_ready for outcome in outcomes)),
        str(wrong),
        timing,
    )


def show(rows: Sequence[Sequence[str]]) -> None:
    table = Table(*HEADINGS, title="The gate's verdicts, by what the engine was")
    for cells in rows:
        table.add_row(*cells)
    Console(width=180).print(table)


def markdown(rows: Sequence[Sequence[str]]) -> str:
    lines = [HEADINGS, tuple("---" for _ in HEADINGS), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def summary(outcomes: Sequence[Outcome], clock: str) -> str:
    bad = [outcome for outcome in outcomes if not outcome.scenario.healthy]
    good = [outcome for outcome in outcomes if outcome.scenario.healthy]
    return (
        f"{len(outcomes)} runs by the {clock} clock on {datetime.now(UTC):%Y-%m-%d} "
        f"({os.cpu_count()} cores, Python {platform.python_version()}): "
        f"{sum(o.false_ready for o in bad)} false Ready of {len(bad)}, "
        f"{sum(o.false_not_ready for o in good)} false NotReady of {len(good)}, "
        f"{sum(o.wrong_reason for o in outcomes)} wrong reasons"
    )


if __name__ == "__main__":
    sys.exit(main())
