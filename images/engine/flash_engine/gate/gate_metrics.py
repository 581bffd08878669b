"""The gate's Prometheus metrics."""

import math
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge

from flash_contracts.metric_definition import MetricDefinition
from flash_contracts.verdict_reason import Reason
from flash_engine.gate.gate_state import GateState
from flash_engine.gate.measurement import Measurement
from flash_engine.gate.output_checks import REASONS_OF_WARNINGS, warnings

Figure = Callable[[Measurement], float | None]
Shown = Callable[[GateState], float | None]

FIGURES: dict[str, tuple[str, Figure]] = {
    "flash_gate_decode_tokens_per_second": (
        "Measured decode speed of one stream", lambda figures: figures.decode_tokens_per_second),
    "flash_gate_acceptance_ratio": (
        "Measured share of accepted draft tokens", lambda figures: _times(0.01, figures.acceptance_percent)),
    "flash_gate_acceptance_length_tokens": (
        "Measured mean tokens per step: the model's own and the accepted drafted ones",
        lambda figures: figures.acceptance_length),
    "flash_gate_first_token_seconds": (
        "Measured time to the first token", lambda figures: figures.first_token_millis / 1000),
    "flash_gate_prefill_tokens_per_second": (
        "Measured speed of reading a long prompt", lambda figures: figures.prefill_tokens_per_second),
    "flash_gate_prompt_first_token_seconds": (
        "Measured time to the first token after a long prompt",
        lambda figures: _times(0.001, figures.prompt_first_token_millis)),
    "flash_gate_depth_decode_tokens_per_second": (
        "Measured decode speed of one stream after a long prompt",
        lambda figures: figures.depth_decode_tokens_per_second),
}  # fmt: skip
"""Gauges of the last trial: name, description, value."""

STATES: dict[str, tuple[str, Shown]] = {
    "flash_gate_ready": ("1 if the pod may receive users' requests", lambda state: state.ready),
    "flash_gate_traffic_tokens_per_second": (
        "Combined decode speed of users' requests", lambda state: state.serving_health.decode_tokens_per_second),
    "flash_gate_quarantined": (
        "1 if the replica is quarantined because it is slow", lambda state: state.quarantined),
    "flash_gate_ordered_out": ("1 if a user took the replica out of service", lambda state: state.ordered_out),
    "flash_gate_hung": ("1 if the engine has requests but makes no progress", lambda state: state.hung),
    "flash_gate_model_delivered_bytes": (
        "Bytes of the model downloaded so far",
        lambda state: state.evidence.download.bytes if state.evidence.download else None),
    "flash_gate_model_bytes": (
        "Size of the model being downloaded",
        lambda state: state.evidence.download.total_bytes if state.evidence.download else None),
    "flash_gate_full_depth_prefill_tokens_per_second": (
        "Measured speed of reading a prompt that fills the context",
        lambda state: state.evidence.full_depth.prefill_tokens_per_second if state.evidence.full_depth else None),
    "flash_gate_full_depth_decode_tokens_per_second": (
        "Measured decode speed of one stream after a prompt that fills the context",
        lambda state: state.evidence.full_depth.decode_tokens_per_second if state.evidence.full_depth else None),
}  # fmt: skip
"""Gauges of everything else: name, description, value."""

POSITIONS = MetricDefinition(
    "flash_gate_acceptance_position_ratio",
    "gauge",
    "Measured share of drafts whose token at this position, from 0, was accepted",
    ("position",),
    most="as many as the engine drafts at a time",
)
VERDICT = MetricDefinition(
    "flash_gate_verdict", "gauge", "1 for the current verdict, 0 for the others", ("reason",), most=str(len(Reason))
)
WARNINGS = MetricDefinition(
    "flash_gate_warning",
    "gauge",
    "1 for each fault that does not keep the replica from serving",
    ("reason",),
    most=str(len(REASONS_OF_WARNINGS)),
)
CHECKS = MetricDefinition("flash_gate_checks_total", "counter", "Trials of the engine")
DEFINITIONS = (
    *(MetricDefinition(name, "gauge", text) for name, (text, _) in (FIGURES | STATES).items()),
    *(POSITIONS, VERDICT, WARNINGS, CHECKS),
)


class GateMetrics:
    """The gate's gauges, in their own registry. What was not measured is NaN, because 0 would be a value."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        gauges = {one.name: self._gauge(one) for one in DEFINITIONS if one.kind == "gauge"}
        self._figures = {name: gauges[name] for name in FIGURES}
        self._states = {name: gauges[name] for name in STATES}
        self._position = gauges[POSITIONS.name]
        self._verdict = gauges[VERDICT.name]
        self._warnings = gauges[WARNINGS.name]
        self._checks = Counter(CHECKS.name, CHECKS.text, registry=self.registry)
        self._counted = 0
        self.show(GateState())

    def _gauge(self, definition: MetricDefinition) -> Gauge:
        return Gauge(definition.name, definition.text, definition.labels, registry=self.registry)

    def show(self, state: GateState) -> None:
        for name, (_, shown) in STATES.items():
            self._states[name].set(_known(shown(state)))
        for reason in Reason:
            self._verdict.labels(reason).set(reason == state.verdict.reason)
        warned = {warning.reason for warning in warnings(state.evidence, state.config)} if state.config else set()
        for reason in REASONS_OF_WARNINGS:
            self._warnings.labels(reason).set(reason in warned)
        self._checks.inc(state.attempts - self._counted)
        self._counted = state.attempts
        self._show_figures(state.evidence.measurement)

    def _show_figures(self, figures: Measurement | None) -> None:
        for name, (_, shown) in FIGURES.items():
            self._figures[name].set(_known(shown(figures) if figures else None))
        self._position.clear()
        for position, percent in enumerate(figures.position_percents if figures else ()):
            self._position.labels(position).set(percent / 100)


def _times(factor: float, value: float | None) -> float | None:
    return None if value is None else factor * value


def _known(value: float | None) -> float:
    return math.nan if value is None else value
