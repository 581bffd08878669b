"""What a look at the engine makes of the evidence: when a verdict stays, and when it is void."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from flash_contracts.engine_record import EngineRecord, Exit
from flash_engine.gate.evidence import Evidence, Health, Trial

NOON = datetime(2026, 11, 24, 12, 0, 0, tzinfo=UTC)
RUN = EngineRecord(phase="Starting", pid=7, started_at="2026-11-24T11:58:20Z", starts=1)
DIED = Exit(code=1, signal=None, at="2026-11-24T12:01:00Z", last_lines=("ValueError",))
ANOTHER_RUN = replace(RUN, started_at="2026-11-24T11:59:00Z", starts=2, exit=DIED)
SERVING = Evidence(RUN, healthy=True, was_healthy=True, trial=Trial())
LOADING = Evidence(RUN, healthy=False)

LOOKS = {
    "the same run answers: its trial stands": (SERVING, RUN, Health.GOOD, True, True),
    "a busy engine answers late: its trial stands": (SERVING, RUN, Health.SILENT, True, True),
    "it says that it is unwell: the trial is void": (SERVING, RUN, Health.BAD, False, False),
    "it has restarted between two looks, with the same pid: the trial is void": (
        SERVING, ANOTHER_RUN, Health.GOOD, True, False),
    "it has restarted and is silent: nothing is known to be healthy": (
        SERVING, ANOTHER_RUN, Health.SILENT, False, False),
    "it has ended, whoever answers there": (
        SERVING, replace(RUN, phase="Exited", pid=None, exit=DIED), Health.GOOD, False, False),
    "silence of an engine that was never healthy": (LOADING, RUN, Health.SILENT, False, False),
    "it becomes healthy": (LOADING, RUN, Health.GOOD, True, False),
}  # fmt: skip


@pytest.mark.parametrize(("before", "record", "health", "healthy", "tried"), LOOKS.values(), ids=LOOKS.keys())
def test_a_look(before: Evidence, record: EngineRecord, health: Health, healthy: bool, tried: bool) -> None:  # noqa: FBT001
    after = before.after_look(record, health, NOON)

    assert after.healthy is healthy
    assert (after.trial is not None) is tried


def test_the_time_of_a_start_counts_from_the_record() -> None:
    assert LOADING.after_look(RUN, Health.BAD, NOON).starting_seconds == 100
    assert LOADING.after_look(replace(RUN, phase="WaitingForFlags"), Health.BAD, NOON).starting_seconds == 0


def test_an_exit_is_news_until_the_engine_has_been_healthy_after_it() -> None:
    restarted = SERVING.after_look(ANOTHER_RUN, Health.BAD, NOON)
    assert restarted.ended == DIED

    well_again = restarted.after_look(ANOTHER_RUN, Health.GOOD, NOON)
    assert well_again.ended is None

    unwell = well_again.after_look(ANOTHER_RUN, Health.BAD, NOON)
    assert (unwell.ended, unwell.was_healthy) == (None, True)

    again = replace(DIED, at="2026-11-24T13:00:00Z")
    assert (
        unwell.after_look(replace(ANOTHER_RUN, phase="Exited", pid=None, exit=again), Health.BAD, NOON).ended == again
    )
