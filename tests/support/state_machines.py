"""Runs Hypothesis state machines in two forms.

The short one plays the same examples in every run, in a few seconds. The long one plays other examples each time; a
failure prints its steps, and Hypothesis keeps them and plays them first in the next run.
"""

from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

EVERY_CHECK = list(HealthCheck)


def play_short(machine: type[RuleBasedStateMachine], examples: int, steps: int = 50) -> None:
    """The same examples in every run. A failing one is not made smaller: the long form does that, and takes minutes."""
    form = settings(
        derandomize=True,
        database=None,
        deadline=None,
        max_examples=examples,
        stateful_step_count=steps,
        phases=(Phase.explicit, Phase.generate),
        suppress_health_check=EVERY_CHECK,
    )
    run_state_machine_as_test(machine, settings=form)


def play_long(machine: type[RuleBasedStateMachine], examples: int, steps: int = 100) -> None:
    """Other examples each time."""
    form = settings(
        deadline=None,
        max_examples=examples,
        stateful_step_count=steps,
        suppress_health_check=EVERY_CHECK,
    )
    run_state_machine_as_test(machine, settings=form)
