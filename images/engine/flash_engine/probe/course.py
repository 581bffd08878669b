"""The course of the probe: its arms one after the other, each with its share of the time."""

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from flash_engine.probe.arm_run import ArmRun
from flash_engine.probe.arms import WORLD, Arm, rank_environment
from flash_engine.probe.judgement import Patience
from flash_engine.probe.outcome import ArmResult

RANK_COMMAND = (sys.executable, "-m", "flash_engine.probe.rank")

LATER_SHARE = 1 / 8
"""Of the whole time, for each arm that is still to come: an arm that hangs must not leave the others without any."""

END_SHARE = 1 / 20
"""Of the whole time, for killing the last ranks and for the report."""


@dataclass(frozen=True)
class Course:
    """What is to be run, and for how long. `asked_to_stop` is looked at many times a second."""

    arms: Sequence[Arm]
    patience: Patience
    deadline_seconds: float
    asked_to_stop: Callable[[], bool]
    rank_command: Sequence[str] = RANK_COMMAND

    def run(self) -> Iterator[ArmResult]:
        """Each result as soon as it is known."""
        end = time.monotonic() + self.deadline_seconds * (1 - END_SHARE)
        results: list[ArmResult] = []
        with tempfile.TemporaryDirectory(prefix="flash-probe-", ignore_cleanup_errors=True) as folder:
            for number, arm in enumerate(self.arms):
                later = len(self.arms) - number - 1
                until = end - later * LATER_SHARE * self.deadline_seconds
                results.append(self._not_run(arm, results) or self._run_arm(arm, Path(folder), until))
                yield results[-1]

    def _not_run(self, arm: Arm, earlier: Sequence[ArmResult]) -> ArmResult | None:
        """A process that is stuck holds a GPU, and whatever came of another arm would say nothing."""
        if self.asked_to_stop():
            return ArmResult(arm.name, "inconclusive", "not run: asked to stop")
        stuck = [result.arm for result in earlier if result.stuck]
        return ArmResult(arm.name, "inconclusive", f"not run: arm {stuck[0]} left a stuck process") if stuck else None

    def _run_arm(self, arm: Arm, folder: Path, until: float) -> ArmResult:
        rendezvous = folder / f"{arm.name}.rendezvous"
        commands = [
            (*self.rank_command, f"--arm={arm.name}", f"--rank={rank}", f"--rendezvous={rendezvous}")
            for rank in range(WORLD)
        ]
        environment = rank_environment(arm, os.environ, folder / "triton")
        return ArmRun(arm.name, self.patience, until, self.asked_to_stop).run(commands, environment)
