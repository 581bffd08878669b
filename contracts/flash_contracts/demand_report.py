"""`GET :8080/demand/NAMESPACE/NAME` of the operator: a deployment's demand, for autoscalers and people."""

from dataclasses import dataclass, field
from typing import ClassVar

from flash_contracts.document import OMITTED, Document


@dataclass(frozen=True)
class DemandReport(Document):
    """How many replicas there are, and how many the requests of users call for.

    Answered with status 503 while `target_replicas` is unknown, so that an autoscaler keeps what there is.
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
    """Replicas that are expected to serve, and do not yet."""
    ready: int
    """Replicas that serve."""
    unknown: int
    """Of these, replicas whose requests are unknown."""
    requests: int
    """Users' requests, running and waiting, on the other ones."""
    demand_replicas: float | None
    """Replicas that these requests call for. None if nothing is known about any."""
    target_replicas: float | None
    """The same as autoscalers are to follow it: never fewer than there are while a replica loads or is unknown."""
    held: int = field(default=0, metadata={OMITTED: True})
    """Requests that wait in the activator for the first replica. They count like those on a replica."""
