"""`/result`: the verdict with everything it rests on, as the operator reads it (docs/architecture.md)."""

import math
from typing import Any

from flash_engine.gate.config import GateConfig
from flash_engine.gate.evidence import Trial
from flash_engine.gate.gate import State
from flash_engine.gate.measurement import Measurement, Sample


def result_document(state: State, config: GateConfig | None, effective: dict[str, Any] | None) -> dict[str, Any]:
    figures = state.evidence.measurement
    return {
        "version": 1,
        "reason": state.verdict.reason,
        "passed": state.verdict.passed,
        "ready": state.ready,
        "message": state.verdict.message,
        "checkedAt": state.checked_at,
        "attempts": state.attempts,
        "measurement": _measurement(figures) if figures else None,
        "trial": _trial(state.evidence.trial) if state.evidence.trial else None,
        "wanted": _wanted(config) if config else None,
        "serving": _serving(state),
        "engineHealthyAt": state.healthy_at,
        "gateMillis": state.gate_millis,
        "effective": effective,
        "engine": state.evidence.engine.to_json(),
        "delivery": state.evidence.delivery.to_json() if state.evidence.delivery else None,
    }


def _measurement(figures: Measurement) -> dict[str, Any]:
    return {
        "decodeTokensPerSecond": round(figures.decode_tokens_per_second, 2),
        "acceptancePercent": None if figures.acceptance_percent is None else round(figures.acceptance_percent, 2),
        "firstTokenMillis": round(figures.first_token_millis, 1),
        "tokens": figures.tokens,
        "drafted": figures.drafted,
        "accepted": figures.accepted,
        "durationMillis": round(figures.duration_millis),
    }


def _trial(trial: Trial) -> dict[str, Any]:
    """What the figures rest on: a person must be able to judge again by hand."""
    crowd, figures = trial.crowd, trial.measurement
    return {
        "goldenAnswers": list(trial.golden.texts) if trial.golden else None,
        "doubt": trial.doubt,
        "stalled": trial.stalled,
        "samples": [_sample(sample) for sample in figures.samples] if figures else [],
        "crowd": {
            "streams": crowd.streams,
            "tokensPerSecond": round(crowd.tokens_per_second, 2),
            "goldenAnswers": list(crowd.texts),
        }
        if crowd
        else None,
    }


def _sample(sample: Sample) -> dict[str, Any]:
    stream = sample.stream
    return {
        "tokens": stream.tokens,
        "decodeTokensPerSecond": round(stream.decode_tokens_per_second, 2),
        "firstTokenMillis": round(stream.first_token_millis, 1),
        "blocks": [round(rate, 1) if math.isfinite(rate) else None for rate in stream.block_rates],
        "cut": stream.cut,
        "countedTokens": sample.counted_tokens,
        "foreignRequests": sample.foreign_requests,
        "drafted": sample.drafted,
        "accepted": sample.accepted,
    }


def _serving(state: State) -> dict[str, Any]:
    """What became of an engine that passed."""
    standing, degraded = state.standing, state.degraded
    rate = standing.decode_tokens_per_second
    return {
        "degraded": {"message": degraded.message, "since": degraded.since, "measured": degraded.measured}
        if degraded
        else None,
        "quarantined": state.quarantined,
        "hung": state.hung,
        "draining": state.draining,
        "decodeTokensPerSecond": None if rate is None else round(rate, 1),
        "badWindows": standing.bad,
        "stillSeconds": round(standing.still_seconds, 1),
        "blind": state.blind,
    }


def _wanted(config: GateConfig) -> dict[str, Any]:
    return {
        "decodeTokensPerSecond": config.floor,
        "floorOrigin": config.floor_origin,
        "acceptancePercent": config.min_acceptance_percent if config.speculation.expected else None,
        "firstTokenMillis": config.max_first_token_millis,
    }
