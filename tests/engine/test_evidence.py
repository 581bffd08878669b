"""How an observation of the engine changes the evidence: when a trial is kept, and when it is dropped."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from flash_contracts.engine_record import EngineExit, EngineRecord
from flash_engine.gate.evidence import EngineHealth, Evidence, Trial

NOON = datetime(2026, 11, 24, 12, 0, 0, tzinfo=UTC)
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
    after = before.after_observation(record, health, NOON)

    assert after.healthy is healthy
    assert (after.trial is not None) is tried


def test_the_startup_time_counts_from_the_record() -> None:
    assert LOADING.after_observation(RUN, EngineHealth.BAD, NOON).starting_seconds == 100
    assert (
        LOADING.after_observation(replace(RUN, phase="WaitingForFlags"), EngineHealth.BAD, NOON).starting_seconds == 0
    )


def test_an_exit_is_reported_until_the_engine_is_healthy_again() -> None:
    restarted = SERVING.after_observation(ANOTHER_RUN, EngineHealth.BAD, NOON)
    assert restarted.ended == DIED

    well_again = restarted.after_observation(ANOTHER_RUN, EngineHealth.GOOD, NOON)
    assert well_again.ended is None

    unwell = well_again.after_observation(ANOTHER_RUN, EngineHealth.BAD, NOON)
    assert (unwell.ended, unwell.was_healthy) == (None, True)

    again = replace(DIED, at="2026-11-24T13:00:00Z")
    assert (
        unwell.after_observation(
            replace(ANOTHER_RUN, phase="Exited", pid=None, exit=again), EngineHealth.BAD, NOON
        ).ended
        == again
    )
