"""The gate's state: what it shows to others, and what it remembers to decide what to do next. Pure."""

from dataclasses import dataclass
from enum import Enum

from flash_contracts.engine_record import EngineRecord
from flash_contracts.gate_config import GateConfig
from flash_contracts.gate_result import Degradation
from flash_contracts.verdict_reason import Reason
from flash_engine.gate.evidence import Evidence
from flash_engine.gate.fault_report import ReportedFaults
from flash_engine.gate.full_depth import DepthSchedule
from flash_engine.gate.ordered_measuring import OrderedMeasuring
from flash_engine.gate.serving_health import ServingHealth
from flash_engine.gate.serving_monitor import ServingMonitor
from flash_engine.gate.verdict import Verdict

FLOOR_SECONDS = 20.0
"""How long a healthy engine waits for its learned floor. After that (e.g. without an operator) the fixed one holds."""


class Phase(Enum):
    """What the gate is doing with the engine."""

    WAITING = "the engine is not healthy yet, or there is no configuration"
    MEASURING = "the engine is healthy and not judged yet"
    FAILED = "the engine failed its trial; it is tried again after a pause"
    PASSED = "the engine passed and serves; its counters are monitored"
    DEGRADED = "the engine passed and is now too slow, or its draft is dead"
    HUNG = "the engine passed and now has requests but makes no progress"
    DRAINING = "the pod is shutting down"


class TrialKind(Enum):
    """Why a trial is made, which decides what its result means."""

    ADMISSION = "decides whether the engine passes"
    RECHECK = "confirms or refutes what the counters of a serving engine suggest"


@dataclass(frozen=True)
class Instant:
    """One moment by both clocks."""

    monotonic: float
    """Seconds on the event loop's clock, which pauses and timeouts use."""
    wall: str
    """ISO 8601, for documents."""


@dataclass(frozen=True)
class Attempt:
    """The latest trial of this run of the engine, whether or not the verdict is based on it."""

    config: GateConfig
    at: float
    """When it ended (seconds on the event loop's clock)."""


@dataclass(frozen=True)
class GateState:
    """Everything about one gate. `state_machine.step` is the only place where it changes."""

    verdict: Verdict = Verdict(Reason.ENGINE_STARTING, "the gate has just started")  # noqa: RUF009 - frozen
    evidence: Evidence = Evidence(EngineRecord(), healthy=False)  # noqa: RUF009 - frozen
    attempts: int = 0
    checked_at: str | None = None
    healthy_at: str | None = None
    gate_millis: float | None = None
    """From the engine's first healthy answer to its first verdict."""
    serving: ServingMonitor = ServingMonitor()  # noqa: RUF009 - frozen
    degraded: Degradation | None = None
    hung: bool = False
    quarantined: bool = False
    ordered_out: bool = False
    """A user took the replica out of service. Unlike a quarantine, that says nothing about the engine."""
    draining: bool = False
    restart: bool = False
    """Tells the kubelet to restart the engine: it hangs and does not compute, or it is degraded and quarantined and
    `onDegraded` is Restart."""

    # The fields below are internal.
    depth: DepthSchedule = DepthSchedule()  # noqa: RUF009 - frozen
    ordered: OrderedMeasuring = OrderedMeasuring()  # noqa: RUF009 - frozen
    config_read: GateConfig | None = None
    """The last valid configuration."""
    config_error: str | None = None
    """What is wrong with the file now."""
    launch_config: GateConfig | None = None
    """The configuration under which this run of the engine was first tried; None before."""
    trial_config: GateConfig | None = None
    """The configuration under which the trial in `evidence` was made."""
    attempt: Attempt | None = None
    healthy_since: float = 0.0
    """Seconds on the event loop's clock."""
    evidence_passes: bool = False
    """The trial passes, no matter what the counters have shown since."""
    granted_quarantine: str | None = None
    """`Degradation.since` of the quarantine request that the operator has granted."""
    reported_faults: ReportedFaults = ReportedFaults()  # noqa: RUF009 - frozen
    hang_stored: bool = False
    """The stored trial says that the engine hangs."""
    incident_refuted: bool = False
    """Without peer-to-peer, the engine gave a wrong answer to the incident's request too."""

    @property
    def phase(self) -> Phase:
        """Derived from the verdict, so that the two can never contradict each other."""
        if self.draining:
            return Phase.DRAINING
        if self.hung:
            return Phase.HUNG
        if self.verdict.passed:
            return Phase.PASSED
        if self.verdict.reason == Reason.DEGRADED:
            return Phase.DEGRADED
        if not self.evidence.healthy or self.config is None:
            return Phase.WAITING
        return Phase.MEASURING if self.verdict.reason == Reason.ENGINE_STARTING else Phase.FAILED

    @property
    def ready(self) -> bool:
        """Whether the pod may receive users' requests.

        A degraded engine stays ready until the operator grants its quarantine: the gate cannot see whether other
        replicas could take over. A user's order is obeyed at once.
        """
        serves = self.phase is Phase.PASSED or (self.phase is Phase.DEGRADED and not self.quarantined)
        return serves and not self.ordered_out

    @property
    def config(self) -> GateConfig | None:
        """The configuration that the engine is judged by."""
        if self.config_read is None or self.launch_config is None:
            return self.config_read
        return self.config_read.as_launched(self.launch_config)

    @property
    def serving_health(self) -> ServingHealth:
        return self.serving.health

    @property
    def blind(self) -> str | None:
        """Why a serving engine is not monitored."""
        return self.serving.blind


