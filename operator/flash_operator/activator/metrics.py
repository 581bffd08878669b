"""The activator's metrics. They have no label of a deployment or a client, so their number is bounded."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from flash_contracts.metric_definition import MetricDefinition
from flash_operator.activator.admission import Admission
from flash_operator.activator.deployments import Deployments

PREFIX = "flash_activator"
BUCKETS = (0.1, 1, 5, 15, 30, 60, 120, 300, 600, 1200, 3600)

ENDED = MetricDefinition(
    f"{PREFIX}_requests_total",
    "counter",
    "Requests that have ended, by what became of them",
    ("outcome",),
    most="one for each of the activator's own error codes, passed and left",
)
SECONDS = MetricDefinition(
    f"{PREFIX}_request_seconds", "histogram", "Time from arrival to end", most=f"1, of {len(BUCKETS) + 3} lines"
)
WAITING = MetricDefinition(f"{PREFIX}_waiting_requests", "gauge", "Requests that wait for a replica")
HELD = MetricDefinition(f"{PREFIX}_held_requests", "gauge", "Requests that wait or are passed on")
HELD_BYTES = MetricDefinition(f"{PREFIX}_held_bytes", "gauge", "Bytes of their bodies")
DEPLOYMENTS = MetricDefinition(f"{PREFIX}_deployments", "gauge", "Deployments that may be at zero")
DEFINITIONS = (ENDED, SECONDS, WAITING, HELD, HELD_BYTES, DEPLOYMENTS)


class ActivatorMetrics:
    """In a registry of their own, so that tests can have several."""

    def __init__(self, deployments: Deployments, admission: Admission) -> None:
        self.registry = CollectorRegistry()
        self._ended = Counter(ENDED.name, ENDED.text, ENDED.labels, registry=self.registry)
        self._seconds = Histogram(SECONDS.name, SECONDS.text, buckets=BUCKETS, registry=self.registry)
        self._gauge(WAITING, lambda: deployments.waiting)
        self._gauge(HELD, lambda: admission.requests)
        self._gauge(HELD_BYTES, lambda: admission.bytes)
        self._gauge(DEPLOYMENTS, lambda: len(deployments))

    def ended(self, outcome: str, seconds: float) -> None:
        self._ended.labels(outcome).inc()
        self._seconds.observe(seconds)

    def text(self) -> bytes:
        return generate_latest(self.registry)

    def _gauge(self, definition: MetricDefinition, value: Callable[[], float]) -> None:
        Gauge(definition.name, definition.text, registry=self.registry).set_function(value)
