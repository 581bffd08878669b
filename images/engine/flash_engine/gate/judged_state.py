"""Derives what a state shows: the verdict on its evidence, and from that readiness and liveness. Pure."""

from dataclasses import replace

from flash_contracts.gate_config import GateConfig
from flash_contracts.orders import is_ordered_quarantine
from flash_contracts.verdict_reason import Reason
from flash_engine.gate.evidence import Trial
from flash_engine.gate.gate_state import GateState
from flash_engine.gate.judge import judge
from flash_engine.gate.verdict import Verdict

COMPUTING_SECONDS = 900.0
"""How long a serving engine may go without progress while it computes. A kernel takes minutes to compile."""


def judged(state: GateState, config: GateConfig) -> GateState:
    """Judge figures by the current floors, and golden answers by what was expected when the question was asked."""
    verdict = judge(state.evidence, _as_asked(state, config))
    health, degraded, on_degraded = state.serving_health, state.degraded, config.serving.on_degraded
    passes = verdict.passed
    hung = passes and health.hangs(config)
    quarantined = _is_quarantined(state, config)
    if hung:
        computing = state.evidence.engine.computing
        seen = f", but it computes ({computing})" if computing else ""
        verdict = Verdict(Reason.DEGRADED, f"{health.hang_message}{seen}")
    elif passes and degraded:
        verdict = Verdict(Reason.DEGRADED, degraded.message)
    is_measured = degraded is not None and degraded.measured
    return replace(
        state,
        verdict=verdict,
        evidence_passes=passes,
        hung=hung,
        quarantined=quarantined,
        ordered_out=is_ordered_quarantine(state.granted_quarantine),
        restart=(hung and not _computes(state)) or (quarantined and is_measured and on_degraded == "Restart"),
    )


def _computes(state: GateState) -> bool:
    """Whether the launcher sees it compute. vLLM's waiting workers use CPU too, so this counts for a limited time."""
    return bool(state.evidence.engine.computing) and state.serving_health.still_seconds <= COMPUTING_SECONDS


def _as_asked(state: GateState, config: GateConfig) -> GateConfig:
    asked, config = state.trial_config, unlimited_if_passed(state, config)
    if asked is None or config.measures_like(asked):
        return config
    return config.model_copy(update={"golden": asked.golden, "long_answer": asked.long_answer})


def unlimited_if_passed(state: GateState, config: GateConfig) -> GateConfig:
    """Lift the rollout's speed limit from an engine that has passed, so that it never makes a serving one unready."""
    return config.model_copy(update={"measure_again_below": None}) if state.evidence_passes else config


def is_slower_than_admitted(state: GateState, config: GateConfig, trial: Trial) -> bool:
    """Whether the engine was admitted at a speed that the rollout allows and now measures below it."""
    limit, admitted, now = config.measure_again_below, state.evidence.measurement, trial.measurement
    if limit is None or admitted is None or now is None:
        return False
    return now.decode_tokens_per_second < limit <= admitted.decode_tokens_per_second


def _is_quarantined(state: GateState, config: GateConfig) -> bool:
    """Whether this degradation's quarantine was granted. An earlier grant must not affect a recovered replica."""
    granted = state.degraded is not None and state.granted_quarantine == state.degraded.since
    return granted and config.serving.on_degraded != "Report"
