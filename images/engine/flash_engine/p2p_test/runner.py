"""The course of the probe: its arms one after the other, each with its share of the time."""

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from flash_engine.p2p_test.judgement import Patience
from flash_engine.p2p_test.outcome import VariantResult
from flash_engine.p2p_test.variant_run import VariantRun
from flash_engine.p2p_test.variants import WORLD, Variant, rank_environment

RANK_COMMAND = (sys.executable, "-m", "flash_engine.p2p_test.rank")

LATER_SHARE = 1 / 8
"""Of the whole time, for each arm that is still to come: an arm that hangs must not leave the others without any."""

END_SHARE = 1 / 20
"""Of the whole time, for killing the last ranks and for the report."""


@dataclass(frozen=True)
class Course:
    """What is to be run, and for how long. `asked_to_stop` is looked at many times a second."""

    variants: Sequence[Variant]
    patience: Patience
    deadline_seconds: float
    asked_to_stop: Callable[[], bool]
    rank_command: Sequence[str] = RANK_COMMAND

    def run(self) -> Iterator[VariantResult]:
        """Each result as soon as it is known."""
        end = time.monotonic() + self.deadline_seconds * (1 - END_SHARE)
        results: list[VariantResult] = []
        with tempfile.TemporaryDirectory(prefix="flash-probe-", ignore_cleanup_errors=True) as folder:
            for number, variant in enumerate(self.variants):
                later = len(self.variants) - number - 1
                until = end - later * LATER_SHARE * self.deadline_seconds
                results.append(self._not_run(variant, results) or self._run_arm(variant, Path(folder), until))
                yield results[-1]

    def _not_run(self, variant: Variant, earlier: Sequence[VariantResult]) -> VariantResult | None:
        """A process that is stuck holds a GPU, and whatever came of another arm would say nothing."""
        if self.asked_to_stop():
            return VariantResult(variant.name, "inconclusive", "not run: asked to stop")
        stuck = [result.variant for result in earlier if result.stuck]
        return (
            VariantResult(variant.name, "inconclusive", f"not run: arm {stuck[0]} left a stuck process")
            if stuck
            else None
        )

    def _run_arm(self, variant: Variant, folder: Path, until: float) -> VariantResult:
        rendezvous = folder / f"{variant.name}.rendezvous"
        commands = [
            (*self.rank_command, f"--arm={variant.name}", f"--rank={rank}", f"--rendezvous={rendezvous}")
            for rank in range(WORLD)
        ]
        environment = rank_environment(variant, os.environ, folder / "triton")
        return VariantRun(variant.name, self.patience, until, self.asked_to_stop).run(commands, environment)
