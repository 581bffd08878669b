"""The gate's state machine, without an engine: when a trial is due, how phases change, and which actions follow."""

from dataclasses import replace
from typing import Any

import pytest

from flash_contracts.engine_pod import FaultReport
from flash_contracts.engine_record import EngineExit, EngineRecord
from flash_contracts.gate_config import GateConfig, PodFloor
from flash_contracts.gate_result import Degradation
from flash_contracts.trial_record import Stall
from flash_engine.engine_metrics import EngineCounters
from flash_engine.gate.actions import (
    Action,
    AskEngine,
    LogTrial,
    ReadCounters,
    ReadStoredTrial,
    ReportFault,
    RunTrial,
    StoreTrial,
    WithdrawFault,
)
from flash_engine.gate.answer_checks import TextKind
from flash_engine.gate.evidence import EngineHealth, Evidence, GoldenAnswers, Trial
from flash_engine.gate.gate_state import (
    FLOOR_SECONDS,
    Attempt,
    GateState,
    Instant,
    Phase,
    TrialKind,
    admission_is_due,
    recheck_is_due,
)
from flash_engine.gate.judged_state import COMPUTING_SECONDS
from flash_engine.gate.measurement import Measurement
from flash_engine.gate.observations import (
    ConfigRead,
    ConfigRejected,
    EngineAsked,
    EngineObserved,
    FaultReported,
    FaultReportWithdrawn,
    StoredTrialRead,
    TrialFinished,
)
from flash_engine.gate.serving_health import CounterReading, Reply, ServingHealth
from flash_engine.gate.serving_monitor import CountersObserved, ServingMonitor
from flash_engine.gate.start_checks import LOOK_SECONDS
from flash_engine.gate.state_machine import step
from flash_engine.gate.trial_store import StoredTrial

STARTED = "2026-11-24T11:58:20Z"
RUN = EngineRecord(phase="Starting", pid=7, started_at=STARTED, starts=1)
EXITED = replace(RUN, phase="Exited", pid=None, exit=EngineExit(code=1, at=STARTED, last_lines=("ValueError: no",)))
RESTARTED = replace(RUN, pid=8, started_at="2026-11-24T12:30:00Z", starts=2)
CONFIG = GateConfig.model_validate(
    {
        "model": "m",
        "golden": {"prompt": "17 + 25?", "expect": "42"},
        "decode": {"minTokensPerSecond": 60, "prompt": "p"},
        "retrySeconds": 30,
        "serving": {"windows": 3, "watchSeconds": 5, "stallSeconds": 60, "onDegraded": "Quarantine"},
    }
)
FIGURES = Measurement(
    decode_tokens_per_second=85.0, first_token_millis=120.0, tokens=384, drafted=200, accepted=170,
    duration_millis=5000, counted_tokens=384, foreign_tokens=0, foreign_requests=0,
)  # fmt: skip
RIGHT = GoldenAnswers(("42", "42"))
GOOD = Trial(RIGHT, FIGURES)
RIGHT_SO_FAR = {TextKind.GOLDEN: CONFIG.golden.identity}
SLOW = Trial(RIGHT, replace(FIGURES, decode_tokens_per_second=40.0))
SLOWER = Trial(RIGHT, replace(FIGURES, decode_tokens_per_second=80.0))
FAST = Trial(RIGHT, replace(FIGURES, decode_tokens_per_second=95.0))
WRONG = Trial(GoldenAnswers(("41", "41")))
UNSURE = Trial(doubt="the stream was cut")
STALLED = Trial(doubt="no token", stalled=True)
IDLE = EngineCounters(generated=1000, running=0, drafted=500, accepted=450)
BUSY = replace(IDLE, running=2, waiting=1)
NOW = 1000.0


def at(seconds: float = NOW) -> Instant:
    return Instant(seconds, f"at {seconds:g}")


def observed(record: EngineRecord = RUN, health: EngineHealth = EngineHealth.GOOD, **changes: Any) -> EngineObserved:
    return EngineObserved(health, record, changes.pop("seconds", NOW), **changes)


def changed(config: GateConfig, **parts: Any) -> GateConfig:
    """The configuration with changes; a dict changes the fields of a part."""
    updates = {
        name: getattr(config, name).model_copy(update=value) if isinstance(value, dict) else value
        for name, value in parts.items()
    }
    return config.model_copy(update=updates)


