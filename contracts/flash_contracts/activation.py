"""The documents that the operator and the activator exchange about deployments that can be scaled to zero.

    document          | where                             | asked for by
    ----------------- | --------------------------------- | -------------------------------------
    `ActivatorRoutes` | `GET :8080/activator/routes`      | each activator, of the operator
    `ActivatorReport` | `GET :8080/held` of an activator  | the leading operator, of each activator

Each side gets the other's address from the cluster or the chart, so nobody can pose as the other.
"""

from dataclasses import dataclass
from typing import ClassVar

from flash_contracts.document import Document

FIRST_PORT = 20000
PORTS = 1000
"""Ports of an activator. Each belongs to one deployment, and identifies it."""

CONTROL_PORT = 8080
"""Its port for health, metrics and `/held`."""


@dataclass(frozen=True)
class ActivatorRoute(Document):
    """One deployment that may be at zero."""

    namespace: str
    name: str
    port: int
    """Requests that arrive at this port of an activator are for this deployment only."""
    endpoints: tuple[str, ...] = ()
    """HOST:PORT of the replicas that serve."""
    hold_seconds: float = 600.0
    """How long a request may wait for the first of them."""
    start_seconds: float = 600.0
    """How long a start may take before it is called failed."""


@dataclass(frozen=True)
class ActivatorRoutes(Document):
    """All deployments that may be at zero."""

    IS_VERSIONED: ClassVar[bool] = True
    WRITER: ClassVar[str] = "operator"
    READERS: ClassVar[tuple[str, ...]] = ("activator",)

    routes: tuple[ActivatorRoute, ...] = ()


@dataclass(frozen=True)
class HeldRequests(Document):
    """Requests for one deployment that wait in one activator."""

    namespace: str
    name: str
    waiting: int
    last_seconds: float
    """How long ago one last waited; 0 while one does."""


@dataclass(frozen=True)
class ActivatorReport(Document):
    """What waits in one activator. A deployment for which nothing has waited for a while is left out."""

    IS_VERSIONED: ClassVar[bool] = True
    WRITER: ClassVar[str] = "activator"
    READERS: ClassVar[tuple[str, ...]] = ("operator",)

    held: tuple[HeldRequests, ...] = ()
