"""The gate's decisions as a state machine: `step(state, observation, now)` gives the next state and the actions. Pure.

    ConfigRead, ConfigRejected   gate.json and the learned floor
    EngineObserved               /health, and the files of launcher, flash-fetch and flash-drain
    StoredTrialRead              what an earlier process of this gate has stored      after ReadStoredTrial
    TrialFinished                                                                     after RunTrial
    CountersObserved             the counters of a serving engine                     after ReadCounters
    EngineAsked                  whether an engine that seems to hang gave a token    after AskEngine, later
    FullDepthMeasured            the figures after a prompt that fills the context    after MeasureFullDepth, later
    OrderAnswered                the figures that a user ordered                      after MeasureOrdered
    FaultReported, FaultReportWithdrawn                                               after ReportFault, WithdrawFault

`Gate` makes the observations and carries out the actions. `GateState.phase` lists the phases; `admission_is_due` and
`recheck_is_due` say when a trial is made.
"""

from dataclasses import replace
from typing import TypeAlias

from flash_contracts.gate_config import GateConfig
from flash_contracts.gate_result import Degradation
from flash_contracts.verdict_reason import Reason
from flash_engine.gate.actions import (
    Action,
    AskEngine,
    LogTrial,
    MeasureFullDepth,
    MeasureOrdered,
    ReadCounters,
    ReadStoredTrial,
    ReportFault,
    RunTrial,
    StoreTrial,
    WithdrawFault,
)
from flash_engine.gate.answer_checks import right_texts
from flash_engine.gate.decode_speed import step_tokens
from flash_engine.gate.fault_report import (
    ReportedFaults,
    fault_of_trial,
    hang_while_serving,
    refutes_incident,
    texts_are_right,
)
from flash_engine.gate.full_depth import DepthSchedule
from flash_engine.gate.gate_state import Attempt, GateState, Instant, Phase, TrialKind, admission_is_due, recheck_is_due
from flash_engine.gate.judge import judge
from flash_engine.gate.judged_state import is_slower_than_admitted, judged, unlimited_if_passed
from flash_engine.gate.observations import (
    ConfigRead,
    ConfigRejected,
    EngineAsked,
    EngineObserved,
    FaultReported,
    FaultReportWithdrawn,
    FullDepthMeasured,
    Observation,
    OrderAnswered,
    StoredTrialRead,
    TrialFinished,
)
from flash_engine.gate.order_decisions import order_answered, order_to_carry_out, with_order
from flash_engine.gate.serving_monitor import CountersObserved, ServingMonitor
from flash_engine.gate.trial_store import StoredTrial
from flash_engine.gate.verdict import Verdict

UNSERVABLE = frozenset({Reason.WRONG_OUTPUT, Reason.STARTUP_HANG})
"""Failures that make even a serving engine unready at once, because it is worse than none."""

Step: TypeAlias = tuple[GateState, tuple[Action, ...]]


def step(state: GateState, observation: Observation, now: Instant) -> Step:
    """The state after the observation, and what to do next, in this order."""
    match observation:
        case EngineObserved():
            return _engine_observed(state, observation, now)
        case StoredTrialRead():
            return _decide(_with_stored_trial(state, observation, now), observation.config, now)
        case CountersObserved():
            return _counters_observed(state, observation, now)
        case EngineAsked() | FullDepthMeasured():
            return _background_task_finished(state, observation, now)
        case TrialFinished():
            return _trial_finished(state, observation, now)
        case _:
            return _recorded(state, observation), ()


def _recorded(
    state: GateState, observation: ConfigRead | ConfigRejected | OrderAnswered | FaultReported | FaultReportWithdrawn
) -> GateState:
    """Observations that only matter for the next decision."""
    match observation:
        case ConfigRead(config):
            return replace(state, config_read=config, config_error=None)
        case ConfigRejected(error):
            return _config_rejected(state, error)
        case OrderAnswered(answer, at):
            return order_answered(state, answer, at)
        case FaultReported():
            return _with_fault_reported(state, is_reported=True)
        case FaultReportWithdrawn():
            return _with_fault_reported(state, is_reported=False)


def _config_rejected(state: GateState, error: str) -> GateState:
    """Keep the last valid configuration."""
    if state.config_read is not None:
        return replace(state, config_error=error)
    verdict = Verdict(Reason.INCONCLUSIVE, f"the gate's configuration: {error}")
    return replace(state, config_error=error, verdict=verdict)