def configured(config: GateConfig = CONFIG) -> GateState:
    """A gate that has read its configuration and observed nothing else."""
    return step(GateState(), ConfigRead(config), at())[0]


def tried(trial: Trial, config: GateConfig = CONFIG, kind: TrialKind = TrialKind.ADMISSION) -> GateState:
    """A healthy engine whose first trial ended just now."""
    state = step(configured(config), observed(), at())[0]
    return finish(state, trial, config, kind)[0]


def finish(
    state: GateState,
    trial: Trial,
    config: GateConfig = CONFIG,
    kind: TrialKind = TrialKind.ADMISSION,
    engine: EngineObserved | None = None,
    seconds: float = NOW,
) -> tuple[GateState, tuple[Action, ...]]:
    return step(state, TrialFinished(trial, kind, config, at(seconds), engine or observed()), at(seconds))


def serving(**health: Any) -> GateState:
    """An engine that passed, and what its counters have shown; they were read just now."""
    return replace(tried(GOOD), serving=ServingMonitor(ServingHealth(**health), _asked_at=NOW))


def kinds(actions: tuple[Action, ...]) -> list[type[Action]]:
    return [type(action) for action in actions]


# When an admission trial is due: GateState, configuration, seconds since the last trial, due.
OTHER_PROMPT = changed(CONFIG, decode={"prompt": "another"})
OTHER_FLOOR = changed(CONFIG, decode={"min_tokens_per_second": 84})
LEARNS = changed(CONFIG, floor_from="Learned")
IN_ROLLOUT = changed(CONFIG, measure_again_below=90.0)
"""FIGURES pass, and are slower than the rollout allows."""
UNTRIED = replace(configured(), evidence=Evidence(RUN, healthy=True, was_healthy=True), healthy_since=NOW)
EXPECTATION_CORRECTED = step(
    step(tried(WRONG), ConfigRead(changed(CONFIG, golden={"expect": "41"})), at())[0], observed(), at()
)[0]
TRIED_WITH_OTHER_PROMPT_IN_VAIN = finish(tried(GOOD), UNSURE, OTHER_PROMPT)[0]

DUE: dict[str, tuple[GateState, GateConfig, float, bool]] = {
    "not healthy": (replace(UNTRIED, evidence=Evidence(RUN, healthy=False)), CONFIG, 0, False),
    "draining": (replace(UNTRIED, draining=True), CONFIG, 0, False),
    "the learned floor is awaited": (UNTRIED, LEARNS, 0, False),
    "the learned floor was awaited for long enough": (UNTRIED, LEARNS, FLOOR_SECONDS, True),
    "the learned floor is known": (
        UNTRIED, changed(LEARNS, learned=PodFloor(min_tokens_per_second=70)), 0, True),
    "never tried": (UNTRIED, CONFIG, 0, True),
    "passed": (tried(GOOD), CONFIG, 3600, False),
    "passed, with another prompt since": (tried(GOOD), OTHER_PROMPT, 0, True),
    "passed, with another floor since": (tried(GOOD), OTHER_FLOOR, 3600, False),
    "tried with another prompt in vain, during the pause": (TRIED_WITH_OTHER_PROMPT_IN_VAIN, OTHER_PROMPT, 29, False),
    "tried with another prompt in vain, after the pause": (TRIED_WITH_OTHER_PROMPT_IN_VAIN, OTHER_PROMPT, 30, True),
    "failed, during the pause": (tried(SLOW), CONFIG, 29, False),
    "failed, after the pause": (tried(SLOW), CONFIG, 30, True),
    "inconclusive, during the pause": (tried(UNSURE), CONFIG, 29, False),
    "inconclusive, after the pause": (tried(UNSURE), CONFIG, 30, True),
    "untimed because of an expectation that was corrected": (
        EXPECTATION_CORRECTED, changed(CONFIG, golden={"expect": "41"}), 0, True),
    "passed, slower than a rollout may be, during the pause": (tried(GOOD, IN_ROLLOUT), IN_ROLLOUT, 29, False),
    "passed, slower than a rollout may be, after the pause": (tried(GOOD, IN_ROLLOUT), IN_ROLLOUT, 30, True),
    "degraded": (replace(tried(GOOD), degraded=Degradation("slow", "then", measured=False)), CONFIG, 3600, False),
}  # fmt: skip


