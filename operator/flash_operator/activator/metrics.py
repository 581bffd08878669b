"""The activator's metrics. They have no label of a deployment or a client, so their number is bounded."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from flash_operator.activator.admission import Admission
from flash_operator.activator.deployments import Deployments

PREFIX = "flash_activator"
BUCKETS = (0.1, 1, 5, 15, 30, 60, 120, 300, 600, 1200, 3600)


class ActivatorMetrics:
    """In a registry of their own, so that tests can have several."""

    def __init__(self, deployments: Deployments, admission: Admission) -> None:
        self.registry = CollectorRegistry()
        self._ended = Counter(
            f"{PREFIX}_requests",
            "Requests that have ended, by what became of them",
            ["outcome"],
            registry=self.registry,
        )
        self._seconds = Histogram(
            f"{PREFIX}_request_seconds", "Time from arrival to end", buckets=BUCKETS, registry=self.registry
        )
        self._gauge("waiting_requests", "Requests that wait for a replica", lambda: deployments.waiting)
        self._gauge("held_requests", "Requests that wait or are passed on", lambda: admission.requests)
        self._gauge("held_bytes", "Bytes of their bodies", lambda: admission.bytes)
        self._gauge("deployments", "Deployments that may be at zero", lambda: len(deployments))

    def ended(self, outcome: str, seconds: float) -> None:
        self._ended.labels(outcome).inc()
        self._seconds.observe(seconds)

    def text(self) -> bytes:
        return generate_latest(self.registry)

    def _gauge(self, name: str, text: str, value: Callable[[], float]) -> None:
        Gauge(f"{PREFIX}_{name}", text, registry=self.registry).set_function(value)
