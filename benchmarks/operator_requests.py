"""What an operator has asked of the API server, from its page of metrics."""

from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

from flash_operator.runtime.api_requests import WRITES
from flash_operator.runtime.metrics import API_REQUESTS


@dataclass(frozen=True)
class Requests:
    """Without those for Leases, which are a matter of time, and without watches."""

    reads: int
    """Dry runs among them."""
    writes: int

    @classmethod
    def of(cls, page: str) -> "Requests":
        samples = [sample for family in text_string_to_metric_families(page) for sample in family.samples]
        counted = [sample for sample in samples if sample.name == API_REQUESTS.name]
        ours = [s for s in counted if s.labels["resource"] != "leases" and s.labels["verb"] != "watch"]
        writes = sum(sample.value for sample in ours if sample.labels["verb"] in WRITES)
        return cls(round(sum(sample.value for sample in ours) - writes), round(writes))
