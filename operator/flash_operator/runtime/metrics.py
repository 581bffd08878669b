"""The operator's metrics, named like controller-runtime's."""

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

PREFIX = "flash_operator"


class Metrics:
    """Metrics in their own registry, so that tests can have several."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._reconciles = Counter(f"{PREFIX}_reconcile", "Reconciles by result", ["result"], registry=self.registry)
        self._seconds = Histogram(f"{PREFIX}_reconcile_seconds", "Time of a reconcile", registry=self.registry)
        self.queue_depth = Gauge(f"{PREFIX}_workqueue_depth", "Deployments waiting for work", registry=self.registry)
        self.queue_failing = Gauge(
            f"{PREFIX}_workqueue_failing", "Deployments whose last reconcile failed", registry=self.registry
        )
        self.leader = Gauge(f"{PREFIX}_leader", "1 while this process leads", registry=self.registry)
        self.api_writes = Gauge(f"{PREFIX}_api_writes", "Write requests, except for Leases", registry=self.registry)
        self.api_reads = Gauge(
            f"{PREFIX}_api_reads", "Read requests, except for Leases and watches", registry=self.registry
        )
        self._resync = Gauge(
            f"{PREFIX}_last_resync_timestamp_seconds", "When all deployments were last listed", registry=self.registry
        )
        self.last_resync = time.monotonic()

    def reconciled(self, result: str, seconds: float) -> None:
        self._reconciles.labels(result).inc()
        self._seconds.observe(seconds)

    def resynced(self) -> None:
        self.last_resync = time.monotonic()
        self._resync.set_to_current_time()

    def text(self) -> bytes:
        return generate_latest(self.registry)
