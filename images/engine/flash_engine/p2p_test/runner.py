"""Runs the variants one after the other: starts the two ranks of each, reads their progress, and kills them."""

import os
import select
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from flash_engine.p2p_test.outcome import StopReason, Timeouts, VariantResult, reason_to_stop, variant_result
from flash_engine.p2p_test.rank_process import RankProcess, RankState
from flash_engine.p2p_test.variants import WORLD, Variant, rank_environment

RANK_COMMAND = (sys.executable, "-m", "flash_engine.p2p_test.rank")

RESERVED_SHARE = 1 / 8
"""Share of the deadline reserved for each later variant, so that a variant that hangs cannot use it up."""

END_SHARE = 1 / 20
"""Share of the deadline reserved for killing the last ranks and writing the report."""

TICK_SECONDS = 0.1
KILL_SECONDS = 10.0
"""A process that is still alive this long after SIGKILL is stuck in the GPU driver."""
URGENT_KILL_SECONDS = 1.0
"""The same after a request to stop: the test itself is killed a moment later."""


@dataclass(frozen=True)
class P2pTestRunner:
    """Runs the test within `deadline_seconds`. `stop_requested` is polled many times a second."""

    variants: Sequence[Variant]
    timeouts: Timeouts
    deadline_seconds: float
    stop_requested: Callable[[], bool]
    rank_command: Sequence[str] = RANK_COMMAND

    def run(self) -> Iterator[VariantResult]:
        """Yield each result as soon as it is known."""
        end = time.monotonic() + self.deadline_seconds * (1 - END_SHARE)
        results: list[VariantResult] = []
        with tempfile.TemporaryDirectory(prefix="flash-p2p-test-", ignore_cleanup_errors=True) as folder:
            for number, variant in enumerate(self.variants):
                later = len(self.variants) - number - 1
                until = end - later * RESERVED_SHARE * self.deadline_seconds
                results.append(self._skipped(variant, results) or self._run_variant(variant, Path(folder), until))
                yield results[-1]

    def _skipped(self, variant: Variant, earlier: Sequence[VariantResult]) -> VariantResult | None:
        """A stuck process holds a GPU, so the result of any later variant would be meaningless."""
        if self.stop_requested():
            return VariantResult(variant.name, "inconclusive", "not run: asked to stop")
        stuck = [result.variant for result in earlier if result.stuck]
        if stuck:
            return VariantResult(variant.name, "inconclusive", f"not run: variant {stuck[0]} left a stuck process")
        return None

    def _run_variant(self, variant: Variant, folder: Path, until: float) -> VariantResult:
        rendezvous = folder / f"{variant.name}.rendezvous"
        commands = [
            (*self.rank_command, f"--variant={variant.name}", f"--rank={rank}", f"--rendezvous={rendezvous}")
            for rank in range(WORLD)
        ]
        environment = rank_environment(variant, os.environ, folder / "triton")
        return VariantRun(variant.name, self.timeouts, until, self.stop_requested).run(commands, environment)


class VariantRun:
    """One run of one variant. `until` is its deadline on the time.monotonic clock."""

    def __init__(self, variant: str, timeouts: Timeouts, until: float, stop_requested: Callable[[], bool]) -> None:
        self._variant = variant
        self._timeouts = timeouts
        self._until = until
        self._stop_requested = stop_requested
        self._ranks: list[RankProcess] = []

    def run(self, commands: Sequence[Sequence[str]], environment: Mapping[str, str]) -> VariantResult:
        """Run the commands. No process is left behind, except stuck ones, which the result lists."""
        try:
            for command in commands:
                self._ranks.append(RankProcess(command, environment))
            ranks, reason = self._watch(time.monotonic())
        except OSError as error:
            detail = f"could not start a rank: {error}"
            return VariantResult(self._variant, "inconclusive", detail, stuck=self._kill_all())
        except BaseException:
            self._kill_all()
            raise
        return variant_result(self._variant, ranks, reason, self._kill_all())

    def _watch(self, began: float) -> tuple[list[RankState], StopReason]:
        while True:
            self._wait_for_output()
            ranks = [rank.poll() for rank in self._ranks]
            reason = reason_to_stop(ranks, self._timeouts, began=began, until=self._until, now=time.monotonic())
            if self._stop_requested():
                reason = StopReason.REQUESTED
            if reason:
                return ranks, reason

    def _wait_for_output(self) -> None:
        pipes = [pipe for rank in self._ranks for pipe in rank.pipes]
        select.select(pipes, [], [], TICK_SECONDS)

    def _kill_all(self) -> tuple[int, ...]:
        """Kill all ranks, repeatedly because one may fork meanwhile. Returns the processes that could not be killed."""
        began = time.monotonic()
        while True:
            for rank in self._ranks:
                rank.kill()
            time.sleep(TICK_SECONDS / 10)
            survivors = tuple(pid for rank in self._ranks for pid in rank.survivors())
            timeout = URGENT_KILL_SECONDS if self._stop_requested() else KILL_SECONDS
            if not survivors or time.monotonic() - began >= timeout:
                break
        for rank in self._ranks:
            rank.close()
        return survivors
