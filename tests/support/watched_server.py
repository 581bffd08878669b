"""An API server as its watches show it: objects with versions that grow, a history, and answers that come late.

A model for tests of what is kept in memory. It knows nothing of HTTP.
"""

import copy
from dataclasses import dataclass, field

from flash_operator.core.observed.snapshot import RawObject
from flash_operator.runtime.cluster import Listing

Place = tuple[str, str]
"""Kind and name; all objects are in one namespace."""


@dataclass(frozen=True)
class Change:
    """An event, as a watch of its kind would show it."""

    type: str
    raw: RawObject

    @property
    def version(self) -> int:
        return int(self.raw["metadata"]["resourceVersion"])


@dataclass
class WatchedServer:
    """Objects, and every event since the beginning by kind."""

    version: int = 100
    objects: dict[Place, RawObject] = field(default_factory=dict)
    history: dict[str, list[Change]] = field(default_factory=dict)

    def write(self, raw: RawObject) -> RawObject:
        """Creates or replaces an object. Returns the answer."""
        self.version += 1
        stored = copy.deepcopy(raw)
        stored["metadata"]["resourceVersion"] = str(self.version)
        place = raw["kind"], raw["metadata"]["name"]
        kind = "MODIFIED" if place in self.objects else "ADDED"
        self.objects[place] = stored
        self._happened(Change(kind, stored))
        return stored

    def delete(self, place: Place) -> None:
        self.version += 1
        gone = copy.deepcopy(self.objects.pop(place))
        gone["metadata"]["resourceVersion"] = str(self.version)
        self._happened(Change("DELETED", gone))

    def listing(self, kind: str) -> Listing:
        """A whole list as it is now; it may arrive later."""
        items = [raw for (one, _), raw in sorted(self.objects.items()) if one == kind]
        return Listing(copy.deepcopy(items), str(self.version))

    def of(self, kind: str) -> dict[str, RawObject]:
        return {name: raw for (one, name), raw in self.objects.items() if one == kind}

    def _happened(self, change: Change) -> None:
        self.history.setdefault(change.raw["kind"], []).append(change)