@pytest.mark.parametrize(("state", "config", "seconds", "due"), DUE.values(), ids=DUE.keys())
def test_when_an_admission_trial_is_due(state: GateState, config: GateConfig, seconds: float, due: bool) -> None:  # noqa: FBT001
    assert admission_is_due(state, config, NOW + seconds) is due


DEGRADED = Degradation("slow", "then", measured=False)
RECHECK: dict[str, tuple[GateState, float, bool]] = {
    "looks good": (serving(idle=True), 3599, False),
    "looks good, an hour after its last trial": (serving(idle=True), 3600, True),
    "looks good and is busy": (serving(), 36000, False),
    "looks bad and is busy": (serving(bad=3), 3600, False),
    "looks bad and is idle, during the pause": (serving(bad=3, idle=True), 29, False),
    "looks bad and is idle, after the pause": (serving(bad=3, idle=True), 30, True),
    "has a draft that looks dead": (serving(dead=1, idle=True), 30, True),
    "looks bad too rarely": (serving(bad=2, idle=True), 30, False),
    "is degraded and busy": (replace(serving(), degraded=DEGRADED), 30, False),
    "is degraded and idle, during the pause": (replace(serving(idle=True), degraded=DEGRADED), 29, False),
    "is degraded and idle, after the pause": (replace(serving(idle=True), degraded=DEGRADED), 30, True),
    "is draining": (replace(serving(bad=3, idle=True), draining=True), 30, False),
}


@pytest.mark.parametrize(("state", "seconds", "due"), RECHECK.values(), ids=RECHECK.keys())
def test_when_a_recheck_is_due_of_an_engine_that(state: GateState, seconds: float, due: bool) -> None:  # noqa: FBT001
    assert recheck_is_due(state, CONFIG, NOW + seconds) is due


def degraded_by_traffic() -> GateState:
    return step(serving(bad=12, message="slow traffic"), observed(), at())[0]


PHASES: dict[str, tuple[GateState, Phase, bool]] = {
    "has just started": (GateState(), Phase.WAITING, False),
    "has no valid configuration": (
        step(step(GateState(), ConfigRejected("bad"), at())[0], observed(), at())[0], Phase.WAITING, False),
    "waits for the engine": (step(configured(), observed(health=EngineHealth.BAD), at())[0], Phase.WAITING, False),
    "measures": (step(configured(LEARNS), observed(), at())[0], Phase.MEASURING, False),
    "saw the engine pass, slower than a rollout may be": (tried(GOOD, IN_ROLLOUT), Phase.MEASURING, False),
    "saw the engine fail": (tried(SLOW), Phase.FAILED, False),
    "could not measure": (tried(UNSURE), Phase.FAILED, False),
    "saw the engine pass": (tried(GOOD), Phase.PASSED, True),
    "sees slow traffic": (degraded_by_traffic(), Phase.DEGRADED, True),
    "sees slow traffic, and its quarantine is granted": (
        step(degraded_by_traffic(), observed(granted_quarantine=at().wall), at())[0], Phase.DEGRADED, False),
    "sees slow traffic, and an earlier quarantine is granted": (
        step(degraded_by_traffic(), observed(granted_quarantine="earlier"), at())[0], Phase.DEGRADED, True),
    "sees requests without progress": (
        step(serving(still_seconds=60.0, reply=Reply.NONE), observed(), at())[0], Phase.HUNG, False),
    "is on its way out": (step(serving(), observed(draining=True), at())[0], Phase.DRAINING, False),
    "sees an exit after the engine passed": (step(serving(), observed(EXITED), at())[0], Phase.WAITING, False),
}  # fmt: skip


@pytest.mark.parametrize(("state", "phase", "ready"), PHASES.values(), ids=PHASES.keys())
def test_the_phase_and_readiness_of_a_gate_that(state: GateState, phase: Phase, ready: bool) -> None:  # noqa: FBT001
    if state.phase is Phase.MEASURING and state.evidence.trial is None:
        state = step(state, StoredTrialRead(LEARNS), at())[0]
    assert (state.phase, state.ready) == (phase, ready)


def test_the_stored_trial_is_read_before_a_healthy_engine_is_tried() -> None:
    state, actions = step(configured(), observed(), at())
    assert actions == (ReadStoredTrial(CONFIG),)

    state, actions = step(state, StoredTrialRead(CONFIG), at())
    assert actions == (RunTrial(TrialKind.ADMISSION, CONFIG),)

    state, actions = finish(state, GOOD, seconds=NOW + 5)
    assert kinds(actions) == [LogTrial, WithdrawFault, StoreTrial]
    assert (state.attempts, state.checked_at, state.gate_millis) == (1, "at 1005", 5000)


