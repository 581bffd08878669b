"""Bounds what the activator holds: requests in all, requests for one deployment, and bytes of their bodies.

A request counts from its arrival until it is answered, so that connections to replicas are bounded too.
"""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

from flash_operator.activator.refusal import full, too_large


class Name(NamedTuple):
    """Namespace and name of a deployment."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True)
class Limits:
    """Bounds of one activator."""

    requests: int
    requests_of_one: int
    """For one deployment, so that no tenant keeps the others out."""
    body_bytes: int
    """Of one request."""
    total_bytes: int
    """Of all bodies that are held."""


class Admission:
    """Counts what is held."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.bytes = 0
        self._requests: Counter[Name] = Counter()
        self.empty = asyncio.Event()
        """Set while nothing is held."""
        self.empty.set()

    @property
    def requests(self) -> int:
        return self._requests.total()

    @contextmanager
    def place(self, name: Name) -> Iterator["Place"]:
        """A place for one request, and for the body that it brings. Raises RefusalError."""
        if self._requests[name] >= self.limits.requests_of_one:
            raise full(f"{self._requests[name]} requests for {name} are waiting already, which is the most")
        if self.requests >= self.limits.requests:
            raise full(f"{self.requests} requests are waiting already, which is the most for all deployments together")
        self._requests[name] += 1
        self.empty.clear()
        place = Place(self)
        try:
            yield place
        finally:
            self.bytes -= place.bytes
            self._requests[name] -= 1
            if not self._requests[name]:
                del self._requests[name]
            if not self._requests:
                self.empty.set()


class Place:
    """What one request takes."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self.bytes = 0

    def take(self, more: int) -> None:
        """Room for more bytes of the body. Raises RefusalError."""
        limits = self._admission.limits
        if self.bytes + more > limits.body_bytes:
            raise too_large(limits.body_bytes)
        if self._admission.bytes + more > limits.total_bytes:
            raise full(f"the requests that are waiting have {self._admission.bytes} bytes, which is nearly the most")
        self.bytes += more
        self._admission.bytes += more