def _engine_observed(state: GateState, observed: EngineObserved, now: Instant) -> Step:
    state = with_order(_with_engine(state, observed, now), observed.measure_order, now.monotonic)
    config = state.config
    if config is None:
        return state, ()
    if _may_have_stored_trial(state):
        # Judged only after that: meanwhile, a restarted gate must not report the engine as unmeasured.
        return state, (ReadStoredTrial(config),)
    state, withdraw = _excused_while_computing(state, config)
    state, actions = _decide(state, config, now)
    return state, withdraw + actions


def _excused_while_computing(state: GateState, config: GateConfig) -> Step:
    """A trial without a token is not a hang if the engine computes: the first request may compile kernels.

    The fault report is withdrawn, and the next trial decides. This ends after the time that a start may take.
    """
    evidence, trial = state.evidence, state.evidence.trial
    computing = evidence.engine.computing
    if trial is None or not trial.stalled or not computing or _started_too_long_ago(state, config):
        return state, ()
    excused = replace(trial, stalled=False, doubt=f"{trial.doubt}, but the engine computes ({computing})")
    withdraw = (WithdrawFault(),) if state.reported_faults.is_reported else ()
    return replace(state, evidence=replace(evidence, trial=excused, unanswered_since=None)), withdraw


def _started_too_long_ago(state: GateState, config: GateConfig) -> bool:
    return state.evidence.starting_seconds > config.startup_seconds(state.evidence.checkpoint_bytes)


def _may_have_stored_trial(state: GateState) -> bool:
    """Whether the engine is healthy and this process has never tried it."""
    is_untried = state.evidence.trial is None and state.attempts == 0 and state.attempt is None
    return state.evidence.healthy and is_untried


def _with_engine(state: GateState, observed: EngineObserved, now: Instant) -> GateState:
    """The state after observing the engine. Findings are dropped once it is unhealthy or has been restarted."""
    previous_run = state.evidence.engine.run
    evidence = replace(
        state.evidence.after_observation(observed.record, observed.health, observed.at),
        download=observed.download,
        checkpoint_bytes=observed.checkpoint_bytes,
    )
    state = replace(
        state,
        evidence=evidence,
        draining=observed.draining,
        granted_quarantine=observed.granted_quarantine,
        trial_config=state.trial_config if evidence.trial else None,
    )
    if not evidence.healthy or evidence.engine.run != previous_run:
        state = replace(
            state, launch_config=None, attempt=None, serving=ServingMonitor(), healthy_at=None, gate_millis=None,
            degraded=None, hang_stored=False, depth=DepthSchedule(),
        )  # fmt: skip
    if evidence.healthy and state.healthy_at is None:
        state = replace(state, healthy_since=now.monotonic, healthy_at=now.wall)
    return state


def _with_stored_trial(state: GateState, stored: StoredTrialRead, now: Instant) -> GateState:
    found = stored.stored
    if found is None:
        return state
    run = state.evidence.engine.run
    return replace(
        state,
        evidence=replace(state.evidence.with_trial(found.trial), full_depth=found.full_depth),
        evidence_passes=True,
        degraded=found.degraded,
        serving=ServingMonitor.of_stall(found.stall, now.monotonic) if found.stall else ServingMonitor(),
        hang_stored=found.stall is not None,
        attempt=Attempt(stored.config, now.monotonic),
        trial_config=stored.config,
        launch_config=stored.config,
        reported_faults=ReportedFaults(run, is_reported=found.stall is not None, right=found.right, has_passed=True),
        incident_refuted=found.incident_refuted,
    )


def _decide(state: GateState, config: GateConfig, now: Instant) -> Step:
    """Judge the evidence and choose what to do next."""
    state = judged(state, config)
    admission = admission_is_due(state, config, now.monotonic)
    if state.depth.is_running:
        # The counters include the gate's own request, so it is abandoned before anything else is sent.
        is_over = admission or state.draining or not state.evidence_passes
        return (replace(state, depth=state.depth.after_attempt(measured=False)) if is_over else state), ()
    if admission:
        return state, (RunTrial(TrialKind.ADMISSION, config),)
    if not state.evidence_passes:
        return state, ()
    if state.serving.is_due(config, now.monotonic):
        return state, (ReadCounters(),)
    return _decide_serving(state, config, now)


