"""The confusion matrix in short: each engine once, by the virtual clock, and a few times in the long tests.

`make bench-gate` is the longest one.
"""

import pytest

from engine_stub.virtual_time import run_in_virtual_time
from gate_matrix.run import run
from gate_matrix.scenarios import AT_START, HEALTHY, SCENARIOS, WHILE_SERVING, Scenario

RUNS = 3


def ids(scenario: Scenario) -> str:
    return scenario.name


@pytest.mark.parametrize("scenario", SCENARIOS, ids=ids)
def test_an_engine_gets_its_right_verdict(scenario: Scenario) -> None:
    assert faults(scenario, 100) == []


@pytest.mark.long
@pytest.mark.parametrize("scenario", SCENARIOS, ids=ids)
def test_an_engine_gets_its_right_verdict_each_time(scenario: Scenario) -> None:
    assert [fault for seed in range(101, 101 + RUNS) for fault in faults(scenario, seed)] == []


def faults(scenario: Scenario, seed: int) -> list[str]:
    """What is wrong with the verdicts of one run, with what was seen."""
    outcome = run_in_virtual_time(run(scenario, seed))
    found = {
        f"the last verdict is wrong: {outcome.messages}": outcome.reason not in scenario.reasons,
        f"accused on the way of what it did not do: {outcome.reasons}": outcome.wrong_reason,
        f"falsely Ready: {outcome.ready}": outcome.false_ready,
        f"falsely not Ready: {outcome.ready}": outcome.false_not_ready,
    }
    return [fault for fault, is_seen in found.items() if is_seen]


def test_the_matrix_has_enough_scenarios() -> None:
    assert len(HEALTHY) >= 4
    assert len(AT_START) + len(WHILE_SERVING) >= 16
    assert all(scenario.healthy for scenario in HEALTHY)
    assert not any(scenario.healthy for scenario in (*AT_START, *WHILE_SERVING))


def test_a_healthy_engine_is_ready_within_ten_seconds_at_the_seeds_pace() -> None:
    """By the virtual clock, which leaves out computing; docs/readiness.md has the figure by the real one."""
    (scenario,) = [s for s in HEALTHY if s.name == "at the seed's pace"]
    outcome = run_in_virtual_time(run(scenario, 1))
    assert outcome.seconds_to_ready is not None
    assert outcome.seconds_to_ready <= 10