def test_a_stored_trial_makes_a_restarted_gate_ready_without_a_trial() -> None:
    state = step(configured(), observed(), at())[0]
    state, actions = step(state, StoredTrialRead(CONFIG, StoredTrial(GOOD, RIGHT_SO_FAR, DEGRADED)), at())

    assert (state.phase, state.ready, state.attempts) == (Phase.DEGRADED, True, 0)
    assert kinds(actions) == [ReadCounters]


def test_a_slower_engine_is_measured_twice_before_a_rollout_is_judged() -> None:
    first = tried(GOOD, IN_ROLLOUT)
    assert (first.verdict.reason, first.verdict.message) == (
        "EngineStarting",
        "decode 85.0 tok/s, and below 90.0 the rollout is rolled back: measuring again in 30 s",
    )

    unsure = finish(first, UNSURE, IN_ROLLOUT)[0]
    second, actions = finish(unsure, SLOWER, IN_ROLLOUT)

    assert (unsure.verdict.reason, second.verdict.reason, second.attempts) == ("Inconclusive", "Passed", 3)
    assert second.evidence.measurement == SLOWER.measurement
    assert StoreTrial in kinds(actions)


def test_an_engine_that_was_slower_in_one_measurement_passes_with_the_other() -> None:
    state = finish(tried(SLOWER, IN_ROLLOUT), FAST, IN_ROLLOUT)[0]
    assert (state.verdict.reason, state.evidence.measurement) == ("Passed", FAST.measurement)


def test_a_fast_engine_is_measured_once_in_a_rollout() -> None:
    assert tried(FAST, IN_ROLLOUT).phase is Phase.PASSED


def test_what_a_rollout_may_not_be_slower_than_is_of_no_matter_to_an_engine_that_serves() -> None:
    state = step(tried(GOOD), ConfigRead(IN_ROLLOUT), at())[0]
    assert step(state, observed(), at())[0].phase is Phase.PASSED

    fast = replace(tried(FAST, IN_ROLLOUT), serving=ServingMonitor(ServingHealth(idle=True), _asked_at=NOW))
    rechecked = finish(fast, SLOWER, IN_ROLLOUT, TrialKind.RECHECK)[0]
    assert (rechecked.phase, rechecked.degraded) == (Phase.PASSED, None)


def test_a_serving_engine_that_is_slower_in_a_recheck_keeps_the_figures_of_its_admission() -> None:
    idle = ServingMonitor(ServingHealth(idle=True), _asked_at=NOW)
    state = finish(replace(tried(FAST, IN_ROLLOUT), serving=idle), SLOWER, IN_ROLLOUT, TrialKind.RECHECK)[0]
    assert (state.phase, state.evidence.measurement) == (Phase.PASSED, FAST.measurement)

    freely = finish(replace(tried(FAST), serving=idle), SLOWER, kind=TrialKind.RECHECK)[0]
    assert freely.evidence.measurement == SLOWER.measurement, "without a rollout it is the new figure that counts"


FIRST: dict[str, tuple[Trial, GateConfig]] = {
    "disturbed by other clients": (
        Trial(RIGHT, replace(FIGURES, decode_tokens_per_second=80, foreign_tokens=9)),
        CONFIG,
    ),
    "fast, with a late first token": (FAST, changed(CONFIG, max_first_token_millis=100.0)),
}


@pytest.mark.parametrize(("first", "config"), FIRST.values(), ids=FIRST.keys())
def test_a_first_measurement_counts_only_if_it_was_slow_and_sound(first: Trial, config: GateConfig) -> None:
    limited = changed(config, measure_again_below=90.0)
    quick = replace(FIGURES, decode_tokens_per_second=80.0, first_token_millis=50.0)
    once = finish(tried(first, limited), Trial(RIGHT, quick), limited)[0]
    twice = finish(once, Trial(RIGHT, quick), limited)[0]
    assert (once.phase, twice.phase) == (Phase.MEASURING, Phase.PASSED)


