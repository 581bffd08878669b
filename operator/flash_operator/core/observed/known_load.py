"""What a gate last reported about the requests on its engine."""

from dataclasses import dataclass

from flash_contracts.gate_result import RequestLoad

LAST_KNOWN_SECONDS = 120.0
"""How long the last known number of requests of a replica counts. Gates are asked every 5 or 30 s, and read their
engines' gauges every `readiness.serving.watchSeconds`, at most 60."""


@dataclass(frozen=True)
class KnownLoad:
    """A gate's report, and how long ago the operator received it."""

    load: RequestLoad
    received_ago: float
    """Seconds by the operator's monotonic clock."""

    @property
    def requests(self) -> int | None:
        """Users' requests. None if the report is too old."""
        age = self.load.age_seconds + self.received_ago
        return self.load.of_users if age <= LAST_KNOWN_SECONDS else None
