"""The definition of a metric: what the code exposes, docs/metrics.md lists, and rules and dashboards may name."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class MetricDefinition:
    """One metric of one program."""

    name: str
    """As queries name it: a counter ends in `_total`; of a histogram, without `_bucket`, `_sum` and `_count`."""
    kind: Literal["gauge", "counter", "histogram"]
    text: str
    """What it says, in one sentence without a full stop."""
    labels: tuple[str, ...] = ()
    most: str = "1"
    """The most series that one process has of it."""

    @property
    def family(self) -> str:
        """The name as the Prometheus client has it, which adds the suffix of counters itself."""
        return self.name.removesuffix("_total")

    @property
    def names(self) -> tuple[str, ...]:
        """All names that a query may use."""
        parts = ("_bucket", "_sum", "_count")
        return tuple(f"{self.name}{part}" for part in parts) if self.kind == "histogram" else (self.name,)