def test_a_restarted_gate_does_not_measure_a_slower_engine_again() -> None:
    state = step(configured(IN_ROLLOUT), observed(), at())[0]
    state, actions = step(state, StoredTrialRead(IN_ROLLOUT, StoredTrial(GOOD, RIGHT_SO_FAR)), at())
    assert (state.phase, kinds(actions)) == (Phase.PASSED, [ReadCounters])


def test_a_restarted_engine_is_measured_twice_again() -> None:
    served = finish(tried(GOOD, IN_ROLLOUT), GOOD, IN_ROLLOUT)[0]
    restarted = finish(step(served, observed(RESTARTED), at())[0], GOOD, IN_ROLLOUT, engine=observed(RESTARTED))[0]
    assert (served.phase, restarted.phase) == (Phase.PASSED, Phase.MEASURING)


def test_a_new_run_starts_from_nothing() -> None:
    before = degraded_by_traffic()
    state, actions = step(before, observed(RESTARTED), at())

    assert (state.phase, state.degraded, state.serving) == (Phase.MEASURING, None, ServingMonitor())
    assert actions == (RunTrial(TrialKind.ADMISSION, CONFIG),)
    assert (state.launch_config, state.trial_config, state.attempt) == (None, None, None)


def test_an_engine_that_died_of_its_trial_has_exited() -> None:
    state = step(configured(), observed(), at())[0]
    state, actions = finish(state, UNSURE, engine=observed(EXITED))
    assert (state.verdict.reason, state.phase) == ("EngineExited", Phase.WAITING)
    assert kinds(actions) == [LogTrial]


def test_an_inconclusive_trial_keeps_the_verdict_of_an_engine_that_passed() -> None:
    state, actions = finish(tried(GOOD), UNSURE, OTHER_PROMPT)
    assert (state.phase, state.evidence.trial) == (Phase.PASSED, GOOD)
    assert actions[0] == LogTrial(UNSURE, 2, keeps_earlier_verdict=True)


def test_an_inconclusive_trial_does_not_end_a_hang() -> None:
    state, _ = finish(tried(STALLED), UNSURE, engine=observed(seconds=NOW + LOOK_SECONDS), seconds=NOW + LOOK_SECONDS)
    assert state.verdict.reason == "StartupHang"


COMPUTES = replace(RUN, computing="ptxas compiles")


def after_look(state: GateState, record: EngineRecord = RUN, seconds: float = LOOK_SECONDS) -> GateState:
    """The engine is observed again some seconds after the trial."""
    return step(state, observed(record, seconds=NOW + seconds), at(NOW + seconds))[0]


def test_an_engine_without_a_token_hangs_only_after_the_launcher_has_checked_it() -> None:
    stalled = tried(STALLED)
    assert (stalled.verdict.reason, stalled.ready) == ("Inconclusive", False)
    assert after_look(stalled, seconds=LOOK_SECONDS - 1).verdict.reason == "Inconclusive"
    assert after_look(stalled).verdict.reason == "StartupHang"


def test_an_engine_that_computes_does_not_hang_and_its_fault_report_is_withdrawn() -> None:
    stalled = step(tried(STALLED), FaultReported(), at())[0]
    state, actions = step(stalled, observed(COMPUTES, seconds=NOW + 1), at(NOW + 1))
    assert actions == (WithdrawFault(),)
    state = step(state, FaultReportWithdrawn(), at(NOW + 1))[0]
    assert "ptxas compiles" in state.verdict.message

    state = after_look(state, seconds=25)
    assert state.verdict.reason == "Inconclusive", "the launcher no longer looks, and the next trial decides"
    state, actions = finish(state, STALLED, seconds=NOW + 60)
    assert ReportFault in kinds(actions), "it is asked to look again"


def test_an_engine_that_computes_longer_than_a_start_may_take_hangs() -> None:
    config = changed(CONFIG, startup_timeout_seconds=5, startup_budget=None)
    late = step(tried(STALLED, config), observed(COMPUTES, seconds=NOW + 20), at(NOW + 20))[0]
    assert late.verdict.reason == "StartupHang"


