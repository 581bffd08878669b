"""What Prometheus sees of the gate."""

import math

from prometheus_client import CollectorRegistry, Counter, Gauge

from flash_contracts.verdict_reason import Reason
from flash_engine.gate.gate import State


class GateMetrics:
    """The gate's gauges, in a registry of their own. What was not measured is NaN: 0 would be a figure."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._ready = Gauge("flash_gate_ready", "1 where users' requests may come", registry=self.registry)
        self._decode = Gauge(
            "flash_gate_decode_tokens_per_second", "Measured decode speed of one stream", registry=self.registry
        )
        self._acceptance = Gauge(
            "flash_gate_acceptance_ratio", "Measured share of accepted draft tokens", registry=self.registry
        )
        self._first_token = Gauge(
            "flash_gate_first_token_seconds", "Measured time to the first token", registry=self.registry
        )
        self._verdict = Gauge(
            "flash_gate_verdict", "1 for the present verdict, 0 for the others", ["reason"], registry=self.registry
        )
        self._traffic = Gauge(
            "flash_gate_traffic_tokens_per_second", "Decode speed of users' requests, together", registry=self.registry
        )
        self._quarantined = Gauge(
            "flash_gate_quarantined", "1 where it is taken out of service for being slow", registry=self.registry
        )
        self._hung = Gauge(
            "flash_gate_hung", "1 where requests are on the engine and it makes no step", registry=self.registry
        )
        self._delivered = Gauge(
            "flash_gate_model_delivered_bytes", "Bytes of the model that were fetched so far", registry=self.registry
        )
        self._model = Gauge("flash_gate_model_bytes", "Bytes of the model that is fetched", registry=self.registry)
        self._checks = Counter("flash_gate_checks", "Trials of the engine", registry=self.registry)
        self._counted = 0
        self.show(State())

    def show(self, state: State) -> None:
        self._ready.set(state.ready)
        for reason in Reason:
            self._verdict.labels(reason).set(reason == state.verdict.reason)
        self._checks.inc(state.attempts - self._counted)
        self._counted = state.attempts
        traffic = state.serving_health.decode_tokens_per_second
        self._traffic.set(math.nan if traffic is None else traffic)
        self._quarantined.set(state.quarantined)
        self._hung.set(state.hung)
        delivery = state.evidence.delivery
        self._delivered.set(delivery.bytes if delivery else math.nan)
        self._model.set(delivery.total_bytes if delivery else math.nan)
        figures = state.evidence.measurement
        acceptance = figures.acceptance_percent if figures else None
        self._decode.set(figures.decode_tokens_per_second if figures else math.nan)
        self._first_token.set(figures.first_token_millis / 1000 if figures else math.nan)
        self._acceptance.set(math.nan if acceptance is None else acceptance / 100)
