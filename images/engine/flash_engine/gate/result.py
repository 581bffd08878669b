"""`/result`: the verdict with everything it rests on, as the operator reads it (docs/architecture.md)."""

from typing import Any

from flash_engine.gate.config import GateConfig
from flash_engine.gate.gate import State
from flash_engine.gate.measurement import Measurement


def result_document(state: State, config: GateConfig | None, effective: dict[str, Any] | None) -> dict[str, Any]:
    figures = state.evidence.measurement
    return {
        "version": 1,
        "reason": state.verdict.reason,
        "passed": state.verdict.passed,
        "message": state.verdict.message,
        "checkedAt": state.checked_at,
        "attempts": state.attempts,
        "measurement": _measurement(figures) if figures else None,
        "wanted": _wanted(config) if config else None,
        "engineHealthyAt": state.healthy_at,
        "gateMillis": state.gate_millis,
        "effective": effective,
        "engine": state.evidence.engine.to_json(),
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


def _wanted(config: GateConfig) -> dict[str, Any]:
    return {
        "decodeTokensPerSecond": config.decode.min_tokens_per_second,
        "acceptancePercent": config.min_acceptance_percent if config.speculation.expected else None,
        "firstTokenMillis": config.max_first_token_millis,
    }