@pytest.mark.parametrize(("trial", "signature"), [(WRONG, "S4"), (STALLED, "S3")], ids=["wrong answers", "a hang"])
def test_a_fault_is_reported_once_per_run(trial: Trial, signature: str) -> None:
    state = step(configured(), observed(), at())[0]
    state, actions = finish(state, trial)
    (report,) = [action.report for action in actions if isinstance(action, ReportFault)]
    assert (report.signature, report.run) == (signature, RUN.run)

    _, again = finish(state, trial)
    assert ReportFault in kinds(again), "it could not be written"

    state = step(state, FaultReported(), at())[0]
    state, again = finish(state, trial)
    assert ReportFault not in kinds(again)

    _, another_run = finish(state, trial, engine=observed(RESTARTED))
    assert ReportFault not in kinds(another_run), "the trial was of the earlier run"


def test_a_withdrawn_fault_may_be_reported_again() -> None:
    state = step(tried(WRONG), FaultReported(), at())[0]
    state, actions = finish(state, replace(GOOD, measurement=SLOW.measurement))
    assert WithdrawFault() in actions
    state = step(state, FaultReportWithdrawn(), at())[0]
    _, actions = finish(state, WRONG)
    assert ReportFault in kinds(actions)


def test_another_expected_answer_is_no_fault_of_an_engine_that_was_right() -> None:
    config = changed(CONFIG, golden={"expect": "forty-two"})
    state, actions = finish(step(tried(GOOD), ConfigRead(config), at())[0], GOOD, config)
    assert state.verdict.reason == "WrongOutput"
    assert ReportFault not in kinds(actions)


def test_counters_are_read_at_their_interval() -> None:
    assert kinds(step(serving(), observed(), at(NOW + 4.9))[1]) == []
    assert kinds(step(serving(), observed(), at(NOW + 5))[1]) == [ReadCounters]


def test_a_suspected_engine_is_rechecked_once_it_is_idle() -> None:
    suspected = serving(bad=3)
    suspected = step(suspected, CountersObserved(NOW + 30, IDLE), at(NOW + 30))[0]
    assert suspected.phase is Phase.PASSED
    _, actions = step(suspected, CountersObserved(NOW + 35, IDLE), at(NOW + 35))
    assert actions == (RunTrial(TrialKind.RECHECK, CONFIG),)


RECHECKED: dict[str, tuple[Trial, Phase, bool]] = {
    "passes": (GOOD, Phase.PASSED, True),
    "is slow": (SLOW, Phase.DEGRADED, True),
    "answers wrongly": (WRONG, Phase.FAILED, False),
    "gives no token": (STALLED, Phase.FAILED, False),
    "cannot be judged": (UNSURE, Phase.PASSED, True),
}


@pytest.mark.parametrize(("trial", "phase", "ready"), RECHECKED.values(), ids=RECHECKED.keys())
def test_a_rechecked_engine_that(trial: Trial, phase: Phase, ready: bool) -> None:  # noqa: FBT001
    state, _ = finish(serving(bad=3, idle=True), trial, kind=TrialKind.RECHECK)
    assert (state.phase, state.ready) == (phase, ready)
    assert (state.degraded is not None and state.degraded.measured) is (phase is Phase.DEGRADED)


def test_traffic_alone_degrades_and_clears_but_a_measured_degradation_needs_a_measurement() -> None:
    degraded = degraded_by_traffic()
    assert degraded.degraded == Degradation("slow traffic", at().wall, measured=False)
    recovered = replace(degraded, serving=ServingMonitor(ServingHealth(good=3), _asked_at=NOW))
    assert step(recovered, observed(), at())[0].phase is Phase.PASSED

    measured = replace(recovered, degraded=Degradation("slow", at().wall, measured=True))
    assert step(measured, observed(), at())[0].phase is Phase.DEGRADED


def test_each_change_of_the_degradation_is_stored() -> None:
    state, actions = step(serving(bad=12, message="slow"), observed(), at())
    assert actions == (StoreTrial(StoredTrial(GOOD, RIGHT_SO_FAR, state.degraded), RUN, CONFIG),)
    assert step(state, observed(), at())[1] == ()


def test_an_engine_without_progress_is_asked_once_before_anything_is_ended() -> None:
    state, (action,) = step(serving(still_seconds=30.0), observed(), at())
    assert action == AskEngine(CONFIG)
    waiting, actions = step(state, observed(seconds=NOW + 1), at(NOW + 1))
    assert (waiting.ready, actions) == (True, ())

    answered, _ = step(state, EngineAsked(Reply.ANSWERED, RUN.run), at())
    assert (answered.serving_health.still_seconds, answered.phase) == (0.0, Phase.PASSED)
    of_another_run, _ = step(state, EngineAsked(Reply.NONE, RESTARTED.run), at())
    assert of_another_run.serving.asking