def _counters_observed(state: GateState, observed: CountersObserved, now: Instant) -> Step:
    config = state.config
    if config is None:
        return state, ()
    piece = step_tokens(state.evidence.engine.command)
    serving = state.serving.after(observed, config, piece)
    depth = state.depth.after_look(now.monotonic, idle=serving.health.idle)
    return _decide_serving(replace(state, serving=serving, depth=depth), config, now)


def _background_task_finished(state: GateState, observation: EngineAsked | FullDepthMeasured, now: Instant) -> Step:
    if isinstance(observation, EngineAsked):
        return _engine_asked(state, observation, now)
    return _full_depth_measured(state, observation)


def _engine_asked(state: GateState, asked: EngineAsked, now: Instant) -> Step:
    config = state.config
    if config is None or asked.run != state.evidence.engine.run or not state.serving.asking:
        return state, ()
    return _decide_serving(replace(state, serving=state.serving.after_reply(asked.reply)), config, now)


def _decide_serving(state: GateState, config: GateConfig, now: Instant) -> Step:
    """Decide by the counters of a serving engine. `serving_health` has the rules."""
    if recheck_is_due(state, config, now.monotonic):
        return state, (RunTrial(TrialKind.RECHECK, config),)
    order = order_to_carry_out(state, now.monotonic)
    if order is not None:
        return state, (MeasureOrdered(config, order),)
    if state.evidence_passes and not state.draining and state.serving.must_ask(config):
        return replace(state, serving=replace(state.serving, asking=True)), (AskEngine(config),)
    health, previous = state.serving_health, state.degraded
    if previous is None and health.believed(config):
        state = _degraded(state, health.message, now, measured=False)
    elif previous and not previous.measured and health.recovered(config):
        state = replace(state, degraded=None)
    state = judged(state, config)
    store = _store_trial(state) if state.degraded != previous or state.hung != state.hang_stored else ()
    state, measure = _with_full_depth_begun(replace(state, hang_stored=state.hung), config, now)
    return _with_hang_reported(state, config, now, store + measure)


def _with_full_depth_begun(state: GateState, config: GateConfig, now: Instant) -> Step:
    """Begin the measurement at full depth, once per run, if nothing is wrong and the engine has been idle."""
    is_calm = state.phase is Phase.PASSED and not state.serving.asking and not state.serving_health.suspected(config)
    test = config.full_depth if is_calm and state.evidence.full_depth is None else None
    if test is None or not state.depth.is_due(test, now.monotonic):
        return state, ()
    return replace(state, depth=replace(state.depth, is_running=True)), (MeasureFullDepth(config, test),)


def _full_depth_measured(state: GateState, measured: FullDepthMeasured) -> Step:
    """Restart the monitor, because its counters would show the gate's own request as slow traffic."""
    config = state.config
    if config is None or measured.run != state.evidence.engine.run or not state.depth.is_running:
        return state, ()
    state = replace(
        state,
        evidence=replace(state.evidence, full_depth=measured.found),
        depth=state.depth.after_attempt(measured=measured.found is not None),
        serving=ServingMonitor(),
    )
    return judged(state, config), _store_trial(state) if measured.found else ()


def _degraded(state: GateState, message: str, now: Instant, *, measured: bool) -> GateState:
    since = state.degraded.since if state.degraded else now.wall
    return replace(state, degraded=Degradation(message, since, measured))


def _trial_finished(state: GateState, finished: TrialFinished, now: Instant) -> Step:
    state = replace(
        state,
        attempts=state.attempts + 1,
        checked_at=finished.at.wall,
        attempt=Attempt(finished.config, finished.at.monotonic),
    )
    if finished.kind is TrialKind.ADMISSION:
        return _admission_finished(state, finished, now)
    return _recheck_finished(state, finished, now)


def _admission_finished(state: GateState, finished: TrialFinished, now: Instant) -> Step:
    """Apply an admission trial. One that cannot be judged does not count against an engine that passed before.

    A serving engine may be too busy to be measured with new prompts. Likewise, a hang is over only when the engine
    produces a token, not when it cannot be asked.
    """
    millis = round((finished.at.monotonic - state.healthy_since) * 1000)
    launch_config = state.launch_config or finished.config
    state = replace(state, gate_millis=state.gate_millis or millis, launch_config=launch_config)
    is_unsure = _verdict_on(state, finished).reason == Reason.INCONCLUSIVE and not finished.trial.stalled
    earlier = state.evidence.trial
    keeps_earlier = is_unsure and (state.evidence_passes or (earlier is not None and earlier.stalled))
    if not keeps_earlier:
        state = _with_trial(state, finished)
    return _evaluate_trial(state, finished, now, keeps_earlier=keeps_earlier)


