"""The deployments that may be at zero, from the operator's last answer, and the requests that wait for each.

in the operator's table               | here
------------------------------------- | ---------------------------------------------------------------
a new route                           | its port is opened
a route with replicas that serve      | what waits for them goes on
no route any more, for a minute       | its port is closed, and what waits is answered with 503
a port that another deployment had    | refuses for a minute: connections to the former may be on their way
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from flash_contracts.activation import ActivatorReport, ActivatorRoute, HeldRequests
from flash_operator.activator.admission import Name
from flash_operator.activator.refusal import RefusalError, no_deployment, unavailable

ABSENT_SECONDS = 60.0
"""A new leader learns of the deployments one after the other, so its first answers may lack some."""
MOVED_SECONDS = 60.0
REMEMBERED_SECONDS = 300.0
"""How long a deployment is reported to the operator after the last request waited for it."""
AVOIDED_SECONDS = 1.0
"""How long a replica that refused a connection is not asked again."""


@dataclass
class RoutedDeployment:
    """A deployment that may be at zero, with the requests that wait for it."""

    route: ActivatorRoute
    updated_at: float
    moved_at: float = float("-inf")
    """When it got a port that another deployment had."""
    waiting: int = 0
    waited_at: float = float("-inf")
    """When a request last waited."""
    starting_since: float | None = None
    """When the first of those that wait now arrived."""
    last_start_seconds: float | None = None
    """How long the first request waited last time."""
    passing: Counter[str] = field(default_factory=Counter)
    """Requests that are passed on now, by endpoint."""
    avoided: dict[str, float] = field(default_factory=dict)
    """Endpoints that refused a connection, and until when they are avoided."""
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when waiting requests must check again."""
    stopped: RefusalError | None = None
    """Why nothing waits any more, though it is still passed on if a replica serves."""
    ended: RefusalError | None = None
    """Why this is no deployment's any more."""

    @property
    def name(self) -> Name:
        return Name(self.route.namespace, self.route.name)

    def endpoint(self, now: float) -> str | None:
        """The replica with the fewest requests of ours."""
        usable = [one for one in self.route.endpoints if self.avoided.get(one, 0.0) <= now]
        return min(usable, key=lambda one: self.passing[one], default=None)

    def notify(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()

    def explanation(self, now: float) -> str:
        """The message to a client whose request has waited too long."""
        waited = f"{now - self.starting_since:.0f} s ago" if self.starting_since is not None else "just now"
        usual = self.last_start_seconds
        last = "No start was timed here yet" if usual is None else f"The last start took {usual:.0f} s"
        return (
            f"{self.name} has no replica that serves; one is being started, asked for {waited}. {last}; "
            f"it may take up to {self.route.start_seconds:.0f} s. Send the request again."
        )


class Deployments:
    """All of them, by port."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._by_port: dict[int, RoutedDeployment] = {}
        self.has_routes = False
        """Whether the operator has answered yet."""
        self._stopped: Callable[[str], RefusalError] | None = None

    def __len__(self) -> int:
        return len(self._by_port)

    @property
    def waiting(self) -> int:
        return sum(one.waiting for one in self._by_port.values())

    @property
    def ports(self) -> frozenset[int]:
        return frozenset(self._by_port)

    def at(self, port: int) -> RoutedDeployment:
        """The deployment of this port. Raises RefusalError if there is none, or if it was another's a moment ago."""
        found = self._by_port.get(port)
        if found is None:
            raise no_deployment()
        if self.clock() - found.moved_at < MOVED_SECONDS:
            message = (
                f"this port of the activator was another deployment's until a moment ago, and is {found.name}'s now"
            )
            raise unavailable("port_moved", message)
        return found

    def update(self, routes: Iterable[ActivatorRoute]) -> None:
        """Takes the operator's answer."""
        now, self.has_routes = self.clock(), True
        for route in routes:
            self._take(route, now)
        for port, one in list(self._by_port.items()):
            if now - one.updated_at >= ABSENT_SECONDS:
                self._end(port, no_deployment())

    def stop(self, why: Callable[[str], RefusalError]) -> None:
        """Refuses all requests that wait, now and later."""
        self._stopped = why
        for one in self._by_port.values():
            one.stopped = why(str(one.name))
            one.notify()

    def report(self) -> ActivatorReport:
        now = self.clock()
        recent = (one for one in self._by_port.values() if one.waiting or now - one.waited_at < REMEMBERED_SECONDS)
        held = (
            HeldRequests(*one.name, one.waiting, 0.0 if one.waiting else round(now - one.waited_at, 3))
            for one in recent
        )
        return ActivatorReport(tuple(sorted(held, key=lambda one: (one.namespace, one.name))))

    def _take(self, route: ActivatorRoute, now: float) -> None:
        known = self._by_port.get(route.port)
        name = Name(route.namespace, route.name)
        if known is None or known.name != name:
            if known is not None:
                self._end(route.port, no_deployment())
            self._leave_former_port(name)
            made = RoutedDeployment(route, now, moved_at=now if known is not None else float("-inf"))
            made.stopped = self._stopped(str(name)) if self._stopped else None
            self._by_port[route.port] = made
            return
        had = known.route.endpoints
        known.route, known.updated_at = route, now
        if route.endpoints != had:
            known.avoided.clear()
            known.notify()
        if route.endpoints and known.starting_since is not None:
            known.last_start_seconds, known.starting_since = now - known.starting_since, None

    def _leave_former_port(self, name: Name) -> None:
        for port in [port for port, one in self._by_port.items() if one.name == name]:
            self._end(port, no_deployment())

    def _end(self, port: int, why: RefusalError) -> None:
        gone = self._by_port.pop(port)
        gone.ended = why
        gone.notify()
