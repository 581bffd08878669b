"""The operator's metrics of itself, named like controller-runtime's.

Those of deployments and nodes are computed for each scrape: in `demand_board` and `deployment_collector`. All are
defined in tables, from which docs/metrics.md is made.
"""

import asyncio
import time
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, ProcessCollector, generate_latest
from prometheus_client.registry import Collector

from flash_contracts.metric_definition import MetricDefinition
from flash_operator.runtime.keys import FlashKey, Key

PREFIX = "flash_operator"

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

RECONCILES = MetricDefinition(
    f"{PREFIX}_reconcile_seconds",
    "histogram",
    "Time of a reconcile, by kind (Deployment or Node) and result: success, error (the API server refused something or "
    "was away) or bug",
    ("kind", "result"),
    most=f"6, of {len(BUCKETS) + 3} lines each",
)
API_REQUESTS = MetricDefinition(
    f"{PREFIX}_api_requests_total",
    "counter",
    "Requests to the API server that have ended, except for kopf's watches; the code is HTTP's, or unanswered; the "
    "verb is Kubernetes', or dry-run",
    ("verb", "resource", "code"),
    most="one for each code of some 45 pairs of verb and resource",
)
GATE_LOOKS = MetricDefinition(
    f"{PREFIX}_gate_looks_total",
    "counter",
    "Requests to gates by result: answered, timeout, or failed (no connection, or no result in the answer)",
    ("result",),
    most="3",
)
LEADER = MetricDefinition(f"{PREFIX}_leader", "gauge", "1 while this process leads")
DEPTH = MetricDefinition(f"{PREFIX}_workqueue_depth", "gauge", "Deployments and nodes that wait for a worker")
OLDEST = MetricDefinition(
    f"{PREFIX}_workqueue_oldest_seconds", "gauge", "How long the one that has waited longest has waited for a worker"
)
FAILING = MetricDefinition(
    f"{PREFIX}_workqueue_failing", "gauge", "Deployments and nodes whose last reconcile failed; they are tried again"
)
RESYNC = MetricDefinition(
    f"{PREFIX}_last_resync_timestamp_seconds", "gauge", "When all deployments were last listed; 0 in a standby"
)
DEFINITIONS = (RECONCILES, API_REQUESTS, GATE_LOOKS, LEADER, DEPTH, OLDEST, FAILING, RESYNC)


class Metrics:
    """Metrics in their own registry, so that tests can have several."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._reconciles = Histogram(
            RECONCILES.name, RECONCILES.text, RECONCILES.labels, buckets=BUCKETS, registry=self.registry
        )
        self._requests = self._counter(API_REQUESTS)
        self._looks = self._counter(GATE_LOOKS)
        self.leader = self._gauge(LEADER)
        self.queue_depth = self._gauge(DEPTH)
        self.queue_oldest = self._gauge(OLDEST)
        self.queue_failing = self._gauge(FAILING)
        self._resync = self._gauge(RESYNC)
        self.last_resync = time.monotonic()

    def _gauge(self, definition: MetricDefinition) -> Gauge:
        return Gauge(definition.name, definition.text, definition.labels, registry=self.registry)

    def _counter(self, definition: MetricDefinition) -> Counter:
        return Counter(definition.name, definition.text, definition.labels, registry=self.registry)

    def reconciled(self, key: Key, result: str, seconds: float) -> None:
        kind = "Deployment" if isinstance(key, FlashKey) else "Node"
        self._reconciles.labels(kind, result).observe(seconds)

    def requested(self, verb: str, resource: str, code: str) -> None:
        self._requests.labels(verb, resource, code).inc()

    def looked(self, result: str) -> None:
        self._looks.labels(result).inc()

    def resynced(self) -> None:
        self.last_resync = time.monotonic()
        self._resync.set_to_current_time()

    async def text(self) -> bytes:
        """The page. It is written in a thread: with the most deployments that takes half a second of CPU.

        The figures are collected before, in the event loop, because nothing else may read what they come from.
        """
        collected = CollectorRegistry()
        collected.register(_Collected(list(self.registry.collect())))
        return await asyncio.to_thread(generate_latest, collected)


class _Collected(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families
