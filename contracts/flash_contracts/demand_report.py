"""`GET :8080/demand/NAMESPACE/NAME` of the operator: a deployment's demand, for autoscalers and people."""

from dataclasses import dataclass, field
from typing import ClassVar

from flash_contracts.document import OMITTED, Document


@dataclass(frozen=True)
class DemandReport(Document):
    """How many replicas exist, and how many the users' requests need.

    The response has status 503 while `target_replicas` is unknown, so that an autoscaler keeps the current replicas.
    """

    IS_VERSIONED: ClassVar[bool] = True
    WRITER: ClassVar[str] = "operator"
    READERS: ClassVar[tuple[str, ...]] = ("operator",)
    """KEDA reads it too."""

    namespace: str
    name: str
    wanted: int
    """`spec.replicas`."""
    loading: int
    """Replicas that are expected to serve but do not yet."""
    ready: int
    """Replicas that serve."""
    unknown: int
    """Of these, replicas whose requests are unknown."""
    requests: int
    """Users' requests, running and waiting, on the others."""
    demand_replicas: float | None
    """Replicas that these requests need. None if the requests of all replicas are unknown."""
    target_replicas: float | None
    """The value for autoscalers: never below the current replicas while one loads or is unknown."""
    held: int = field(default=0, metadata={OMITTED: True})
    """Requests that wait in the activator for the first replica. They count like those on a replica."""