def test_requests_that_are_gone_make_an_engine_neither_busy_nor_hung() -> None:
    """Its gauges stay up after the requests were aborted, and it gave a token: it is idle, and can be measured."""
    gauges = replace(IDLE, running=106, waiting=15)
    stuck = replace(serving(still_seconds=30.0), serving=ServingMonitor(
        ServingHealth(still_seconds=30.0), asking=True, last=CounterReading(NOW, gauges), _asked_at=NOW))  # fmt: skip
    state, _ = step(stuck, EngineAsked(Reply.ANSWERED, RUN.run), at())
    for seconds in (5, 10, 60, 120):
        state = step(state, CountersObserved(NOW + seconds, gauges), at(NOW + seconds))[0]
    assert (state.serving_health.idle, state.hung) == (True, False)


def test_requests_that_continue_after_a_long_step_are_not_left_out() -> None:
    """They waited for a kernel to be compiled, as the gate's own request did. Later they may hang."""
    monitor = ServingMonitor(ServingHealth(still_seconds=30.0), asking=True, last=CounterReading(NOW, BUSY))
    monitor = monitor.after_reply(Reply.ANSWERED)
    for seconds in (5, 10, 40):
        monitor = monitor.after(CountersObserved(NOW + seconds, replace(BUSY, generated=1040)), CONFIG)
    assert monitor.must_ask(CONFIG)


def test_corrected_gauges_count_again() -> None:
    """vLLM sets them with its next step. What is on the engine then may hang as well."""
    wrong, right = replace(IDLE, running=106, waiting=15), replace(IDLE, running=2)
    monitor = ServingMonitor(ServingHealth(still_seconds=30.0), asking=True, last=CounterReading(NOW, wrong))
    monitor = monitor.after_reply(Reply.ANSWERED).after(
        CountersObserved(NOW + 5, replace(wrong, generated=1001)), CONFIG
    )
    for seconds in (10, 15, 45):
        monitor = monitor.after(CountersObserved(NOW + seconds, replace(right, generated=1001)), CONFIG)
    assert monitor.must_ask(CONFIG)


def test_requests_that_wait_for_room_that_never_comes_are_a_stall() -> None:
    waiting = EngineCounters.parse(
        'vllm:num_requests_running{engine="0"} 0\nvllm:num_requests_waiting{engine="0"} 6\n'
        'vllm:num_requests_waiting_by_reason{engine="0",reason="capacity"} 6\nvllm:kv_cache_usage_perc{engine="0"} 0\n'
        'vllm:generation_tokens_total{engine="0"} 5000\n'
    )
    monitor = ServingMonitor().after(CountersObserved(0.0, waiting), CONFIG)
    monitor = monitor.after(CountersObserved(30.0, waiting), CONFIG)
    assert monitor.must_ask(CONFIG)
    monitor = replace(monitor, asking=True).after_reply(Reply.NONE).after(CountersObserved(60.0, waiting), CONFIG)
    assert monitor.health.hangs(CONFIG)


def test_a_draining_engine_is_not_asked() -> None:
    state, actions = step(serving(still_seconds=30.0), observed(draining=True), at())
    assert (state.serving.asking, actions) == (False, ())


def test_a_serving_engine_that_computes_is_not_ready_and_not_restarted() -> None:
    hung = serving(still_seconds=60.0, reply=Reply.NONE)
    state = step(hung, observed(COMPUTES), at())[0]
    assert (state.ready, state.restart) == (False, False)
    for_ever = serving(still_seconds=COMPUTING_SECONDS + 1, reply=Reply.NONE)
    assert step(for_ever, observed(COMPUTES), at())[0].restart


def test_the_report_of_a_hang_is_withdrawn_once_the_engine_makes_progress() -> None:
    """The launcher would end an engine that is idle, and looks as it does in a hang."""
    state = step(step(serving(still_seconds=60.0, reply=Reply.NONE), observed(), at())[0], FaultReported(), at())[0]
    moved = replace(state, serving=replace(state.serving, health=ServingHealth()))
    state, actions = step(moved, observed(), at())
    assert (state.ready, kinds(actions)) == (True, [StoreTrial, WithdrawFault])