def admission_is_due(state: GateState, config: GateConfig, at: float) -> bool:
    """Whether to make a trial that decides whether the engine passes.

    phase or event                                     due
    WAITING or DRAINING                                no
    the learned floor is not known yet                 no, for FLOOR_SECONDS
    this run was never tried                           at once
    other prompts or tokens than in the last trial     at once; then like FAILED until the verdict is based on them
    MEASURING (see below)                              at once, or after the pause if it was timed
    other floors                                       no: the existing trial is judged by them
    FAILED                                             after the pause
    PASSED, DEGRADED, HUNG                             no; see `recheck_is_due`

    A tried engine is MEASURING in two cases: nothing was timed, because its golden answer counted as wrong until
    gate.json was corrected; or it passes, but slower than the rollout allows, and has been timed only once.
    """
    if not state.evidence.healthy or state.draining or _waits_for_floor(state, config, at):
        return False
    if state.attempt is None or not config.measures_like(state.attempt.config):
        return True
    if state.verdict.reason == Reason.ENGINE_STARTING:
        return state.evidence.measurement is None or _pause_is_over(state, config, at)
    is_current = state.trial_config is not None and config.measures_like(state.trial_config)
    return _pause_is_over(state, config, at) and not (state.evidence_passes and is_current)


def recheck_is_due(state: GateState, config: GateConfig, at: float) -> bool:
    """Whether to measure a serving engine again.

    Only while it is idle: users' requests and the gate's would delay each other.

    PASSED, and the counters look good           when idle, after `idleCheckSeconds`
    PASSED, and the counters look bad            when idle, after the pause
    DEGRADED                                     when idle, after the pause
    DRAINING                                     no
    """
    if state.draining or not state.serving_health.idle:
        return False
    is_doubtful = state.degraded is not None or state.serving_health.suspected(config)
    if state.attempt is None or is_doubtful:
        return is_doubtful and _pause_is_over(state, config, at)
    return at - state.attempt.at >= config.serving.idle_check_seconds


def _pause_is_over(state: GateState, config: GateConfig, at: float) -> bool:
    return state.attempt is None or at - state.attempt.at >= config.retry_seconds


def _waits_for_floor(state: GateState, config: GateConfig, at: float) -> bool:
    waited = at - state.healthy_since
    return config.floor_from == "Learned" and config.learned is None and waited < FLOOR_SECONDS
