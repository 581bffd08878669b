"""The gate's Prometheus metrics."""

import math

from prometheus_client import CollectorRegistry, Counter, Gauge

from flash_contracts.verdict_reason import Reason
from flash_engine.gate.gate_state import GateState
from flash_engine.gate.output_checks import FEATURE_REMEDIES, warnings


class GateMetrics:
    """The gate's gauges, in their own registry. What was not measured is NaN, because 0 would be a value."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._ready = Gauge("flash_gate_ready", "1 if the pod may receive users' requests", registry=self.registry)
        self._decode = Gauge(
            "flash_gate_decode_tokens_per_second", "Measured decode speed of one stream", registry=self.registry
        )
        self._acceptance = Gauge(
            "flash_gate_acceptance_ratio", "Measured share of accepted draft tokens", registry=self.registry
        )
        self._position = Gauge(
            "flash_gate_acceptance_position_ratio",
            "Measured share of drafts of which the token at this position, from 0, was accepted",
            ["position"],
            registry=self.registry,
        )
        self._length = Gauge(
            "flash_gate_acceptance_length_tokens",
            "Measured mean tokens of a step: the model's own and the accepted drafted ones",
            registry=self.registry,
        )
        self._first_token = Gauge(
            "flash_gate_first_token_seconds", "Measured time to the first token", registry=self.registry
        )
        self._prefill = Gauge(
            "flash_gate_prefill_tokens_per_second", "Measured speed of reading a long prompt", registry=self.registry
        )
        self._prompt_first_token = Gauge(
            "flash_gate_prompt_first_token_seconds",
            "Measured time to the first token after a long prompt",
            registry=self.registry,
        )
        self._depth = Gauge(
            "flash_gate_depth_decode_tokens_per_second",
            "Measured decode speed of one stream after a long prompt",
            registry=self.registry,
        )
        self._verdict = Gauge(
            "flash_gate_verdict", "1 for the current verdict, 0 for the others", ["reason"], registry=self.registry
        )
        self._warnings = Gauge(
            "flash_gate_warning",
            "1 for each feature that is switched on and broken, but not required",
            ["reason"],
            registry=self.registry,
        )
        self._traffic = Gauge(
            "flash_gate_traffic_tokens_per_second", "Combined decode speed of users' requests", registry=self.registry
        )
        self._quarantined = Gauge(
            "flash_gate_quarantined", "1 if the replica is quarantined because it is slow", registry=self.registry
        )
        self._hung = Gauge(
            "flash_gate_hung", "1 if the engine has requests but makes no progress", registry=self.registry
        )
        self._delivered = Gauge(
            "flash_gate_model_delivered_bytes", "Bytes of the model downloaded so far", registry=self.registry
        )
        self._model = Gauge("flash_gate_model_bytes", "Size of the model that is downloaded", registry=self.registry)
        self._checks = Counter("flash_gate_checks", "Trials of the engine", registry=self.registry)
        self._counted = 0
        self.show(GateState())

    def show(self, state: GateState) -> None:
        self._ready.set(state.ready)
        for reason in Reason:
            self._verdict.labels(reason).set(reason == state.verdict.reason)
        broken = {warning.reason for warning in warnings(state.evidence, state.config)} if state.config else set()
        for reason in FEATURE_REMEDIES:
            self._warnings.labels(reason).set(reason in broken)
        self._checks.inc(state.attempts - self._counted)
        self._counted = state.attempts
        traffic = state.serving_health.decode_tokens_per_second
        self._traffic.set(math.nan if traffic is None else traffic)
        self._quarantined.set(state.quarantined)
        self._hung.set(state.hung)
        download = state.evidence.download
        self._delivered.set(download.bytes if download else math.nan)
        self._model.set(download.total_bytes if download else math.nan)
        figures = state.evidence.measurement
        acceptance = figures.acceptance_percent if figures else None
        self._decode.set(figures.decode_tokens_per_second if figures else math.nan)
        self._first_token.set(figures.first_token_millis / 1000 if figures else math.nan)
        self._acceptance.set(math.nan if acceptance is None else acceptance / 100)
        self._length.set(_known(figures.acceptance_length if figures else None))
        self._prefill.set(_known(figures.prefill_tokens_per_second if figures else None))
        self._depth.set(_known(figures.depth_decode_tokens_per_second if figures else None))
        millis = figures.prompt_first_token_millis if figures else None
        self._prompt_first_token.set(math.nan if millis is None else millis / 1000)
        self._position.clear()
        for position, percent in enumerate(figures.position_percents if figures else ()):
            self._position.labels(position).set(percent / 100)


def _known(value: float | None) -> float:
    return math.nan if value is None else value