def test_a_restarted_gate_remembers_a_hang_until_the_engine_makes_progress() -> None:
    health = ServingHealth(still_seconds=60.0, reply=Reply.NONE)
    stuck = replace(serving(), serving=ServingMonitor(health, last=CounterReading(NOW, BUSY), _asked_at=NOW))
    _, actions = step(stuck, observed(), at())
    (stored,) = [action.stored for action in actions if isinstance(action, StoreTrial)]
    assert stored.stall == Stall(60.0, 1000, 3, None, None)

    again = step(configured(), observed(), at())[0]
    again = step(again, StoredTrialRead(CONFIG, stored), at())[0]
    assert (again.phase, again.ready, again.restart) == (Phase.HUNG, False, True)
    still = step(again, CountersObserved(NOW + 5, BUSY), at(NOW + 5))[0]
    assert (still.phase, still.serving_health.still_seconds) == (Phase.HUNG, 65.0)
    moving, actions = step(still, CountersObserved(NOW + 10, replace(BUSY, generated=1001)), at(NOW + 10))
    assert (moving.phase, WithdrawFault in kinds(actions)) == (Phase.PASSED, True)


def test_a_restarted_gate_remembers_which_answer_was_right() -> None:
    """A changed expectation is no fault of an engine that was right, also if the gate was restarted in between."""
    config = changed(CONFIG, golden={"expect": "forty-two"})
    state = step(configured(config), observed(), at())[0]
    state = step(state, StoredTrialRead(config, StoredTrial(GOOD, RIGHT_SO_FAR)), at())[0]
    assert state.verdict.reason == "WrongOutput"
    _, actions = finish(state, GOOD, config)
    assert ReportFault not in kinds(actions)


def test_a_hang_while_serving_is_reported_and_asks_for_a_restart() -> None:
    state, actions = step(serving(still_seconds=60.0, reply=Reply.NONE), observed(), at())
    assert state.restart
    (action,) = [action for action in actions if isinstance(action, ReportFault)]
    assert action == ReportFault(FaultReport("hang", "S3", state.verdict.message, 7, STARTED, at().wall))
    state = step(state, FaultReported(), at())[0]
    assert step(state, observed(), at())[1] == ()


RESTART: dict[str, tuple[str, bool, bool, bool]] = {
    "quarantined, measured, and a restart is wanted": ("Restart", True, True, True),
    "not quarantined": ("Restart", False, True, False),
    "not measured": ("Restart", True, False, False),
    "to be quarantined only": ("Quarantine", True, True, False),
    "to be reported only": ("Report", True, True, False),
}


@pytest.mark.parametrize(("on_degraded", "granted", "measured", "restart"), RESTART.values(), ids=RESTART.keys())
def test_a_degraded_engine_is_restarted_only_if(on_degraded: str, granted: bool, measured: bool, restart: bool) -> None:  # noqa: FBT001
    state = replace(serving(), degraded=replace(DEGRADED, measured=measured))
    state = step(state, ConfigRead(changed(CONFIG, serving={"on_degraded": on_degraded})), at())[0]
    state = step(state, observed(granted_quarantine="then" if granted else None), at())[0]
    assert state.restart is restart


def test_an_invalid_configuration_leaves_the_last_valid_one_in_force() -> None:
    state = step(tried(GOOD), ConfigRejected("gate.json: golden"), at())[0]
    assert (state.phase, state.config, state.config_error) == (Phase.PASSED, CONFIG, "gate.json: golden")

    state = step(GateState(), ConfigRejected("gate.json: golden"), at())[0]
    assert (state.verdict.reason, state.config) == ("Inconclusive", None)


def test_a_serving_engine_is_held_to_the_arguments_that_it_was_launched_with() -> None:
    renamed = changed(CONFIG, model="renamed", decode={"min_tokens_per_second": 84})
    state, actions = step(step(tried(GOOD), ConfigRead(renamed), at())[0], observed(), at())
    assert (state.config and state.config.model, state.config and state.config.floor) == ("m", 84)
    assert kinds(actions) == [ReadCounters]


def test_a_floor_that_is_raised_is_judged_without_a_trial() -> None:
    raised = changed(CONFIG, decode={"min_tokens_per_second": 90})
    state, actions = step(step(tried(GOOD), ConfigRead(raised), at())[0], observed(), at())
    assert (state.verdict.reason, state.attempts, actions) == ("TooSlow", 1, ())
    assert state.attempt == Attempt(CONFIG, NOW)
