"""How an observation of the engine changes the evidence: when a trial is kept, and when it is dropped."""

from dataclasses import replace

import pytest

from flash_contracts.engine_record import EngineExit, EngineRecord
from flash_engine.gate.evidence import EngineHealth, Evidence, Trial

NOW = 5000.0
RUN = EngineRecord(phase="Starting", pid=7, started_at="2026-11-24T11:58:20Z", starts=1)
DIED = EngineExit(code=1, signal=None, at="2026-11-24T12:01:00Z", last_lines=("ValueError",))
ANOTHER_RUN = replace(RUN, started_at="2026-11-24T11:59:00Z", starts=2, exit=DIED)
SERVING = Evidence(RUN, healthy=True, was_healthy=True, trial=Trial())
LOADING = Evidence(RUN, healthy=False)

OBSERVATIONS = {
    "the same run answers: its trial is kept": (SERVING, RUN, EngineHealth.GOOD, True, True),
    "a busy engine answers late: its trial is kept": (SERVING, RUN, EngineHealth.SILENT, True, True),
    "it reports that it is unhealthy: the trial is dropped": (SERVING, RUN, EngineHealth.BAD, False, False),
    "it has restarted between two observations, with the same pid: the trial is dropped": (
        SERVING, ANOTHER_RUN, EngineHealth.GOOD, True, False),
    "it has restarted and is silent: nothing is known to be healthy": (
        SERVING, ANOTHER_RUN, EngineHealth.SILENT, False, False),
    "it has exited, whatever answers there": (
        SERVING, replace(RUN, phase="Exited", pid=None, exit=DIED), EngineHealth.GOOD, False, False),
    "silence of an engine that was never healthy": (LOADING, RUN, EngineHealth.SILENT, False, False),
    "it becomes healthy": (LOADING, RUN, EngineHealth.GOOD, True, False),
}  # fmt: skip


@pytest.mark.parametrize(
    ("before", "record", "health", "healthy", "tried"), OBSERVATIONS.values(), ids=OBSERVATIONS.keys()
)
def test_an_observation(
    before: Evidence,
    record: EngineRecord,
    health: EngineHealth,
    healthy: bool,  # noqa: FBT001
    tried: bool,  # noqa: FBT001
) -> None:
    after = before.after_observation(record, health, NOW)

    assert after.healthy is healthy
    assert (after.trial is not None) is tried


STARTS = {
    "is first seen": (None, 0.0),
    "was recorded before, by the clock that all containers share": (NOW - 100, 100.0),
    "was recorded before the machine was rebooted": (NOW + 90_000, 0.0),
    "was recorded before any clock began": (-5.0, 0.0),
}


@pytest.mark.parametrize(("recorded", "seconds"), STARTS.values(), ids=STARTS.keys())
def test_the_startup_time_counts_from_when_the_run(recorded: float | None, seconds: float) -> None:
    """Never from `started_at`: the wall clock is set while engines load."""
    run = replace(RUN, started_at="2001-01-01T00:00:00Z", started_monotonic=recorded)
    seen = Evidence(EngineRecord(), healthy=False).after_observation(run, EngineHealth.BAD, NOW)
    assert seen.starting_seconds == seconds
    assert seen.after_observation(run, EngineHealth.BAD, NOW + 7).starting_seconds == seconds + 7


def test_the_startup_time_begins_anew_with_each_run_and_ends_with_it() -> None:
    seen = Evidence(EngineRecord(), healthy=False).after_observation(RUN, EngineHealth.BAD, NOW)
    waiting = replace(RUN, phase="WaitingForFlags")
    assert seen.after_observation(waiting, EngineHealth.BAD, NOW + 50).starting_seconds == 0
    again = seen.after_observation(ANOTHER_RUN, EngineHealth.BAD, NOW + 50)
    assert again.after_observation(ANOTHER_RUN, EngineHealth.BAD, NOW + 60).starting_seconds == 10


def test_how_long_an_engine_gave_no_token_counts_from_the_first_such_trial() -> None:
    stalled = Trial(doubt="no token", stalled=True)
    first = SERVING.after_trial(stalled, NOW)
    later = first.after_observation(RUN, EngineHealth.GOOD, NOW + 4).after_trial(stalled, NOW + 9)
    assert (first.unanswered_seconds, later.unanswered_seconds) == (0.0, 9.0)
    assert later.after_trial(Trial(), NOW + 9).unanswered_since is None


def test_an_exit_is_reported_until_the_engine_is_healthy_again() -> None:
    restarted = SERVING.after_observation(ANOTHER_RUN, EngineHealth.BAD, NOW)
    assert restarted.ended == DIED

    well_again = restarted.after_observation(ANOTHER_RUN, EngineHealth.GOOD, NOW)
    assert well_again.ended is None

    unwell = well_again.after_observation(ANOTHER_RUN, EngineHealth.BAD, NOW)
    assert (unwell.ended, unwell.was_healthy) == (None, True)

    again = replace(DIED, at="2026-11-24T13:00:00Z")
    assert (
        unwell.after_observation(
            replace(ANOTHER_RUN, phase="Exited", pid=None, exit=again), EngineHealth.BAD, NOW
        ).ended
        == again
    )