def _recheck_finished(state: GateState, finished: TrialFinished, now: Instant) -> Step:
    """Apply a recheck: the engine recovered, must not serve, or is degraded. An inconclusive one changes nothing."""
    verdict = _verdict_on(state, finished)
    if verdict.passed and is_slower_than_admitted(state, finished.config, finished.trial):
        # A single figure of a serving engine must not decide a rollout. Below its floor, the engine is degraded.
        finished = replace(finished, trial=replace(finished.trial, measurement=state.evidence.measurement))
    if verdict.passed or verdict.reason in UNSERVABLE or finished.trial.stalled:
        state = replace(_with_trial(state, finished), degraded=None, serving=ServingMonitor())
        state, actions = _evaluate_trial(state, finished, now, keeps_earlier=False)
        return _with_hang_reported(state, finished.config, now, actions)
    previous = state.degraded
    if verdict.reason != Reason.INCONCLUSIVE:
        state = _degraded(state, f"{verdict.reason}: {verdict.message}", now, measured=True)
    state = _judged_after_trial(state, finished, now)
    store = _store_trial(state) if state.degraded != previous else ()
    log = LogTrial(finished.trial, state.attempts, keeps_earlier_verdict=True)
    return _with_hang_reported(state, finished.config, now, (log, *store))


def _verdict_on(state: GateState, finished: TrialFinished) -> Verdict:
    """The verdict if the trial counts, on the engine as it was before the trial."""
    return judge(state.evidence.with_trial(finished.trial), unlimited_if_passed(state, finished.config))


def _with_trial(state: GateState, finished: TrialFinished) -> GateState:
    evidence = state.evidence.after_trial(finished.trial, finished.at.monotonic)
    return replace(state, evidence=evidence, trial_config=finished.config)


def _evaluate_trial(state: GateState, finished: TrialFinished, now: Instant, *, keeps_earlier: bool) -> Step:
    """Set the verdict after a trial, and report or withdraw a fault."""
    state = _judged_after_trial(state, finished, now)
    asked, trial = state.trial_config or finished.config, state.evidence.trial
    if refutes_incident(state.evidence, asked):
        state = replace(state, incident_refuted=True)
    faults = state.reported_faults.of_run(state.evidence.engine.run)
    actions: tuple[Action, ...] = (LogTrial(finished.trial, state.attempts, keeps_earlier),)
    report = fault_of_trial(state.evidence, state.verdict, asked, now.wall)
    if report and faults.allow(report, asked):
        actions += (ReportFault(report),)
    if report is None and texts_are_right(state.evidence, asked):
        faults = replace(faults, has_passed=True)
        actions += (WithdrawFault(),)
    right = {**faults.right, **right_texts(trial, asked)} if trial else faults.right
    state = replace(state, reported_faults=replace(faults, right=right))
    return state, actions + _store_trial(state)


def _judged_after_trial(state: GateState, finished: TrialFinished, now: Instant) -> GateState:
    state = _with_engine(state, finished.engine, now)
    return judged(state, state.config or finished.config)


def _store_trial(state: GateState) -> tuple[Action, ...]:
    trial, config = state.evidence.trial, state.trial_config
    if not state.evidence_passes or trial is None or config is None:
        return ()
    stored = StoredTrial(
        trial,
        right=state.reported_faults.right,
        degraded=state.degraded,
        stall=state.serving.stall if state.hung else None,
        incident_refuted=state.incident_refuted,
        full_depth=state.evidence.full_depth,
    )
    return (StoreTrial(stored, state.evidence.engine, config),)


def _with_hang_reported(state: GateState, config: GateConfig, now: Instant, actions: tuple[Action, ...]) -> Step:
    """Report an engine that hangs while it serves, or withdraw the report once it makes progress."""
    if not state.hung:
        is_over = state.verdict.passed and state.reported_faults.is_reported and WithdrawFault() not in actions
        return state, actions + ((WithdrawFault(),) if is_over else ())
    faults = state.reported_faults.of_run(state.evidence.engine.run)
    state = replace(state, reported_faults=faults)
    report = hang_while_serving(state.evidence, state.verdict.message, now.wall)
    if report and faults.allow(report, config):
        actions += (ReportFault(report),)
    return state, actions


def _with_fault_reported(state: GateState, *, is_reported: bool) -> GateState:
    return replace(state, reported_faults=replace(state.reported_faults, is_reported=is_reported))
